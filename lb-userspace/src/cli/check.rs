//! `weir check`.

use std::path::Path;

use serde::Serialize;

use super::{Outcome, context::Context, format};
use crate::config;

/// What a good configuration amounts to.
#[derive(Serialize)]
struct Summary<'a> {
    file: &'a Path,
    services: usize,
    backends: usize,
    slots: u64,
    slots_capacity: u32,
}

pub fn check(file: &Path, context: &mut Context<'_>) -> anyhow::Result<Outcome> {
    let spec = match config::load(file) {
        Ok(spec) => spec,
        Err(problems) => {
            // A line for each, in the form that editors jump to.
            writeln!(context.err, "{problems}")?;
            return Ok(Outcome::Failed);
        }
    };
    let summary = Summary {
        file,
        services: spec.services.len(),
        backends: spec.services.iter().map(|service| service.backends.len()).sum(),
        slots: spec.services.iter().map(|service| u64::from(service.slots)).sum(),
        slots_capacity: spec.node.tables.slots,
    };
    context.show(&summary, |summary, _| {
        format!(
            "{}: ok: {}, {}, {} of {} slots\n",
            summary.file.display(),
            format::several(summary.services as u64, "service"),
            format::several(summary.backends as u64, "backend"),
            summary.slots,
            summary.slots_capacity
        )
    })?;
    Ok(Outcome::Done)
}
