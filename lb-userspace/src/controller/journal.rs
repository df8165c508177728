//! The journal: runtime changes on disk, one line each, so that keeping one costs what the change does and not what the
//! configuration does.
//!
//! The first line says what the changes go on from ([`Base`]): which configuration file, and how often the state file had
//! taken a journal in. A journal that goes on from another configuration file, or from fewer, is about the past. Every line
//! begins with a digest of its own, so that one which a power failure cut short is known: nobody was told that it was kept.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    edit::Edit,
    saved::{hex, remove},
};

/// Changes after which a journal is long: to go through them takes a start a fraction of a second, seconds where services
/// have thousands of backends.
const LONG: usize = 256;
/// Bytes after which it is.
const LARGE: u64 = 8 << 20;
/// Hexadecimal digits of a line's digest.
const DIGEST: usize = 16;

/// What the changes of a journal go on from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// SHA-256 of the configuration file, hexadecimal.
    pub config_sha256: String,
    /// How many journals the state file has taken in; 0 where there is no state file.
    pub folded: u64,
}

/// What a line is found to be.
enum Line<T> {
    /// Whole, and understood.
    Known(T),
    /// Whole, and not understood: another version of Weir wrote it.
    Foreign,
    /// Not as it was written, or not written to its end.
    Damaged,
}

/// The journal file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    base: Base,
    /// Length of what is right in the file, bytes; 0 if there is to be a new one.
    length: u64,
    /// The length without the last change.
    before: u64,
    changes: usize,
}

impl Journal {
    /// The journal that is, or will be, at `path`.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path, base: Base::default(), length: 0, before: 0, changes: 0 }
    }

    /// Goes on with the journal if it goes on from `base`: its changes. `None` if it is about the past.
    ///
    /// # Errors
    /// The file can't be read, is damaged elsewhere than at its end, is another version's, or goes on from a state file that
    /// is not there.
    pub fn open(&mut self, base: Base) -> anyhow::Result<Option<Vec<Edit>>> {
        self.base = base;
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Vec::new())),
            Err(error) => return Err(self.unusable(&error.to_string())),
        };
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let Some(first) = lines.next() else { return Ok(Some(Vec::new())) };
        match parse::<Base>(first) {
            Line::Known(base) if base == self.base => {}
            Line::Known(base) if base.config_sha256 != self.base.config_sha256 || base.folded < self.base.folded => {
                return Ok(None);
            }
            Line::Known(_) => {
                return Err(self.unusable("it goes on from another state file than the one that is there"));
            }
            Line::Foreign => return Err(self.unusable("another version of Weir wrote line 1")),
            // It is written together with the first change.
            Line::Damaged if lines.all(|line| matches!(parse::<Edit>(line), Line::Damaged)) => {
                return Ok(Some(Vec::new()));
            }
            Line::Damaged => return Err(self.unusable("line 1 is damaged")),
        }
        let mut length = first.len();
        let mut edits = Vec::new();
        while let Some(line) = lines.next() {
            let number = edits.len() + 2;
            match parse(line) {
                Line::Known(edit) => edits.push(edit),
                Line::Foreign => {
                    return Err(self.unusable(&format!("another version of Weir wrote line {number}")));
                }
                Line::Damaged if lines.next().is_some() => {
                    return Err(self.unusable(&format!("line {number} is damaged")));
                }
                Line::Damaged => break,
            }
            length += line.len();
        }
        (self.length, self.changes) = (length as u64, edits.len());
        Ok(Some(edits))
    }

    /// Begins anew, with changes of `base`. What is there becomes a journal about the past, and is removed.
    pub fn begin(&mut self, base: Base) -> anyhow::Result<()> {
        *self = Self { base, ..Self::at(std::mem::take(&mut self.path)) };
        remove(&self.path)
    }

    /// How many journals the state file had taken in when this one began.
    #[must_use]
    pub const fn folded(&self) -> u64 {
        self.base.folded
    }

    /// Whether it holds no change.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Adds a change, on disk by the time it returns.
    pub fn append(&mut self, edit: &Edit) -> anyhow::Result<()> {
        let is_new = self.length == 0;
        let mut lines = if is_new { line(&self.base)? } else { Vec::new() };
        lines.extend(line(edit)?);
        self.write(&lines, is_new).with_context(|| format!("can't save the change in {}", self.path.display()))?;
        self.before = self.length;
        self.length += lines.len() as u64;
        self.changes += 1;
        Ok(())
    }

    /// Takes back the change that was added last. If that fails, the next change is put in its place.
    pub fn take_back(&mut self) -> anyhow::Result<()> {
        self.length = self.before;
        self.changes = self.changes.saturating_sub(1);
        let shorten = || {
            let file = File::options().write(true).open(&self.path)?;
            file.set_len(self.length)?;
            file.sync_all()
        };
        shorten().with_context(|| format!("can't take the change back from {}", self.path.display()))
    }

    /// Whether it is time to begin anew.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.changes >= LONG || self.length >= LARGE
    }

    /// Says why it can't be used, and what to do about it.
    pub fn unusable(&self, why: &str) -> anyhow::Error {
        anyhow!(
            "the journal {} can't be used: {why}\nIt holds changes that were made while the daemon ran. Mend it, or move it \
             away to start without them.",
            self.path.display()
        )
    }

    /// Puts `lines` after what is right in the file. Where that fails, nothing of them stays, as far as the disk allows.
    fn write(&self, lines: &[u8], is_new: bool) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        if is_new {
            fs::create_dir_all(directory)?;
        }
        let directory = File::open(directory)?;
        let mut file = File::options().create(is_new).write(true).truncate(false).open(&self.path)?;
        if file.metadata()?.len() < self.length {
            return Err(io::Error::other("somebody has shortened it; restart the daemon to go on from what it holds"));
        }
        let put = |file: &mut File| {
            file.set_len(self.length)?;
            file.seek(SeekFrom::Start(self.length))?;
            file.write_all(lines)?;
            file.sync_all()?;
            if is_new { directory.sync_all() } else { Ok(()) }
        };
        put(&mut file).inspect_err(|_| {
            let _ = file.set_len(self.length).and_then(|()| file.sync_all());
        })
    }
}

/// A line of the journal: its digest, a blank, and `what` as JSON.
fn line<T: Serialize>(what: &T) -> anyhow::Result<Vec<u8>> {
    let json = serde_json::to_string(what).context("can't write a change as JSON")?;
    Ok(format!("{} {json}\n", digest(json.as_bytes())).into_bytes())
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Line<T> {
    let whole = || {
        let (digest_of_line, json) = line.strip_suffix(b"\n")?.split_at_checked(DIGEST)?;
        let json = json.strip_prefix(b" ")?;
        (digest_of_line == digest(json).as_bytes()).then_some(json)
    };
    match whole().map(serde_json::from_slice) {
        Some(Ok(what)) => Line::Known(what),
        Some(Err(_)) => Line::Foreign,
        None => Line::Damaged,
    }
}

fn digest(bytes: &[u8]) -> String {
    let mut digest = hex(&Sha256::digest(bytes));
    digest.truncate(DIGEST);
    digest
}
