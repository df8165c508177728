//! Every forwarding mode, in both address families.

use std::path::Path;

use anyhow::Result;

use super::{
    screen::{self, Screen, grouped, milliseconds, row},
    services, shape, spread,
};
use crate::{Mode, addresses::Family};

/// Loads a lab of each mode for two seconds in each family.
pub(super) fn all(weir: &Path, screen: &mut Screen) -> Result<()> {
    screen.section("Every forwarding mode, IPv4 and IPv6", "in a lab of its own for each; wrk as above, 2 s");
    let mut rows = vec![row(["mode", "", "requests", "failed", "worst share", "median", "99 %"])];
    let mut checks = Vec::new();
    for mode in Mode::ALL {
        let lab = shape(weir, mode).build()?;
        let _daemon = lab.weir(&lab.config(&services(&lab)))?;
        for family in Family::BOTH {
            let report = spread::measure(&lab, family, 2)?;
            let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
            rows.push(vec![
                mode.name().to_owned(),
                name.to_owned(),
                grouped(report.requests),
                grouped(report.failed()),
                format!("off by {}", spread::percent(spread::worst(&report.by_backend))),
                milliseconds(report.p50_us),
                milliseconds(report.p99_us),
            ]);
            let good = report.failed() == 0 && spread::is_fair(&report.by_backend);
            checks.push((good, format!("{} over {name}: no request failed, shares as the weights say", mode.name())));
        }
    }
    screen::table(&rows);
    for (good, promise) in checks {
        screen.check(good, &promise);
    }
    Ok(())
}
