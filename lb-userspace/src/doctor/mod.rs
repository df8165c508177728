//! `weir doctor`: what this host can do for Weir, what will hurt, and what to do about it.
//!
//! `probe` collects facts and changes nothing: no program is attached, no setting written. [`evaluate`] turns facts
//! into findings and is pure. Whatever can't be found out, in a container for instance, is a finding, not an error.

pub mod evaluate;
pub mod facts;
mod netlink;
mod probe;
mod report;

pub use report::{Finding, Level, Report};

/// Examines the host and `interfaces`; without any, every Ethernet interface that is up and stands alone.
#[must_use]
pub fn run(interfaces: &[String]) -> Report {
    evaluate::report(&probe::facts(interfaces))
}
