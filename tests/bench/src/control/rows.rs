//! What is measured.

use std::fmt;

use super::setting::Setting;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// From the daemon's start to its first answer, without tables from before.
    Cold(Setting),
    /// The same with the tables that an earlier daemon has left.
    Restart(Setting),
    /// Another weight for one backend of one service.
    Weight(Setting),
    /// One backend of one service drains.
    Drain(Setting),
    /// One backend of one service fails its check.
    DeathInOne(Setting),
    /// One backend of all services is out of reach.
    DeathInAll(Setting),
    /// Memory of the kernel's tables and of the daemon.
    Memory(Setting),
    /// CPU of the daemon while nothing happens.
    Idle(Setting),
    /// Reading so many flows, judging them and keeping them.
    SweepAndKeep(u32),
    /// Reading so many flows, judging them and deleting them.
    SweepAndDelete(u32),
}

/// A thousand services that have the same hundred backends.
const MANY: Setting = Setting::new(1000, 100);
/// One service of ten thousand backends.
const LARGE: Setting = Setting::new(1, 10_000);
/// Flows of a large flow table.
const FLOWS: u32 = 1_000_000;

/// Every row, in the order in which they are measured.
#[must_use]
pub fn all() -> Vec<Row> {
    vec![
        Row::Cold(Setting::EMPTY),
        Row::Cold(MANY),
        Row::Cold(MANY.own()),
        Row::Cold(LARGE),
        Row::Restart(MANY),
        Row::Weight(MANY),
        Row::Weight(MANY.own()),
        Row::Drain(MANY),
        Row::Weight(LARGE),
        Row::DeathInOne(MANY.checked()),
        Row::DeathInAll(MANY),
        Row::Memory(MANY),
        Row::Idle(MANY),
        Row::SweepAndKeep(FLOWS),
        Row::SweepAndDelete(FLOWS),
    ]
}

/// The rows whose names contain all of `filter`.
#[must_use]
pub fn matching(filter: &[String]) -> Vec<Row> {
    crate::select::matching(all(), filter)
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cold(setting) => write!(f, "cold/{setting}"),
            Self::Restart(setting) => write!(f, "restart/{setting}"),
            Self::Weight(setting) => write!(f, "weight/{setting}"),
            Self::Drain(setting) => write!(f, "drain/{setting}"),
            Self::DeathInOne(setting) => write!(f, "death-in-one/{setting}"),
            Self::DeathInAll(setting) => write!(f, "death-in-all/{setting}"),
            Self::Memory(setting) => write!(f, "memory/{setting}"),
            Self::Idle(setting) => write!(f, "idle/{setting}"),
            Self::SweepAndKeep(flows) => write!(f, "sweep/keep/{flows}"),
            Self::SweepAndDelete(flows) => write!(f, "sweep/delete/{flows}"),
        }
    }
}
