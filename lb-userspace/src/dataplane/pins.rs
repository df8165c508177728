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

use anyhow::{Context as _, anyhow};
use aya::maps::{Array, Map, MapData};
use lb_common::abi::Settings;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tracing::warn;

use super::{Link, ensure_bpffs, link::detach, maps::Wire};

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
    pub(super) fn settings(&self) -> anyhow::Result<Option<Settings>> {
        let path = self.map("SETTINGS");
        if !path.exists() {
            return Ok(None);
        }
        let read = || -> anyhow::Result<Settings> {
            let map: Array<MapData, Wire<Settings>> = Map::Array(MapData::from_pin(&path)?).try_into()?;
            Ok(map.get(&0, 0)?.0)
        };
        let settings = read().with_context(|| {
            format!("cannot read {}: pinned by another version of weir? `weir detach` with that one", path.display())
        })?;
        Ok((settings.abi_version != 0).then_some(settings))
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

    fn remove_contents(&self) -> anyhow::Result<()> {
        for link in self.links()? {
            self.remove_link(&link)?;
        }
        for directory in [self.links_directory(), self.directory.join("maps")] {
            for name in list(&directory)? {
                remove(&directory.join(name))?;
            }
            remove_directory(&directory)?;
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
