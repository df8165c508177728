//! Which rows are measured.

use std::fmt::Display;

/// Those of `rows` whose names contain every one of `parts`.
pub fn matching<R: Display>(rows: impl IntoIterator<Item = R>, parts: &[String]) -> Vec<R> {
    let matches = |row: &R| {
        let name = row.to_string();
        parts.iter().all(|part| name.contains(part.as_str()))
    };
    rows.into_iter().filter(matches).collect()
}
