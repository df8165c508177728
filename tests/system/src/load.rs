//! Services under load, and where their daemon pins what it has in the kernel.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use weir_lab::{
    Family, Lab, TCP_LINE_PORT,
    client::steady::{Steady, Story},
    config::Service,
};

/// `web` on both families' first VIPs, and `lines` on IPv4.
#[must_use]
pub fn services(lab: &Lab) -> [Service; 3] {
    let lines = Service { port: Some(TCP_LINE_PORT), ..lab.service("lines", Family::V4) };
    [lab.service("web", Family::V4), lab.service("web6", Family::V6), lines]
}

/// Requests to `web` of this family, from three workers that pause for 10 ms.
#[must_use]
pub fn load(lab: &Lab, family: Family) -> Steady {
    Steady::start(lab, SocketAddr::new(family.vip(1), 80), 3, Duration::from_millis(10))
}

/// No request has failed.
///
/// # Errors
/// Some have, or there was none.
pub fn nothing_fails(story: &Story) -> Result<()> {
    let first = story.0.first().context("no request")?;
    let failed: Vec<_> =
        story.failed().map(|request| (request.at - first.at, request.took, request.answer.as_ref().err())).collect();
    ensure!(failed.is_empty(), "{} of {} failed (when, how long, why): {failed:?}", failed.len(), story.0.len());
    Ok(())
}

/// Where the lab's daemon has its pins.
#[must_use]
pub fn pins(lab: &Lab) -> PathBuf {
    Path::new("/sys/fs/bpf/weir").join(lab.id())
}
