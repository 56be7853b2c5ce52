//! Objects of custom resources: metadata with a type, the rest as it came.

use std::{any::Any, borrow::Cow};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, Serializer, de::Error as _, ser::SerializeMap as _};
use serde_json::Value;

use crate::registry::{
    erased::{UnknownFields, read_value},
    object::Object,
};

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CustomObject {
    pub(super) meta: ObjectMeta,
    /// An object: everything but `metadata`.
    pub(super) body: Value,
}

impl CustomObject {
    /// Takes a document apart and notes the fields of its metadata that no object has.
    pub(super) fn read(document: Value, unknown: &mut UnknownFields) -> serde_json::Result<Self> {
        let Value::Object(mut body) = document else {
            return Err(serde_json::Error::custom("an object is expected"));
        };
        if body.get("kind").and_then(Value::as_str).unwrap_or_default().is_empty() {
            let shown = Value::Object(body);
            return Err(serde_json::Error::custom(format!("Object 'Kind' is missing in '{shown}'")));
        }
        let mut further = UnknownFields::new();
        let meta = match body.remove("metadata") {
            None | Some(Value::Null) => ObjectMeta::default(),
            Some(meta) => read_value(meta, &mut further)?,
        };
        unknown.extend(further.into_iter().map(|path| format!("metadata.{path}")));
        Ok(Self { meta, body: body.into() })
    }

    /// The whole document. Without need of its metadata nothing is copied.
    pub(super) fn document(&self, with_metadata: bool) -> Cow<'_, Value> {
        if !with_metadata {
            return Cow::Borrowed(&self.body);
        }
        let mut document = self.body.clone();
        if let Value::Object(map) = &mut document {
            // Metadata always serialises.
            map.insert("metadata".to_owned(), serde_json::to_value(&self.meta).unwrap_or_default());
        }
        Cow::Owned(document)
    }

    /// A member of the object.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.body.get(name)
    }

    /// Sets or removes a member.
    pub(super) fn put(&mut self, name: &str, value: Option<Value>) {
        let Value::Object(map) = &mut self.body else { return };
        match value {
            Some(value) => map.insert(name.to_owned(), value),
            None => map.remove(name),
        };
    }

    fn map(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.body.as_object().into_iter().flatten()
    }
}

impl Serialize for CustomObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        for name in ["apiVersion", "kind"] {
            if let Some(value) = self.get(name) {
                out.serialize_entry(name, value)?;
            }
        }
        out.serialize_entry("metadata", &self.meta)?;
        for (name, value) in self.map().filter(|(name, _)| *name != "apiVersion" && *name != "kind") {
            out.serialize_entry(name, value)?;
        }
        out.end()
    }
}

impl Object for CustomObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }

    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
