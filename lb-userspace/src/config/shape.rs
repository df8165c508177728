//! From a parsed TOML document to the raw types: unknown fields, wrong types, missing fields.
//!
//! A `serde` deserializer of its own, for two reasons: it knows the path of everything that it meets, so that each
//! problem names its field, and its errors are written for whoever wrote the file rather than in Rust's terms.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{
        self, IntoDeserializer, Visitor,
        value::{MapDeserializer, SeqDeserializer, StrDeserializer},
    },
    forward_to_deserialize_any,
};

use toml::{Spanned, de::DeValue};

use super::{
    locate,
    problem::{Part, Path, Problem},
    raw,
};

/// With this many problems of shape in a file, more would not help anybody.
const MOST_PROBLEMS: usize = 20;

/// Fields that files may still have under an old name, and the new one.
const RENAMED: [(&str, &str); 1] = [("hash", "scheduler")];

/// Reads `document` into the raw types.
///
/// # Errors
/// Every problem of shape, up to [`MOST_PROBLEMS`]: reading goes on without what is wrong. Of several fields missing
/// from one table only the first is named.
pub(super) fn read(document: &Spanned<DeValue<'_>>) -> Result<raw::Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut skipped = Vec::new();
    loop {
        let node = Node { value: document.get_ref(), way: Way::Root, skipped: &skipped };
        let problem = match raw::Config::deserialize(node) {
            Ok(config) if problems.is_empty() => return Ok(config),
            Ok(_) => return Err(problems),
            Err(error) => Problem { path: error.path.unwrap_or_default(), part: error.part, message: error.message },
        };
        let is_known = skipped.contains(&problem.path);
        // A missing field can't be left out, be it that it was left out before; the table that misses it can.
        let is_missing = is_known || !locate::exists(document, &problem.path);
        let skip = if is_missing { problem.path.parent() } else { problem.path.clone() };
        if !is_known {
            problems.push(problem);
        }
        // Every round leaves something more out, so that there is a last one.
        if skipped.contains(&skip) || problems.len() == MOST_PROBLEMS {
            return Err(problems);
        }
        skipped.push(skip);
    }
}

/// A value of the document and the way to it.
struct Node<'de, 'way> {
    value: &'de DeValue<'de>,
    way: Way<'way>,
    /// What to leave out, because a problem with it is known.
    skipped: &'way [Path],
}

/// The way to a value. It becomes a [`Path`] only where something is wrong: there may be very many values.
#[derive(Clone, Copy)]
enum Way<'way> {
    Root,
    Field(&'way Way<'way>, &'way str),
    Item(&'way Way<'way>, usize, &'way DeValue<'way>),
}

/// What is wrong with a [`Node`] or something below it.
#[derive(Debug)]
struct Error {
    /// Known as soon as the error has left the innermost node.
    path: Option<Path>,
    /// A field of that node, where the error is about one.
    field: Option<String>,
    part: Part,
    message: String,
}

impl Way<'_> {
    fn path(self) -> Path {
        match self {
            Self::Root => Path::default(),
            Self::Field(table, key) => table.path().key(key),
            Self::Item(list, index, item) => list.path().item(index, label(item).as_deref()),
        }
    }
}

