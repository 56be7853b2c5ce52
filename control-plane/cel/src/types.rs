//! What an expression may be: the types the checker knows.
//!
//! Types carry the greatest sizes a schema allows, because the cost of an expression is estimated from them.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// The largest body a request may have; what bounds a value whose schema states no size.
pub const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;

/// A type of the Common Expression Language.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything; checked while evaluating.
    Dyn,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A signed number of 64 bits.
    Int,
    /// An unsigned number of 64 bits.
    Uint,
    /// A floating point number.
    Double,
    /// Text, of at most so many characters.
    String(Option<u64>),
    /// Bytes (in JSON: base64), at most so many.
    Bytes(Option<u64>),
    /// A span of time.
    Duration,
    /// A moment.
    Timestamp,
    /// A list.
    List(Arc<ListType>),
    /// A map with keys of any type.
    Map(Arc<MapType>),
    /// An object with known fields.
    Object(Arc<ObjectType>),
    /// A value that may be absent.
    Optional(Arc<Type>),
    /// The type of a type.
    Type,
    /// A type only its functions look into.
    Opaque(Opaque),
    /// A parameter of a function's signature (`A`, `B`).
    Param(char),
}

/// The types of the Kubernetes libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opaque {
    /// `quantity("1Gi")`.
    Quantity,
    /// `url("https://x")`.
    Url,
    /// `ip("10.0.0.1")`.
    Ip,
    /// `cidr("10.0.0.0/8")`.
    Cidr,
    /// `semver("1.2.3")`.
    Semver,
    /// `format.named("dns1123Label")`.
    Format,
    /// `authorizer`.
    Authorizer,
    /// `authorizer.path("/x")`.
    PathCheck,
    /// `authorizer.group("")`.
    GroupCheck,
    /// `authorizer.group("").resource("pods")`.
    ResourceCheck,
    /// `... .check("get")`.
    Decision,
}

impl Opaque {
    /// The name CEL prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quantity => "kubernetes.Quantity",
            Self::Url => "kubernetes.URL",
            Self::Ip => "net.IP",
            Self::Cidr => "net.CIDR",
            Self::Semver => "kubernetes.Semver",
            Self::Format => "kubernetes.NamedFormat",
            Self::Authorizer => "kubernetes.authorization.Authorizer",
            Self::PathCheck => "kubernetes.authorization.PathCheck",
            Self::GroupCheck => "kubernetes.authorization.GroupCheck",
            Self::ResourceCheck => "kubernetes.authorization.ResourceCheck",
            Self::Decision => "kubernetes.authorization.Decision",
        }
    }
}

/// How the elements of a list are told apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ListKind {
    /// By position.
    #[default]
    Atomic,
    /// Each value once, in no order.
    Set,
    /// By these keys of each element, in no order.
    Map(Vec<String>),
}

/// A list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListType {
    /// What it holds.
    pub element: Type,
    /// The most elements it may hold.
    pub max: Option<u64>,
    /// How elements are told apart.
    pub kind: ListKind,
}

/// A map.
#[derive(Clone, Debug, PartialEq)]
pub struct MapType {
    /// Its keys.
    pub key: Type,
    /// Its values.
    pub value: Type,
    /// The most entries it may hold.
    pub max: Option<u64>,
}

/// An object with known fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectType {
    /// What messages call it.
    pub name: String,
    /// Its fields under the names expressions use ([`crate::escape`]).
    pub fields: BTreeMap<String, Field>,
}

/// One field of an [`ObjectType`].
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// The name in JSON.
    pub json: String,
    /// Its type.
    pub ty: Type,
}

impl ObjectType {
    /// An object of these fields, named in expressions as in JSON.
    pub fn of(name: &str, fields: impl IntoIterator<Item = (&'static str, Type)>) -> Self {
        let fields = fields.into_iter().map(|(name, ty)| (name.to_owned(), Field { json: name.to_owned(), ty }));
        Self { name: name.to_owned(), fields: fields.collect() }
    }
}

impl Type {
    /// Text of any length.
    pub const TEXT: Type = Type::String(None);

    /// A plain list.
    pub fn list(element: Type) -> Self {
        Self::List(Arc::new(ListType { element, max: None, kind: ListKind::Atomic }))
    }

    /// A plain map.
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new(MapType { key, value, max: None }))
    }

    /// A value that may be absent.
    pub fn optional(inner: Type) -> Self {
        Self::Optional(Arc::new(inner))
    }

    /// An object with known fields.
    pub fn object(object: ObjectType) -> Self {
        Self::Object(Arc::new(object))
    }

    /// Whether only evaluation can tell.
    pub fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    /// The greatest size a value of this type can have in the units CEL counts (characters, elements, entries); 1 for
    /// scalars.
    pub(crate) fn max_size(&self) -> u64 {
        match self {
            Self::String(max) | Self::Bytes(max) => max.unwrap_or(u64::MAX),
            Self::List(list) => list.max.unwrap_or(u64::MAX),
            Self::Map(map) => map.max.unwrap_or(u64::MAX),
            Self::Dyn | Self::Param(_) => u64::MAX,
            Self::Optional(inner) => inner.max_size(),
            Self::Object(object) => object.fields.len() as u64,
            _ => 1,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String(_) => f.write_str("string"),
            Self::Bytes(_) => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(list) => write!(f, "list({})", list.element),
            Self::Map(map) => write!(f, "map({}, {})", map.key, map.value),
            Self::Object(object) => f.write_str(&object.name),
            Self::Optional(inner) => write!(f, "optional_type({inner})"),
            Self::Type => f.write_str("type"),
            Self::Opaque(opaque) => f.write_str(opaque.name()),
            Self::Param(name) => write!(f, "{name}"),
        }
    }
}
