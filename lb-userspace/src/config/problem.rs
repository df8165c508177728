//! What can be wrong with a configuration, and where.

use std::fmt;

/// One thing that is wrong: where in the configuration, and what was found and expected there.
///
/// Displays as `service "web", backend "a": port: expected 1 to 65535, found 70000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field that is wrong; it need not exist.
    pub path: Path,
    /// Whether the field's value or its very name is wrong.
    pub part: Part,
    /// What is wrong with it, without its name.
    pub message: String,
}

/// Which part of a field a [`Problem`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its value.
    Value,
    /// Its name.
    Name,
}

/// Where something is in a configuration, from the top down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<Segment>);

/// One step of a [`Path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Into the field of this name.
    Key(String),
    /// Into an element of a list.
    Item {
        /// Its position, from 0.
        index: usize,
        /// What a reader knows it by, such as a service's name; without one it is counted from 1.
        label: Option<String>,
    },
}

/// Collects problems, so that a reader gets all of them at once.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

/// Proof that a problem was noted, in place of the value that it stands in the way of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted(());

/// A value, or the proof that it is known why there is none.
pub(super) type Checked<T> = Result<T, Noted>;

impl Path {
    /// The path of field `key` of what this path leads to.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.then(Segment::Key(key.to_owned()))
    }

    /// The path of element `index`, known as `label`, of the list that this path leads to.
    #[must_use]
    pub fn item(&self, index: usize, label: Option<&str>) -> Self {
        self.then(Segment::Item { index, label: label.map(str::to_owned) })
    }

    /// The path one step up; the top is its own parent.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.0.split_last().map_or_else(Vec::new, |(_, rest)| rest.to_vec()))
    }

    /// The steps, from the top down.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The field names alone, as a TOML header has them: `service.backend`.
    #[must_use]
    pub fn keys(&self) -> String {
        let keys = self.0.iter().filter_map(|segment| match segment {
            Segment::Key(key) => Some(key.as_str()),
            Segment::Item { .. } => None,
        });
        keys.collect::<Vec<_>>().join(".")
    }

    /// What stands before the key at step `at`.
    fn separator(&self, at: usize) -> &'static str {
        let is_item = |segment: Option<&Segment>| matches!(segment, Some(Segment::Item { .. }));
        if at == 0 {
            ""
        } else if !is_item(self.0.get(at - 1)) {
            "."
        } else if is_item(self.0.get(at + 1)) {
            ", "
        } else {
            ": "
        }
    }

    fn then(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }
}

impl Problems {
    /// Notes that the value at `path` is wrong.
    pub fn add(&mut self, path: Path, message: impl Into<String>) -> Noted {
        self.0.push(Problem { path, part: Part::Value, message: message.into() });
        Noted(())
    }

    /// The value of field `key` at `path`, if it is right; notes why not otherwise.
    pub fn field<T>(&mut self, path: &Path, key: &str, value: Result<T, String>) -> Checked<T> {
        value.map_err(|message| self.add(path.key(key), message))
    }

    /// `value`, if there was no problem at all.
    pub fn or<T>(self, value: Checked<T>) -> Result<T, Vec<Problem>> {
        match value {
            Ok(value) if self.0.is_empty() => Ok(value),
            _ => Err(self.0),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.0.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// `service "web", backend "a": health.port`: list elements by what they are known by, then the field's dotted name.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) => write!(f, "{}{}", self.separator(at), key.escape_debug())?,
                Segment::Item { label: Some(label), .. } => write!(f, " {label:?}")?,
                Segment::Item { index, label: None } => write!(f, " #{}", index + 1)?,
            }
        }
        Ok(())
    }
}
