//! Runtime changes that outlive the daemon: the state file with its journal, and what a daemon starts from.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::{
    edit::Edit,
    journal::{Base, Journal},
};
use crate::{
    config::{self, raw},
    spec::{Backend, Service, Spec},
};

/// What a daemon starts from: the configuration file, with the runtime changes that were made on top of it.
#[derive(Debug)]
pub struct Start {
    /// The configuration file.
    pub config: PathBuf,
    /// What it held.
    pub text: Vec<u8>,
    /// The configuration.
    pub spec: Spec,
    /// Where runtime changes are kept.
    pub store: Store,
    /// The state file was made for another version of the configuration file and is to go.
    pub outdated: bool,
}

/// What keeps runtime changes. A change is a line that is added to the journal; when that is long, the state file takes in
/// all services as they are then, and a new journal begins.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    digest: String,
    journal: Journal,
    /// The state file was replaced, and whether the disk has that is not known: nothing can be kept any more.
    unsure: bool,
}

/// What the state file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// SHA-256 of the configuration file, hexadecimal.
    config_sha256: String,
    /// How many journals it has taken in: which one goes on from here.
    folded: u64,
    /// Every service.
    #[serde(default, rename = "service")]
    services: Vec<raw::Service>,
}

const HEADER: &str = "\
# Services of Weir as runtime changes (`weir backend drain` and the like) have left them, kept by the daemon.
# It goes on from here as long as the configuration file is the one that it started with; a changed file wins.
";

impl Start {
    /// Reads the configuration file at `config` and the state file that belongs to it.
    ///
    /// # Errors
    /// Either can't be read or has something wrong in it; for the state file the error says what to do about it.
    pub fn load(config: &Path) -> anyhow::Result<Self> {
        let text = fs::read(config).with_context(|| format!("{}: can't read it", config.display()))?;
        Self::with(config, text)
    }

    /// The same with `text` in place of what is in the file.
    pub fn with(config: &Path, text: Vec<u8>) -> anyhow::Result<Self> {
        let mut spec = config::parse_bytes(&text, &config.display().to_string())?;
        let directory = spec.node.state_dir.clone();
        let (digest, journal) = (hex(&Sha256::digest(&text)), Journal::at(directory.join("journal")));
        let mut store = Store { path: directory.join("state.toml"), digest, journal, unsure: false };
        let outdated = match store.load()? {
            None => {
                let edits = store.journal.open(store.base(0))?;
                if let Some(edits) = &edits {
                    let file = spec.clone();
                    store.replay(&mut spec, edits)?;
                    store.tell_resumed(&file, &spec);
                } else {
                    store.tell_dropped(config, "they are of the file as it was");
                }
                edits.is_none()
            }
            Some(saved) => {
                let (folded, current) = (saved.folded, saved.config_sha256 == store.digest);
                let raw = raw::Config { node: raw::Node::from(&spec.node), services: saved.services };
                match (config::validate(&raw), current) {
                    (Ok(saved), true) => {
                        let edits = store.journal.open(store.base(folded))?.unwrap_or_default();
                        let file = std::mem::replace(&mut spec, saved);
                        store.replay(&mut spec, &edits)?;
                        store.tell_resumed(&file, &spec);
                    }
                    (Err(problems), true) => {
                        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                        return Err(store.unusable(&problems.join("; ")));
                    }
                    (saved, false) => store.give_way(config, &spec, saved.ok().as_ref()),
                }
                !current
            }
        };
        Ok(Self { config: config.to_owned(), text, spec, store, outdated })
    }
}

impl Store {
    /// Keeps a change, on disk by the time it returns.
    pub fn append(&mut self, edit: &Edit) -> anyhow::Result<()> {
        ensure!(
            !self.unsure,
            "changes can't be kept: writing {} failed half-way; restart the daemon when the disk is well",
            self.path.display()
        );
        self.journal.append(edit)
    }

    /// Takes the change back that was kept last, which has to be one that this process kept.
    pub fn take_back(&mut self) -> anyhow::Result<()> {
        self.journal.take_back()
    }

