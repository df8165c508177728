//! Health checks: what is known about each backend, and the tasks that find out.

mod machine;
mod probe;
mod runner;

use std::time::{Duration, SystemTime};

pub use machine::{Machine, next_check};
pub use probe::{CheckError, Probe, TcpProbe};
pub use runner::{Event, Runner, Target};

/// What is known about a backend's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The last word of the checks.
    pub state: State,
    /// Why it is in this state, such as `connection refused`.
    pub reason: String,
    /// Since when.
    pub since: SystemTime,
    /// Results in a row that led to the state; 0 where no result did.
    pub results: u32,
}

/// How long a backend's answers to successful checks took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// All of them together.
    pub total: Duration,
    /// How many there were.
    pub count: u32,
}

/// The last word of a backend's health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not checked yet; takes no flows.
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}
