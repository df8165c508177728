//! From a TOML file to a [`Spec`], or to everything that is wrong with it.
//!
//! Three steps, each of which reports all that it finds: text to document (only the first syntax error), document to
//! raw types ([`raw`]: unknown fields, wrong types, missing fields), raw types to [`Spec`] ([`validate`]: every rule
//! about values). The API enters at the third step, with raw types that came as JSON.

mod locate;
mod problem;
pub mod raw;
mod render;
mod shape;
mod validate;

use std::{fmt, io, path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use locate::Lines;
pub use locate::Position;
pub use problem::{Part, Path, Problem, Segment};
pub use validate::validate;

use crate::spec::Spec;

/// Why a configuration file was refused.
///
/// Displays one problem per line: `weir.toml:12:8: service "web", backend "a": port: expected 1 to 65535, found 70000`.
#[derive(Debug)]
pub enum ConfigError {
    /// It could not be read.
    Unreadable {
        /// The file.
        origin: String,
        /// Why not.
        source: io::Error,
    },
    /// It was read, and something in it is wrong.
    Invalid {
        /// The file.
        origin: String,
        /// What and where, in the order of the file; at least one.
        problems: Vec<(Position, Problem)>,
    },
}

/// Reads and validates the file at `path`.
pub fn load(path: &path::Path) -> Result<Spec, ConfigError> {
    let origin = path.display().to_string();
    match std::fs::read(path) {
        Ok(bytes) => parse_bytes(&bytes, &origin),
        Err(source) => Err(ConfigError::Unreadable { origin, source }),
    }
}

/// Validates `text`, which errors call `origin`.
pub fn parse(text: &str, origin: &str) -> Result<Spec, ConfigError> {
    let lines = Lines::of(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    // What follows the first error in the text is often but a consequence; of two in one place the inner comes last.
    let span = |error: &toml::de::Error| error.span().unwrap_or_default();
    if let Some(error) = errors.iter().rev().min_by_key(|error| span(error).start) {
        let span = span(error);
        let position = lines.position(span.start);
        let found = text.get(span).and_then(|found| found.lines().next()).filter(|found| !found.is_empty());
        let found = found.map_or_else(String::new, |found| format!(" at {found:?}"));
        return Err(ConfigError::one(origin, position, error.message().replace('\n', "; ") + &found));
    }
    let document = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
    shape::read(&document).and_then(|config| validate(&config)).map_err(|problems| {
        let mut located: Vec<_> =
            problems.into_iter().map(|problem| (locate::offset(&document, &problem), problem)).collect();
        located.sort_by_key(|(offset, _)| *offset);
        let problems = located.into_iter().map(|(offset, problem)| (lines.position(offset), problem)).collect();
        ConfigError::Invalid { origin: origin.to_owned(), problems }
    })
}

/// `spec` as a file that [`parse`] turns into the same `spec`, with every default spelt out.
#[must_use]
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "the raw types are strings, integers, booleans, lists and tables, all of which TOML has"
)]
pub fn to_toml(spec: &Spec) -> String {
    toml::to_string(&raw::Config::from(spec)).expect("raw types are representable in TOML")
}

/// Validates `bytes`, which errors call `origin`.
pub fn parse_bytes(bytes: &[u8], origin: &str) -> Result<Spec, ConfigError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, origin),
        Err(error) => {
            let valid = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
            let position = Lines::of(&valid).position(valid.len());
            Err(ConfigError::one(origin, position, "not UTF-8 text, which a TOML file has to be".to_owned()))
        }
    }
}

impl ConfigError {
    /// The error of a file in which nothing but `message` is known.
    fn one(origin: &str, position: Position, message: String) -> Self {
        let problem = Problem { path: Path::default(), part: Part::Value, message };
        Self::Invalid { origin: origin.to_owned(), problems: vec![(position, problem)] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { origin, source } => write!(f, "{origin}: can't read it: {source}"),
            Self::Invalid { origin, problems } => {
                for (at, (position, problem)) in problems.iter().enumerate() {
                    let newline = if at == 0 { "" } else { "\n" };
                    write!(f, "{newline}{origin}:{}:{}: {problem}", position.line, position.column)?;
                }
                Ok(())
            }
        }
    }
}

// The display has the I/O error in it, so there is no source to add to it.
impl std::error::Error for ConfigError {}
