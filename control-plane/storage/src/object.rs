//! A cached object: what selectors need, and the bytes clients get.

mod parse;
mod splice;

use crate::error::Result;
use crate::schema::FieldExtractor;
use bytes::Bytes;
use std::sync::Arc;

/// One object as the cache keeps it. Immutable; shared by the state, its snapshots and the history.
#[derive(Debug)]
pub struct Object {
    key: Arc<str>,
    /// Where the namespace (or, without one, the name) begins in `key`.
    path_at: u32,
    /// Where the name begins in `key`.
    name_at: u32,
    mod_revision: i64,
    create_revision: i64,
    meta: Arc<Meta>,
    json: Bytes,
    /// Where the digits of the resourceVersion begin in `json`, and how many there are.
    version_at: u32,
    version_len: u32,
}

/// What selectors ask for: all texts in one string, in the order uid, one per selectable field, then label keys and values in turn.
#[derive(Debug)]
struct Meta {
    text: Box<str>,
    ends: Box<[u32]>,
    fields: FieldExtractor,
}

impl Meta {
    fn text(&self, i: usize) -> &str {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.text[start as usize..self.ends[i] as usize]
    }
}

/// The labels of an object.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a>(&'a Object);

impl Object {
    /// Parses a stored value, once.
    pub(crate) fn parse(
        key: Arc<str>,
        prefix_len: usize,
        stored: &[u8],
        (mod_revision, create_revision): (i64, i64),
        fields: &FieldExtractor,
    ) -> Result<Self> {
        let found = parse::parse(stored, fields)?;
        let mut text = String::with_capacity(found.text_len());
        let mut ends = Vec::with_capacity(1 + found.fields.len() + 2 * found.labels.len());
        let mut add = |s: &str| {
            text.push_str(s);
            ends.push(text.len() as u32);
        };
        add(&found.uid);
        for (field, value) in fields.fields().iter().zip(&found.fields) {
            add(value.as_ref().map_or(&field.default, |(_, text)| text));
        }
        for (key, value) in &found.labels {
            add(key);
            add(value);
        }
        let (json, version_at, version_len) = found.splice.apply(stored, mod_revision);
        let path_at = prefix_len.min(key.len());
        let name_at = path_at + key[path_at..].find('/').map_or(0, |slash| slash + 1);
        Ok(Self {
            path_at: path_at as u32,
            name_at: name_at as u32,
            key,
            mod_revision,
            create_revision,
            meta: Arc::new(Meta { text: text.into(), ends: ends.into(), fields: fields.clone() }),
            json,
            version_at,
            version_len,
        })
    }

    /// The object of a deletion: this content at the deletion's revision.
    pub(crate) fn deleted_at(&self, revision: i64) -> Self {
        let (json, version_len) = self.splice_version(revision);
        Self { key: self.key.clone(), mod_revision: revision, meta: self.meta.clone(), json, version_len, ..*self }
    }

    /// Full etcd key, such as `/registry/pods/default/web-0`.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Namespace by the key; `None` for a cluster-scoped object.
    pub fn namespace(&self) -> Option<&str> {
        (self.name_at > self.path_at).then(|| &self.key[self.path_at as usize..self.name_at as usize - 1])
    }

    /// Name by the key.
    pub fn name(&self) -> &str {
        &self.key[self.name_at as usize..]
    }

    /// `metadata.uid`, empty if it has none.
    pub fn uid(&self) -> &str {
        self.meta.text(0)
    }

    /// Revision of the last write: the number inside `metadata.resourceVersion`.
    /// For the object of a `Deleted` event: the deletion's.
    pub fn mod_revision(&self) -> i64 {
        self.mod_revision
    }

    /// Revision of the creation.
    pub fn create_revision(&self) -> i64 {
        self.create_revision
    }

    /// Its labels.
    pub fn labels(&self) -> Labels<'_> {
        Labels(self)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().get(key)
    }

    /// The value of a selectable field (`metadata.name`, `metadata.namespace` or one of the schema's); `None`: not selectable.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace().unwrap_or("")),
            _ => {
                let i = self.meta.fields.fields().iter().position(|f| f.name == name)?;
                Some(self.meta.text(1 + i))
            }
        }
    }

    /// Final response bytes: the stored JSON with `"resourceVersion":"N"` in its metadata.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The same content with another resourceVersion.
    pub fn json_at(&self, revision: i64) -> Bytes {
        self.splice_version(revision).0
    }

    fn splice_version(&self, revision: i64) -> (Bytes, u32) {
        let digits = splice::Digits::of(revision);
        let (at, len) = (self.version_at as usize, self.version_len as usize);
        let mut json = Vec::with_capacity(self.json.len() - len + digits.len());
        json.extend_from_slice(&self.json[..at]);
        json.extend_from_slice(&digits);
        json.extend_from_slice(&self.json[at + len..]);
        (json.into(), digits.len() as u32)
    }
}

impl<'a> Labels<'a> {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// All of them, in stored order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let meta: &'a Meta = &self.0.meta;
        let first = 1 + meta.fields.fields().len();
        (first..meta.ends.len()).step_by(2).map(|i| (meta.text(i), meta.text(i + 1)))
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// Response bytes of a value just written at `revision`: `stored` with `metadata.resourceVersion` put in (or replaced).
/// Reads as far as the end of `metadata`, not the rest.
pub fn response_bytes(stored: &[u8], revision: i64) -> Result<Bytes> {
    Ok(parse::find_splice(stored)?.apply(stored, revision).0)
}

#[cfg(test)]
mod tests;
