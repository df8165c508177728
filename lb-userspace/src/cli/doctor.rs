//! `weir doctor`.

use super::{Outcome, context::Context};
use crate::doctor;

pub fn doctor(interfaces: &[String], context: &mut Context<'_>) -> anyhow::Result<Outcome> {
    let report = doctor::run(interfaces);
    context.show(&report, |report, screen| if screen.colour { report.coloured() } else { report.to_string() })?;
    Ok(if report.exit_code() == 0 { Outcome::Done } else { Outcome::Failed })
}
