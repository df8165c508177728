//! Tables at fixed addresses: arrays that the program reads like memory of its own.
//!
//! The kernel tells a program, when it loads it, where the value of an array with one element is. So each of these tables is such
//! an array, and its one value is the whole table. A look-up is a comparison and an addition; one in an array of many elements
//! passes the index by way of the stack, and leaves the program's registers as a call does.
//!
//! In the object the address is an instruction that loads the table's [`mark`](FixedTable::mark); the controller puts the array's
//! file descriptor in its place before the kernel sees it. How many elements the table has, the program has as a constant, which
//! is replaced likewise.

use super::{BackendEntry, Egress, ServiceEntry};
use crate::index::Word;

/// Number of tables.
pub const COUNT: usize = FixedTable::ALL.len();

/// The number of the map of [`counters`](super::counters), after those of all tables. It is no such array: its mark stands for the map itself.
pub const COUNTERS_NUMBER: u32 = FixedTable::Egresses as u32 + 1;

/// Most bytes of a table: the verifier follows no offset beyond (`BPF_MAX_VAR_OFF`).
pub const MOST_BYTES: u32 = 1 << 29;

/// One of the tables, by its number.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedTable {
    /// A word with bits of [`kinds`](super::kinds).
    Kinds,
    /// [`ServiceEntry`] by service id.
    Services,
    /// Services by endpoint, see [`index`](crate::index).
    ServiceIndex,
    /// Backends by the endpoint that their replies come from.
    ReverseIndex,
    /// The slots' places, see [`steady`](super::steady).
    Steady,
    /// [`BackendEntry`] by id.
    Backends,
    /// [`Egress`] by number.
    Egresses,
}

impl FixedTable {
    /// All of them, each at the place of its number.
    pub const ALL: [Self; 7] = [
        Self::Kinds,
        Self::Services,
        Self::ServiceIndex,
        Self::ReverseIndex,
        Self::Steady,
        Self::Backends,
        Self::Egresses,
    ];

    /// What every mark begins with, read from its low end.
    pub const MARK: u32 = 0x5745_4952;

    /// The table's name, as of any other map.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kinds => "KINDS",
            Self::Services => "SERVICES",
            Self::ServiceIndex => "SERVICE_INDEX",
            Self::ReverseIndex => "REVERSE_INDEX",
            Self::Steady => "STEADY",
            Self::Backends => "BACKENDS",
            Self::Egresses => "EGRESSES",
        }
    }

    /// Bytes of an element.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "elements are small")]
    pub const fn element(self) -> u32 {
        let bytes = match self {
            Self::Kinds | Self::Steady => size_of::<u64>(),
            Self::Services => size_of::<ServiceEntry>(),
            Self::ServiceIndex | Self::ReverseIndex => size_of::<Word>(),
            Self::Backends => size_of::<BackendEntry>(),
            Self::Egresses => size_of::<Egress>(),
        };
        bytes as u32
    }

    /// What the program loads where the address of the table with this number belongs.
    #[must_use]
    pub const fn mark(number: u32) -> u64 {
        (number as u64) << 32 | Self::MARK as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_by_its_number() {
        for (number, table) in FixedTable::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, number, "{}", table.name());
        }
    }
}
