//! Where programs and maps stay while no daemon runs.
//!
//! ```text
//! /sys/fs/bpf/weir/<instance>/maps/<MAP>
//! /sys/fs/bpf/weir/<instance>/links/<interface>,<index>,<mode>
//! ```

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, ensure};
use aya::maps::{MapData, MapInfo};
use lb_common::abi::{CounterLayout, Settings, fixed::FixedTable};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tracing::warn;

use super::{Link, Residence, bpf::detach, counters, ensure_bpffs, fixed, maps, settings};
use crate::tables::Capacity;

/// Root of the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";

/// The pins of one instance.
#[derive(Clone, Debug)]
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// The pins of `instance`.
    #[must_use]
    pub fn of(instance: &str) -> Self {
        Self { directory: Path::new(BPFFS).join("weir").join(instance) }
    }

    /// Directory that holds them.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the map `name` is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    /// Where `link` is pinned.
    pub(super) fn link(&self, link: &Link) -> PathBuf {
        self.links_directory().join(link.pin_name())
    }

    fn links_directory(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// Makes the directory, and keeps other processes from these pins until the answer is dropped.
    ///
    /// # Errors
    /// Another process has them: a daemon of this instance, whatever its socket. Or there is no BPF file system.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        ensure_bpffs(Path::new(BPFFS))?;
        let path = self.directory.display();
        fs::create_dir_all(&self.directory).with_context(|| format!("cannot create {path}"))?;
        let directory = File::open(&self.directory).with_context(|| format!("cannot open {path}"))?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _directory: directory }),
            Err(Errno::WOULDBLOCK) => Err(anyhow!(
                "another daemon works with {path}: give each its own node.instance, or talk to that one with --socket"
            )),
            Err(error) => Err(error).with_context(|| format!("cannot lock {path}")),
        }
    }

    pub(super) fn make_directories(&self) -> anyhow::Result<()> {
        for directory in [self.directory.join("maps"), self.links_directory()] {
            fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        }
        Ok(())
    }

    /// What the pinned maps were made with; `None` where there are none, or only those of a start that did not
    /// finish.
    ///
    /// # Errors
    /// They have another layout than this program's.
    pub(super) fn settings(&self) -> anyhow::Result<Option<Settings>> {
        let path = self.map("SETTINGS");
        if !path.exists() {
            return Ok(None);
        }
        settings::read(&path).with_context(|| format!("the tables in {}", self.directory.display()))
    }

    /// Checks that the pinned maps have the sizes that `capacity` asks for.
    pub(super) fn check_sizes(&self, capacity: &Capacity) -> anyhow::Result<()> {
        for (name, wanted) in maps::sizes(capacity) {
            self.check_size(name, wanted, MapInfo::max_entries)?;
        }
        for (table, wanted) in FixedTable::ALL.into_iter().zip(fixed::lengths(capacity)) {
            self.check_size(table.name(), wanted, |info| info.value_size() / table.element())?;
        }
        let counters = counters::layout(capacity, Residence::Pinned(self));
        self.check_size(CounterLayout::NAME, u32::try_from(counters.bytes())?, MapInfo::value_size)?;
        Ok(())
    }

    fn check_size(&self, name: &str, wanted: u32, room: impl Fn(&MapInfo) -> u32) -> anyhow::Result<()> {
        let pin = self.map(name);
        let map = MapData::from_pin(&pin).with_context(|| format!("cannot open {}", pin.display()))?;
        let found = room(&map.info()?);
        ensure!(
            found == wanted,
            "the pinned tables have other sizes than [node.tables]; they can only change after `weir detach`, \
             which stops forwarding: {name}: room for {found} pinned, for {wanted} configured"
        );
        Ok(())
    }

    /// Removes what a start that did not finish left; nothing can be attached yet then.
    pub(super) fn remove_unfinished(&self) -> anyhow::Result<()> {
        if !list(&self.directory)?.is_empty() {
            warn!("{}: removing pins of a start that did not finish", self.directory.display());
            self.remove_contents()?;
        }
        Ok(())
    }

    /// The links that are pinned.
    pub(crate) fn links(&self) -> anyhow::Result<Vec<Link>> {
        let mut links = Vec::new();
        for name in list(&self.links_directory())? {
            if let Some(link) = Link::from_pin_name(&name) {
                links.push(link);
            } else {
                warn!("{}/{name}: not a pin of weir's", self.links_directory().display());
            }
        }
        Ok(links)
    }

    /// Detaches `link`. Nothing of it runs any more once this returns: the kernel would let go of a link that merely
    /// lost its pin some time later.
    pub(super) fn remove_link(&self, link: &Link) -> anyhow::Result<()> {
        let pin = self.link(link);
        detach(&pin).with_context(|| format!("cannot detach {}", pin.display()))?;
        remove(&pin)
    }

    /// Detaches all programs and removes all maps.
    ///
    /// # Errors
    /// A pin can't be removed.
    pub fn remove_all(&self) -> anyhow::Result<()> {
        self.remove_contents()?;
        remove_directory(&self.directory)
    }

    /// Removes what a first start that failed has made: nothing forwards by it, and the host is to be as it was. If
    /// that fails too the log says so, for the caller has the reason for all of it to report.
    pub(crate) fn abandon(&self) {
        if let Err(error) = self.remove_all() {
            warn!("{}: what a failed start made stays: {error:#}", self.directory.display());
        }
    }

    /// Whatever its layout: a link is detached whatever its pin is called, and what else there is goes too.
    fn remove_contents(&self) -> anyhow::Result<()> {
        for link in self.links()? {
            self.remove_link(&link)?;
        }
        for name in list(&self.links_directory())? {
            let pin = self.links_directory().join(name);
            if let Err(error) = detach(&pin) {
                warn!("{}: not a link: {error}", pin.display());
            }
        }
        for name in list(&self.directory)? {
            let path = self.directory.join(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        Ok(())
    }
}

/// Keeps other processes from the pins of an instance for as long as it lives; see [`Pins::lock`].
#[derive(Debug)]
pub struct Lock {
    /// Locked; closing it unlocks.
    _directory: File,
}

/// Names in `directory`; none if it does not exist.
fn list(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", directory.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", directory.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn remove_directory(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
