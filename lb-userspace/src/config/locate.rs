//! Where in the file something is.

use toml::{Spanned, de::DeValue};

use super::problem::{Part, Path, Problem, Segment};

/// A place in a text: line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// A text, to look positions up in.
pub(super) struct Lines<'t> {
    text: &'t str,
    /// Where each line but the first starts.
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub fn of(text: &'t str) -> Self {
        Self { text, starts: text.match_indices('\n').map(|(newline, _)| newline + 1).collect() }
    }

    /// The position of the byte at `offset`.
    pub fn position(&self, offset: usize) -> Position {
        let before = self.starts.partition_point(|start| *start <= offset);
        let start = before.checked_sub(1).and_then(|last| self.starts.get(last)).copied().unwrap_or(0);
        let in_line = self.text.get(start..offset).unwrap_or_default();
        Position { line: before + 1, column: in_line.chars().count() + 1 }
    }
}

/// Whether `path` leads to anything.
pub(super) fn exists(document: &Spanned<DeValue<'_>>, path: &Path) -> bool {
    walk(document, path.segments()).is_some()
}

/// Where `problem` is. What is missing is at the table that it is missing from.
pub(super) fn offset(document: &Spanned<DeValue<'_>>, problem: &Problem) -> usize {
    let mut path = problem.path.segments();
    loop {
        if let Some((key, value)) = walk(document, path) {
            let exact = path.len() == problem.path.segments().len();
            return if exact && problem.part == Part::Name { key } else { value };
        }
        let Some((_, parent)) = path.split_last() else { return 0 };
        path = parent;
    }
}

/// Where what `path` leads to starts: its key, if it has one, and its value.
fn walk(document: &Spanned<DeValue<'_>>, path: &[Segment]) -> Option<(usize, usize)> {
    let start = document.span().start;
    let mut found = (start, start);
    let mut table = document.get_ref().as_table();
    let mut array = None;
    for segment in path {
        let (key, value) = match segment {
            Segment::Key(key) => {
                let (key, value) = table?.get_key_value(key.as_str())?;
                (Some(key.span()), value)
            }
            Segment::Item { index, .. } => {
                let items: &[Spanned<DeValue<'_>>] = array?;
                (None, items.get(*index)?)
            }
        };
        let value_start = value.span().start;
        found = (key.map_or(value_start, |key| key.start), value_start);
        table = value.get_ref().as_table();
        array = value.get_ref().as_array().map(|items| &items[..]);
    }
    Some(found)
}
