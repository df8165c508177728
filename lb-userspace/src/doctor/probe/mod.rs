//! Collects the facts. Changes nothing, and takes whatever can't be read as unknown.

mod host;
mod interface;

use std::{fs, path::Path};

use super::facts::Facts;

pub(super) fn facts(interfaces: &[String]) -> Facts {
    Facts { host: host::host(), interfaces: interface::interfaces(interfaces).map_err(|error| error.to_string()) }
}

/// The content of a file of /proc or /sys that holds one value.
fn read_value<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
