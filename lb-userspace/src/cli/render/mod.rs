//! What commands print for people: aligned columns without borders, numbers to the right.

mod explain;
mod services;
mod stats;
mod status;
mod table;

use std::time::{Duration, SystemTime};

pub use explain::explanation;
pub use services::{backends, service, services};
pub use stats::{View, stats};
pub use status::status;

use super::{Screen, format};
use crate::api::types::{BackendFlows, Change, Detached, LastUpgrade, unix_ms};

/// What a change did, in two lines.
pub fn change(change: &Change, _: Screen) -> String {
    let Change { summary, slots_moved, slots, backends_taking, backends, .. } = change;
    let moved = if *slots == 0 {
        String::new()
    } else {
        format!(
            "{} of {} slots moved ({}); new flows go to {backends_taking} of {}\n",
            format::exact((*slots_moved).into()),
            format::exact((*slots).into()),
            format::percent(format::share((*slots_moved).into(), (*slots).into())),
            format::several((*backends).into(), "backend"),
        )
    };
    format!("{summary}\n{moved}")
}

/// What is left of a draining backend's flows, in one line: `312 flows left, oldest 2h`.
pub fn flows_left(flows: &BackendFlows) -> String {
    let BackendFlows { tracked, oldest_ms, settled } = *flows;
    let at_least = if settled { "" } else { "at least " };
    match (tracked, oldest_ms) {
        (0, _) if settled => "no flows left".to_owned(),
        (0, _) => "no flow seen, silent ones may be left".to_owned(),
        (_, None) => format!("{at_least}{} left", format::several(tracked, "flow")),
        (_, Some(age)) => {
            let age = format::duration(Duration::from_millis(age));
            format!("{at_least}{} left, oldest {age}", format::several(tracked, "flow"))
        }
    }
}

/// Where the program was.
pub fn detached(detached: &Detached, _: Screen) -> String {
    if detached.interfaces.is_empty() {
        "nothing was attached; the tables are removed\n".to_owned()
    } else {
        format!("detached from {}; the tables are removed\n", detached.interfaces.join(", "))
    }
}

/// How an upgrade went, in a line.
pub fn upgrade(upgrade: &LastUpgrade, _: Screen) -> String {
    let LastUpgrade { took_ms, from, to, failure, .. } = upgrade;
    let took = Duration::from_millis(*took_ms).as_secs_f64();
    match failure {
        None => format!("upgraded from {from} to {to} in {took:.1} s; packets were forwarded all the time\n"),
        Some(why) => format!(
            "not upgraded to {to}: {from} goes on after {took:.1} s, packets were forwarded all the time: {why}\n"
        ),
    }
}

/// `2026-01-02T03:04:05Z`, from a Unix time in milliseconds.
pub fn moment(unix_ms: u64) -> String {
    let moment = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(moment).to_string()
}

/// How long ago a Unix time in milliseconds was.
fn ago(at_unix_ms: u64, screen: Screen) -> String {
    format::duration(Duration::from_millis(unix_ms((screen.now)()).saturating_sub(at_unix_ms)))
}
