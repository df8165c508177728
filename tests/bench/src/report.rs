//! Reports of earlier runs.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::de::DeserializeOwned;

/// Reads what a benchmark has printed with `--json`.
///
/// # Errors
/// The file can't be read, or is something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no report of this benchmark", path.display()))
}
