//! The one pass over a stored value: metadata, the selectable fields, and where the resourceVersion goes.
//! Everything else is skipped, and texts are borrowed unless they are escaped.

use super::splice::Splice;
use crate::error::{Error, Result};
use crate::schema::{FieldExtractor, Node};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// What the parse found. A field's value carries the rank of the path that led to it.
pub(super) struct Found<'de> {
    pub(super) splice: Splice,
    pub(super) uid: Cow<'de, str>,
    pub(super) labels: Vec<(Cow<'de, str>, Cow<'de, str>)>,
    pub(super) fields: Vec<Option<(usize, Cow<'de, str>)>>,
}

impl Found<'_> {
    pub(super) fn text_len(&self) -> usize {
        let labels: usize = self.labels.iter().map(|(k, v)| k.len() + v.len()).sum();
        let fields: usize = self.fields.iter().flatten().map(|(_, v)| v.len()).sum();
        self.uid.len() + labels + fields
    }
}

/// Parses a whole value.
pub(super) fn parse<'de>(stored: &'de [u8], fields: &FieldExtractor) -> Result<Found<'de>> {
    let mut state = State::new(stored, fields.fields().len());
    let mut json = serde_json::Deserializer::from_slice(stored);
    Root { state: &mut state, node: fields.root(), only_metadata: false }
        .deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|e| Error::Undecodable(e.to_string()))?;
    Ok(Found { splice: state.splice(stored)?, uid: state.uid, labels: state.labels, fields: state.fields })
}

/// Parses as far as the end of `metadata`.
pub(super) fn find_splice(stored: &[u8]) -> Result<Splice> {
    let mut state = State::new(stored, 0);
    let root = Root { state: &mut state, node: &Node::EMPTY, only_metadata: true };
    let parsed = root.deserialize(&mut serde_json::Deserializer::from_slice(stored));
    match parsed {
        Err(e) if !state.metadata_done => Err(Error::Undecodable(e.to_string())),
        _ => state.splice(stored),
    }
}

struct State<'de> {
    base: usize,
    metadata_done: bool,
    /// Offset of the quote before metadata's first key, if that key could be borrowed.
    first_key: Option<usize>,
    version: Option<(usize, usize)>,
    uid: Cow<'de, str>,
    labels: Vec<(Cow<'de, str>, Cow<'de, str>)>,
    fields: Vec<Option<(usize, Cow<'de, str>)>>,
}

impl<'de> State<'de> {
    fn new(stored: &'de [u8], fields: usize) -> Self {
        Self {
            base: stored.as_ptr() as usize,
            metadata_done: false,
            first_key: None,
            version: None,
            uid: Cow::Borrowed(""),
            labels: Vec::new(),
            fields: vec![None; fields],
        }
    }

    fn splice(&self, stored: &[u8]) -> Result<Splice> {
        if !self.metadata_done {
            return Err(Error::Undecodable("it has no metadata".into()));
        }
        match (self.version, self.first_key) {
            (Some((at, len)), _) => Ok(Splice::Replace { at, len }),
            (None, Some(at)) => Ok(Splice::Insert { at, comma: true }),
            (None, None) => self.splice_by_braces(stored),
        }
    }

    /// The rare layouts: metadata is `{}`, or its first key is escaped.
    fn splice_by_braces(&self, stored: &[u8]) -> Result<Splice> {
        #[derive(serde::Deserialize)]
        struct Outer<'a> {
            #[serde(borrow)]
            metadata: &'a RawValue,
        }
        let mut json = serde_json::Deserializer::from_slice(stored);
        let outer = Outer::deserialize(&mut json).map_err(|e| Error::Undecodable(e.to_string()))?;
        let metadata = outer.metadata.get();
        let inside = metadata.trim_start_matches('{').trim_start();
        Ok(Splice::Insert { at: metadata.as_ptr() as usize - self.base + 1, comma: !inside.starts_with('}') })
    }

    fn keep(&mut self, node: &Node, value: Cow<'de, str>) {
        for (field, rank) in &node.ends {
            let place = &mut self.fields[*field];
            if !value.is_empty() && place.as_ref().is_none_or(|(other, _)| rank < other) {
                *place = Some((*rank, value.clone()));
            }
        }
    }
}

/// A string, borrowed if it can be.
struct Text<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v.to_owned())))
            }
        }
        deserializer.deserialize_str(V)
    }
}

struct Root<'s, 'de> {
    state: &'s mut State<'de>,
    node: &'s Node,
    only_metadata: bool,
}

impl<'de> DeserializeSeed<'de> for Root<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Root<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            let child = self.node.child(&key);
            if key == "metadata" {
                if self.state.metadata_done {
                    return Err(A::Error::custom("it has two members `metadata`"));
                }
                map.next_value_seed(Metadata { state: self.state, node: child.unwrap_or(&Node::EMPTY) })?;
                self.state.metadata_done = true;
                if self.only_metadata {
                    // Nobody looks at this error: it ends the parse.
                    return Err(A::Error::custom(""));
                }
            } else if let Some(node) = child {
                map.next_value_seed(Value { state: self.state, node })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Metadata<'s, 'de> {
    state: &'s mut State<'de>,
    node: &'s Node,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata to be a JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut first = true;
        while let Some(Text(key)) = map.next_key()? {
            if let (true, Cow::Borrowed(key)) = (first, &key) {
                self.state.first_key = Some(key.as_ptr() as usize - self.state.base - 1);
            }
            first = false;
            match &*key {
                "resourceVersion" => {
                    let value = map.next_value::<&RawValue>()?.get();
                    let at = value.as_ptr() as usize - self.state.base;
                    if self.state.version.replace((at, value.len())).is_some() {
                        return Err(A::Error::custom("metadata has two members `resourceVersion`"));
                    }
                }
                "uid" => self.state.uid = map.next_value_seed(Scalar)?.unwrap_or_default(),
                "labels" => {
                    self.state.labels.clear();
                    map.next_value_seed(LabelMap { labels: &mut self.state.labels })?;
                }
                other => match self.node.child(other) {
                    Some(node) => map.next_value_seed(Value { state: self.state, node })?,
                    None => {
                        map.next_value::<IgnoredAny>()?;
                    }
                },
            }
        }
        Ok(())
    }
}

struct LabelMap<'s, 'de> {
    labels: &'s mut Vec<(Cow<'de, str>, Cow<'de, str>)>,
}

impl<'de> DeserializeSeed<'de> for LabelMap<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for LabelMap<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels to be a JSON object")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            let value = map.next_value_seed(Scalar)?.unwrap_or_default();
            self.labels.push((key, value));
        }
        Ok(())
    }
}

/// A value on the way to selectable fields.
struct Value<'s, 'de> {
    state: &'s mut State<'de>,
    node: &'s Node,
}

impl<'de> DeserializeSeed<'de> for Value<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.node.children.is_empty() {
            if let Some(text) = Scalar.deserialize(deserializer)? {
                self.state.keep(self.node, text);
            }
            return Ok(());
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            match self.node.child(&key) {
                Some(node) => map.next_value_seed(Value { state: self.state, node })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        IgnoredAny.visit_seq(seq).map(drop)
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// A scalar as text; `None` for null, arrays and objects.
struct Scalar;

impl<'de> DeserializeSeed<'de> for Scalar {
    type Value = Option<Cow<'de, str>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalar {
    type Value = Option<Cow<'de, str>>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }
    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(v)))
    }
    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(v.to_owned())))
    }
    fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(if v { "true" } else { "false" })))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(v.to_string())))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(v.to_string())))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(v.to_string())))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_map(map).map(|_| None)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(seq).map(|_| None)
    }
}
