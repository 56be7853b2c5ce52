//! What the cache is told about a resource.

use std::borrow::Cow;
use std::sync::Arc;

/// One resource the cache keeps.
#[derive(Clone, Debug)]
pub struct ResourceSchema {
    /// Key prefix with a slash at its end, such as `/registry/pods/`.
    pub prefix: String,
    /// The fields `fieldSelector` may name, besides `metadata.name` and `metadata.namespace`, which are always there.
    pub fields: FieldExtractor,
}

impl ResourceSchema {
    /// A resource with no selectable fields but name and namespace.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), fields: FieldExtractor::default() }
    }

    /// The same with selectable fields.
    pub fn with_fields(mut self, fields: impl IntoIterator<Item = SelectableField>) -> Self {
        self.fields = FieldExtractor::new(fields);
        self
    }
}

/// A scalar inside an object that `fieldSelector` may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectableField {
    /// The selector's name for it, such as `spec.nodeName`.
    pub name: Cow<'static, str>,
    /// Where it is in the JSON; the first path that leads to a non-empty scalar counts.
    pub paths: Vec<Vec<Cow<'static, str>>>,
    /// Its value when no path leads to one (a bool's would be `false`).
    pub default: Cow<'static, str>,
}

impl SelectableField {
    /// A field whose name is its dotted path and that is empty when missing.
    pub fn new(name: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), paths: vec![split(name)], default: Cow::Borrowed("") }
    }

    /// A field whose name is not its path.
    pub fn at(name: impl Into<Cow<'static, str>>, path: Vec<Cow<'static, str>>) -> Self {
        Self { name: name.into(), paths: vec![path], default: Cow::Borrowed("") }
    }

    /// Adds a dotted path to look at when the earlier ones lead nowhere (events: `source`).
    pub fn or_path(mut self, path: &'static str) -> Self {
        self.paths.push(split(path));
        self
    }

    /// Sets the value of a missing field.
    pub fn or_default(mut self, value: impl Into<Cow<'static, str>>) -> Self {
        self.default = value.into();
        self
    }
}

fn split(path: &'static str) -> Vec<Cow<'static, str>> {
    path.split('.').map(Cow::Borrowed).collect()
}

/// The selectable fields of a resource, prepared so that they fall out of the one parse of a value.
#[derive(Clone, Debug, Default)]
pub struct FieldExtractor {
    pub(crate) fields: Arc<[SelectableField]>,
}

impl FieldExtractor {
    /// Prepares the extraction of `fields`.
    pub fn new(fields: impl IntoIterator<Item = SelectableField>) -> Self {
        Self { fields: fields.into_iter().collect() }
    }

    /// The names a `fieldSelector` may use, besides `metadata.name` and `metadata.namespace`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|f| f.name.as_ref())
    }
}
