//! `weir upgrade`: the daemon becomes another binary, in the same process, and goes back if that one can't take over.
//!
//! 1. [`preflight`]: the other binary itself loads its program over the pinned tables, unattached, and tests it.
//! 2. The controller ends and leaves the data plane as it is; the process executes the other binary ([`baton`]), handing
//!    it the way back: the executable that it was, and the configuration that it ran with.
//! 3. The new daemon starts as any does. If it fails before it is ready, it executes the old one again.
//!
//! Packets are forwarded all the time, by the program that is attached.

pub mod baton;
pub mod preflight;
mod trust;

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use tracing::{info, warn};

use crate::api::{
    control::{ControlError, Upgrader},
    types::{Upgrading, unix_ms},
};

/// This version of Weir.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the daemon is to become.
#[derive(Debug)]
pub struct Next {
    /// The binary, which has passed its preflight.
    pub binary: PathBuf,
    /// What it calls its version.
    pub version: String,
    /// When it was decided, Unix time in milliseconds.
    pub at_unix_ms: u64,
}

/// What the API asks for upgrades.
#[derive(Debug)]
pub struct Upgrades {
    config: PathBuf,
    next: mpsc::Sender<Next>,
    /// Held during a preflight.
    busy: Mutex<()>,
}

impl Upgrades {
    /// Upgrades of the daemon with this configuration file; what it is to become comes by the receiver.
    pub fn new(config: &Path) -> (Self, mpsc::Receiver<Next>) {
        let (next, decided) = mpsc::channel(1);
        (Self { config: config.to_owned(), next, busy: Mutex::new(()) }, decided)
    }
}

#[async_trait]
impl Upgrader for Upgrades {
    async fn upgrade(&self, binary: &Path) -> Result<Upgrading, ControlError> {
        let under_way = || ControlError::Conflict("an upgrade is under way".to_owned());
        let _busy = self.busy.try_lock().map_err(|_| under_way())?;
        let binary = trust::check(binary).map_err(|why| ControlError::Invalid(vec![format!("binary: {why:#}")]))?;
        info!("upgrade to {}: preflight", binary.display());
        let passed = preflight::ask(&binary, &self.config).await.map_err(|why| {
            warn!("not upgraded: the preflight of {} failed: {why:#}", binary.display());
            ControlError::Conflict(format!("the preflight of {} failed: {why:#}", binary.display()))
        })?;
        info!("upgrade to {}: version {}, {} packets tested", binary.display(), passed.weir, passed.packets);
        let at_unix_ms = unix_ms(SystemTime::now());
        let next = Next { binary, version: passed.weir.clone(), at_unix_ms };
        self.next.try_send(next).map_err(|_| under_way())?;
        let (from, to) = (VERSION.to_owned(), passed.weir);
        Ok(Upgrading { at_unix_ms, pid: std::process::id(), from, to, packets: passed.packets })
    }
}
