//! What the cache is told about a resource.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// One resource the cache keeps.
#[derive(Clone, Debug)]
pub struct ResourceSchema {
    /// Key prefix with a slash at its end, such as `/registry/pods/`.
    pub prefix: String,
    /// The fields `fieldSelector` may name, besides `metadata.name` and `metadata.namespace`, which are always there.
    pub fields: FieldExtractor,
    /// Other versions an upstream API server may have stored objects in.
    pub conversions: Vec<Conversion>,
}

/// How protobuf values of another version become what this server stores. (JSON values are taken as they are: only an
/// upstream API server writes protobuf, and it may prefer another version.)
#[derive(Clone)]
pub struct Conversion {
    /// The other version, such as `autoscaling/v1`.
    pub api_version: String,
    /// From that version's JSON to the stored version's; an error is for the log.
    pub convert: Convert,
}

/// See [`Conversion::convert`].
pub type Convert = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, String> + Send + Sync>;

impl fmt::Debug for Conversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Conversion").field(&self.api_version).finish()
    }
}

impl ResourceSchema {
    /// A resource with no selectable fields but name and namespace.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), fields: FieldExtractor::default(), conversions: Vec::new() }
    }

    /// The same that can read another version, too.
    pub fn with_conversion(mut self, api_version: impl Into<String>, convert: Convert) -> Self {
        self.conversions.push(Conversion { api_version: api_version.into(), convert });
        self
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
#[derive(Clone, Debug)]
pub struct FieldExtractor(Arc<Prepared>);

#[derive(Debug)]
struct Prepared {
    fields: Vec<SelectableField>,
    root: Node,
}

/// Where a path has got to.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) children: Vec<(Cow<'static, str>, Node)>,
    /// Fields (index, rank of the path) whose path ends here.
    pub(crate) ends: Vec<(usize, usize)>,
}

impl Node {
    pub(crate) const EMPTY: Self = Self { children: Vec::new(), ends: Vec::new() };

    pub(crate) fn child(&self, key: &str) -> Option<&Self> {
        self.children.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    fn insert(&mut self, path: &[Cow<'static, str>], end: (usize, usize)) {
        let Some((first, rest)) = path.split_first() else {
            self.ends.push(end);
            return;
        };
        let at = self.children.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.children.push((first.clone(), Self::EMPTY));
            self.children.len() - 1
        });
        self.children[at].1.insert(rest, end);
    }
}

impl FieldExtractor {
    /// Prepares the extraction of `fields`.
    pub fn new(fields: impl IntoIterator<Item = SelectableField>) -> Self {
        let fields: Vec<_> = fields.into_iter().collect();
        let mut root = Node::EMPTY;
        for (i, field) in fields.iter().enumerate() {
            for (rank, path) in field.paths.iter().enumerate() {
                root.insert(path, (i, rank));
            }
        }
        Self(Arc::new(Prepared { fields, root }))
    }

    /// The names a `fieldSelector` may use, besides `metadata.name` and `metadata.namespace`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.fields.iter().map(|f| f.name.as_ref())
    }

    pub(crate) fn fields(&self) -> &[SelectableField] {
        &self.0.fields
    }

    pub(crate) fn root(&self) -> &Node {
        &self.0.root
    }
}

impl Default for FieldExtractor {
    fn default() -> Self {
        Self::new([])
    }
}
