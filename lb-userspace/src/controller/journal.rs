//! The journal: runtime changes on disk, one line each, so that keeping one costs what the change does and not what the
//! configuration does.
//!
//! The first line says what the changes begin with: the digest of the state file or, where there is none, of the
//! configuration file. A journal that begins with something else is about the past: its changes are in the state file, or
//! the configuration file has changed. Every line begins with a digest of its own, so that one which a power failure cut
//! short is known: nobody was told that it was kept.

use std::{
    fs::{self, File},
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    edit::Edit,
    saved::{hex, remove},
};

/// Changes after which a journal is long: to go through them takes a start a fraction of a second.
const LONG: usize = 1024;
/// Hexadecimal digits of a line's digest.
const DIGEST: usize = 16;

/// The journal file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// What its changes begin with.
    base: String,
    /// Length of what is right in the file, bytes; 0 if there is to be a new one.
    length: u64,
    /// The length without the last change.
    before: u64,
    changes: usize,
}

impl Journal {
    /// The journal that is, or will be, at `path`.
    #[must_use]
    pub const fn at(path: PathBuf) -> Self {
        Self { path, base: String::new(), length: 0, before: 0, changes: 0 }
    }

    /// Goes on with the journal if it begins with `base`: its changes. `None` if it begins with something else.
    ///
    /// # Errors
    /// The file can't be read, or is damaged elsewhere than at its end.
    pub fn open(&mut self, base: &str) -> anyhow::Result<Option<Vec<Edit>>> {
        base.clone_into(&mut self.base);
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Vec::new())),
            Err(error) => return Err(self.unusable(&error.to_string())),
        };
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let Some(first) = lines.next() else { return Ok(Some(Vec::new())) };
        match parse::<String>(first) {
            Some(begins_with) if begins_with == base => {}
            Some(_) => return Ok(None),
            // It is written together with the first change.
            None if lines.count() <= 1 => return Ok(Some(Vec::new())),
            None => return Err(self.unusable("line 1 is damaged")),
        }
        let mut length = first.len();
        let mut edits = Vec::new();
        while let Some(line) = lines.next() {
            let Some(edit) = parse(line) else {
                if lines.next().is_some() {
                    return Err(self.unusable(&format!("line {} is damaged", edits.len() + 2)));
                }
                break;
            };
            edits.push(edit);
            length += line.len();
        }
        (self.length, self.changes) = (length as u64, edits.len());
        Ok(Some(edits))
    }

    /// Begins anew, with changes of `base`. What is there becomes a journal about the past, and is removed.
    pub fn begin(&mut self, base: String) -> anyhow::Result<()> {
        *self = Self { base, ..Self::at(std::mem::take(&mut self.path)) };
        remove(&self.path)
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

    /// Takes back the change that was added last.
    pub fn take_back(&mut self) -> anyhow::Result<()> {
        let shorten = || {
            let file = File::options().write(true).open(&self.path)?;
            file.set_len(self.before)?;
            file.sync_all()
        };
        shorten().with_context(|| format!("can't take the change back from {}", self.path.display()))?;
        self.length = self.before;
        self.changes = self.changes.saturating_sub(1);
        Ok(())
    }

    /// Whether it is time to begin anew.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.changes >= LONG
    }

    /// Says why it can't be used, and what to do about it.
    pub fn unusable(&self, why: &str) -> anyhow::Error {
        anyhow!(
            "the journal {} can't be used: {why}\nIt holds changes that were made while the daemon ran. Mend it, or move it \
             away to start without them.",
            self.path.display()
        )
    }

    /// Puts `lines` after what is right in the file.
    fn write(&self, lines: &[u8], is_new: bool) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        if is_new {
            fs::create_dir_all(directory)?;
        }
        let mut file = File::options().create(true).write(true).truncate(false).open(&self.path)?;
        file.set_len(self.length)?;
        file.seek(SeekFrom::Start(self.length))?;
        file.write_all(lines)?;
        file.sync_all()?;
        if is_new { File::open(directory)?.sync_all() } else { Ok(()) }
    }
}

/// A line of the journal: its digest, a blank, and `what` as JSON.
fn line<T: Serialize>(what: &T) -> anyhow::Result<Vec<u8>> {
    let json = serde_json::to_string(what).context("can't write a change as JSON")?;
    Ok(format!("{} {json}\n", digest(json.as_bytes())).into_bytes())
}

/// What a whole and undamaged line holds.
fn parse<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (digest_of_line, json) = line.strip_suffix(b"\n")?.split_at_checked(DIGEST)?;
    let json = json.strip_prefix(b" ")?;
    if digest_of_line != digest(json).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

fn digest(bytes: &[u8]) -> String {
    let mut digest = hex(&Sha256::digest(bytes));
    digest.truncate(DIGEST);
    digest
}