    /// Whether the journal has become so long that it is time to [save](Self::save).
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.journal.is_long()
    }

    /// Whether everything that was kept is in the state file, or in the configuration file.
    #[must_use]
    pub const fn is_folded(&self) -> bool {
        self.journal.is_empty()
    }

    /// Keeps the services of `spec`, on disk by the time it returns, and begins a new journal.
    ///
    /// The file is replaced as a whole: it is the old one or the new one, whenever the power fails. The journal tells which
    /// of them it goes on from.
    pub fn save(&mut self, spec: &Spec) -> anyhow::Result<()> {
        let services = spec.services.iter().map(Into::into).collect();
        let folded = self.journal.folded().saturating_add(1);
        let saved = Saved { config_sha256: self.digest.clone(), folded, services };
        let text = format!("{HEADER}{}", toml::to_string(&saved).context("can't write services as TOML")?);
        let replaced = replace(&self.path, text.as_bytes(), &mut self.unsure);
        replaced.with_context(|| format!("can't save the change in {}", self.path.display()))?;
        self.journal.begin(self.base(folded))
    }

    /// Forgets what was saved.
    pub fn forget(&mut self) -> anyhow::Result<()> {
        remove(&self.path)?;
        self.journal.begin(self.base(0))
    }

    fn base(&self, folded: u64) -> Base {
        Base { config_sha256: self.digest.clone(), folded }
    }

    /// What was saved.
    fn load(&self) -> anyhow::Result<Option<Saved>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.unusable(&error.to_string())),
        };
        toml::from_str(&text).map(Some).map_err(|error| self.unusable(error.to_string().trim_end()))
    }

    fn replay(&self, spec: &mut Spec, edits: &[Edit]) -> anyhow::Result<()> {
        for edit in edits {
            let edited = edit.again(spec);
            edited
                .map_err(|error| self.journal.unusable(&format!("{}: {error}", edit.summary())))?
                .put(&mut spec.services);
        }
        if !edits.is_empty() {
            let problems = config::validate(&raw::Config::from(&*spec)).err().unwrap_or_default();
            if let Some(problem) = problems.first() {
                return Err(self.journal.unusable(&problem.to_string()));
            }
        }
        Ok(())
    }

    fn unusable(&self, why: &str) -> anyhow::Error {
        anyhow!(
            "the state file {} can't be used: {why}\nIt holds changes that were made while the daemon ran. Mend it, or \
             move it away to start from the configuration file alone.",
            self.path.display()
        )
    }

    fn tell_resumed(&self, file: &Spec, now: &Spec) {
        let differences = differences(&file.services, &now.services);
        if !differences.is_empty() {
            info!("going on with the runtime changes saved in {}: {}", self.path.display(), differences.join("; "));
        }
    }

    /// Tells what becomes of runtime changes that were `saved` with another configuration file than `file`.
    fn give_way(&self, config: &Path, file: &Spec, saved: Option<&Spec>) {
        let differences = saved.map(|saved| differences(&file.services, &saved.services));
        match differences.as_deref() {
            None => self.tell_dropped(config, "its services break today's rules"),
            Some([]) => self.tell_dropped(config, "there is none that the file lacks"),
            Some(some) => self.tell_dropped(config, &some.join("; ")),
        }
    }

    fn tell_dropped(&self, config: &Path, what: &str) {
        warn!(
            "{} has changed since runtime changes were saved in {}, so these are dropped: {what}",
            config.display(),
            self.path.display()
        );
    }
}

/// Puts `bytes` in place of the file at `path`. `unsure` is set while it is not known which of them the disk has.
fn replace(path: &Path, bytes: &[u8], unsure: &mut bool) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let directory = File::open(directory)?;
    let next = path.with_extension("toml.new");
    let mut file = File::create(&next)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    *unsure = true;
    fs::rename(&next, path).inspect_err(|_| *unsure = false)?;
    directory.sync_all()?;
    *unsure = false;
    Ok(())
}

/// Removes the file at `path`, if it is there, for good.
pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
    let gone = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.and_then(|()| File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()),
    };
    gone.with_context(|| format!("can't remove {}", path.display()))
}

/// What `saved` has otherwise than `file`, an item for each service or backend.
pub(super) fn differences(file: &[Service], saved: &[Service]) -> Vec<String> {
    let (file, saved) = (by_name(file, |s| &s.name), by_name(saved, |s| &s.name));
    let mut differences = Vec::new();
    for name in file.keys().chain(saved.keys()).collect::<BTreeSet<_>>() {
        match (file.get(name), saved.get(name)) {
            (Some(file), Some(saved)) => {
                let bare = |service: &Service| Service { backends: Vec::new(), ..service.clone() };
                if bare(file) != bare(saved) {
                    differences.push(format!("service {name:?} changed"));
                }
                backend_differences(name, &file.backends, &saved.backends, &mut differences);
            }
            (None, _) => differences.push(format!("service {name:?} added")),
            (_, None) => differences.push(format!("service {name:?} removed")),
        }
    }
    differences
}

fn backend_differences(service: &str, file: &[Backend], saved: &[Backend], differences: &mut Vec<String>) {
    let (file, saved) = (by_name(file, |b| &b.name), by_name(saved, |b| &b.name));
    for name in file.keys().chain(saved.keys()).collect::<BTreeSet<_>>() {
        let what = match (file.get(name), saved.get(name)) {
            (Some(file), Some(saved)) if file == saved => continue,
            (Some(file), Some(saved)) if file.draining != saved.draining => {
                if saved.draining {
                    "draining".to_owned()
                } else {
                    "not draining".to_owned()
                }
            }
            (Some(file), Some(saved)) if file.weight != saved.weight => format!("weight {}", saved.weight),
            (Some(_), Some(_)) => "changed".to_owned(),
            (None, _) => "added".to_owned(),
            (_, None) => "removed".to_owned(),
        };
        differences.push(format!("backend {service}/{name} {what}"));
    }
}

fn by_name<T>(items: &[T], name: impl Fn(&T) -> &String) -> BTreeMap<&str, &T> {
    items.iter().map(|item| (name(item).as_str(), item)).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