impl<'de> Node<'de, '_> {
    fn is_wanted(&self) -> bool {
        self.skipped.is_empty() || !self.skipped.contains(&self.way.path())
    }

    /// Visits the value as what it is.
    fn visit<V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        let visited = match self.value {
            DeValue::String(text) => visitor.visit_str(text),
            DeValue::Boolean(boolean) => visitor.visit_bool(*boolean),
            DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(integer) => visitor.visit_i64(integer),
                Err(_) => Err(self.unexpected("a number of at most 64 bits")),
            },
            DeValue::Float(_) | DeValue::Datetime(_) => Err(self.unexpected(&expectation(&visitor))),
            DeValue::Array(_) => {
                let items = self.items().filter(Node::is_wanted);
                visitor.visit_seq(SeqDeserializer::new(items))
            }
            DeValue::Table(_) => {
                let fields = self.fields().filter(|(_, node)| node.is_wanted());
                visitor.visit_map(MapDeserializer::new(fields))
            }
        };
        visited.map_err(|error| error.at(self.way))
    }

    fn items(&self) -> impl Iterator<Item = Node<'de, '_>> {
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(|(index, item)| {
            let value = item.get_ref();
            Node { value, way: Way::Item(&self.way, index, value), skipped: self.skipped }
        })
    }

    fn fields(&self) -> impl Iterator<Item = (&'de str, Node<'de, '_>)> {
        let fields = self.value.as_table().into_iter().flatten();
        fields.map(|(key, value)| {
            let key = key.get_ref().as_ref();
            (key, Node { value: value.get_ref(), way: Way::Field(&self.way, key), skipped: self.skipped })
        })
    }

    /// Visits the value if it `is` what the visitor wants, called `expected`.
    fn visit_if<V: Visitor<'de>>(&self, is: bool, expected: &str, visitor: V) -> Result<V::Value, Error> {
        if is { self.visit(visitor) } else { Err(self.unexpected(expected)) }
    }

    fn unexpected(&self, expected: &str) -> Error {
        Error::new(format!("expected {expected}, found {}", self.describe())).at(self.way)
    }

    fn describe(&self) -> String {
        match self.value {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(integer) => integer.to_string(),
            DeValue::Float(float) => float.to_string(),
            DeValue::Boolean(boolean) => boolean.to_string(),
            DeValue::Datetime(datetime) => datetime.to_string(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        }
    }
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_table() {
            return self.visit(visitor);
        }
        // The visitor's own error would tell in Rust's terms what was found.
        let expected = expectation(&visitor);
        self.visit(visitor).map_err(|_| self.unexpected(&expected))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_if(self.value.is_bool(), "true or false", visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_if(self.value.is_integer(), "a whole number", visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit_if(self.value.is_str(), "a string", visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_table() {
            let keys = self.way.path().keys();
            return Err(self.unexpected(&format!("a list, each entry of which starts with [[{keys}]]")));
        }
        self.visit_if(self.value.is_array(), "a list", visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.visit_if(self.value.is_table(), "a table", visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let text = self.value.as_str().ok_or_else(|| self.unexpected(&alternatives(variants)))?;
        let variant: StrDeserializer<'_, Error> = text.into_deserializer();
        variant.deserialize_enum(name, variants, visitor).map_err(|error| error.at(self.way))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u64 u128 f32 f64 char str bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct map identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Node<'de, '_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Error {
    fn new(message: String) -> Self {
        Self { path: None, field: None, part: Part::Value, message }
    }

    /// Settles the path of an error that leaves the node at the end of `way`, unless an inner node has.
    fn at(mut self, way: Way<'_>) -> Self {
        let of_node = || self.field.as_deref().map_or_else(|| way.path(), |field| way.path().key(field));
        self.path.get_or_insert_with(of_node);
        self
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("expected {}, found {variant:?}", alternatives(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let message = match successor(field, expected).or_else(|| nearest(field, expected)) {
            Some(name) => format!("unknown field; did you mean `{name}`?"),
            None => format!("unknown field; known are {}", expected.join(", ")),
        };
        Self { field: Some(field.to_owned()), part: Part::Name, ..Self::new(message) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { field: Some(field.to_owned()), ..Self::new("missing, but required".to_owned()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// What `visitor` says that it wants.
fn expectation<'de>(visitor: &impl Visitor<'de>) -> String {
    struct Expectation<'v, V>(&'v V);

    impl<'de, V: Visitor<'de>> fmt::Display for Expectation<'_, V> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.expecting(f)
        }
    }

    Expectation(visitor).to_string()
}

/// What a service or a backend is known by.
fn label(item: &DeValue<'_>) -> Option<String> {
    let label = item.get("name").or_else(|| item.get("address"))?;
    label.get_ref().as_str().map(str::to_owned)
}

/// `"a", "b" or "c"`.
fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The one of `names` that has taken the place of `name`.
fn successor<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    let (_, new) = RENAMED.into_iter().find(|&(old, _)| old == name)?;
    names.iter().find(|&&candidate| candidate == new).copied()
}

/// The one of `names` that `name` is probably a slip for.
fn nearest<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(name, candidate);
    let slips = name.chars().count().div_ceil(3);
    names.iter().min_by_key(distance).filter(|best| distance(best) <= slips).copied()
}
