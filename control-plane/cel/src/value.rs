//! Values while an expression is evaluated.
//!
//! JSON stays where it is: a list or map is a reference into the caller's [`serde_json::Value`] together with its declared
//! type, and only what the expression looks at becomes a CEL value.

use std::{collections::BTreeMap, net::IpAddr, rc::Rc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::Value as Json;
use skep_api::quantity::Quantity;

use crate::{
    authorizer::{Check, Decision},
    budget::Budget,
    error::Error,
    functions::{format::NamedFormat, time, url::Url},
    types::{ListKind, ListType, MapType, ObjectType, Opaque, Type},
};

mod compare;
mod json;
mod key;

pub(crate) use compare::{by_keys, contains, keys_of};
pub use key::Key;

/// A value of an expression. `'a` is the life of the inputs and of the program.
#[derive(Clone)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number.
    Uint(u64),
    /// A floating point number.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Rc<[u8]>),
    /// A span of time, in nanoseconds.
    Duration(i64),
    /// A moment.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A type, by its name.
    Type(Rc<str>),
    /// A value that may be absent.
    Optional(Option<Rc<Value<'a>>>),
    /// A quantity.
    Quantity(Quantity),
    /// A URL.
    Url(Rc<Url>),
    /// An IP address.
    Ip(IpAddr),
    /// A network.
    Cidr(IpNet),
    /// A semantic version.
    Semver(Rc<semver::Version>),
    /// A named format.
    Format(&'static NamedFormat),
    /// The authorizer, and what is asked of it so far.
    Check(Rc<Check<'a>>),
    /// What the authorizer said.
    Decision(Rc<Decision>),
}

/// Text, borrowed from the inputs or the program where possible.
#[derive(Clone)]
pub enum Text<'a> {
    /// Borrowed.
    Borrowed(&'a str),
    /// Made by the expression.
    Owned(Rc<str>),
}

impl Text<'_> {
    /// The characters.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Owned(text) => text,
        }
    }
}

/// A list.
#[derive(Clone)]
pub enum List<'a> {
    /// A JSON array and its type, if known.
    Json(&'a [Json], Option<&'a ListType>),
    /// Made by the expression.
    Made(Rc<Vec<Value<'a>>>),
}

/// A map or an object.
#[derive(Clone)]
pub enum Map<'a> {
    /// A JSON object of which nothing or the type of its values is known.
    Json(&'a serde_json::Map<String, Json>, Option<&'a MapType>),
    /// A JSON object of known fields.
    Object(&'a serde_json::Map<String, Json>, &'a ObjectType),
    /// Made by the expression.
    Made(Rc<BTreeMap<Key, Value<'a>>>),
    /// Fields somebody computes when they are asked for.
    Fields(Rc<dyn Fields<'a> + 'a>),
}

/// An object whose fields are computed when an expression asks for them (`variables` of admission policies).
pub trait Fields<'a> {
    /// The field of that name, or None if there is none. The cost is charged to `budget`.
    fn field(&self, name: &str, budget: &mut Budget) -> Option<Result<Value<'a>, Error>>;
}

impl<'a> Value<'a> {
    /// Text of the caller.
    pub fn text(text: &'a str) -> Self {
        Self::String(Text::Borrowed(text))
    }

    pub(crate) fn owned(text: impl Into<Rc<str>>) -> Self {
        Self::String(Text::Owned(text.into()))
    }

    pub(crate) fn list(elements: Vec<Value<'a>>) -> Self {
        Self::List(List::Made(Rc::new(elements)))
    }

    pub(crate) fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Rc::new(value)))
    }

    pub(crate) const NONE: Self = Self::Optional(None);

    /// A JSON value of which nothing is known.
    pub fn json(json: &'a Json) -> Self {
        Self::typed(json, &Type::Dyn)
    }

    /// A JSON value of a declared type. A value that does not fit its type (it was checked before against the schema) is
    /// taken as what it is.
    pub fn typed(json: &'a Json, ty: &'a Type) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(bool) => Self::Bool(*bool),
            Json::Number(number) => number_of(number, ty),
            Json::String(text) => text_of(text, ty),
            Json::Array(elements) => Self::List(List::Json(
                elements,
                match ty {
                    Type::List(list) => Some(list),
                    _ => None,
                },
            )),
            Json::Object(entries) => Self::Map(match ty {
                Type::Object(object) => Map::Object(entries, object),
                Type::Map(map) => Map::Json(entries, Some(map)),
                _ => Map::Json(entries, None),
            }),
        }
    }

    /// The name of the value's type.
    pub fn type_name(&self) -> &str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::List(_) => "list",
            Self::Map(Map::Object(_, object)) => &object.name,
            Self::Map(_) => "map",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Quantity(_) => Opaque::Quantity.name(),
            Self::Url(_) => Opaque::Url.name(),
            Self::Ip(_) => Opaque::Ip.name(),
            Self::Cidr(_) => Opaque::Cidr.name(),
            Self::Semver(_) => Opaque::Semver.name(),
            Self::Format(_) => Opaque::Format.name(),
            Self::Check(check) => check.opaque().name(),
            Self::Decision(_) => Opaque::Decision.name(),
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(bool) => Some(*bool),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The size CEL counts costs in.
    pub(crate) fn size(&self) -> u64 {
        match self {
            // Bytes bound characters from above and need no counting.
            Self::String(text) => text.as_str().len() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Optional(Some(inner)) => inner.size(),
            Self::Ip(ip) => ip_size(ip),
            Self::Cidr(net) => ip_size(&net.addr()),
            _ => 1,
        }
    }
}

fn ip_size(ip: &IpAddr) -> u64 {
    if ip.is_ipv4() { 4 } else { 16 }
}

fn number_of<'a>(number: &serde_json::Number, ty: &Type) -> Value<'a> {
    let double = || Value::Double(number.as_f64().unwrap_or(f64::NAN));
    match (ty, number.as_i64()) {
        (Type::Double, _) => double(),
        (Type::Uint, _) if number.is_u64() => Value::Uint(number.as_u64().unwrap_or_default()),
        (_, Some(int)) => Value::Int(int),
        // 1.0 where an integer is declared.
        #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
        (Type::Int, None) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 9.2e18 => Value::Int(float as i64),
            _ => double(),
        },
        _ => double(),
    }
}

fn text_of<'a>(text: &'a str, ty: &Type) -> Value<'a> {
    match ty {
        Type::Bytes(_) => STANDARD.decode(text).map_or(Value::text(text), |bytes| Value::Bytes(bytes.into())),
        Type::Duration => time::parse_duration(text).map_or(Value::text(text), Value::Duration),
        Type::Timestamp => time::parse_timestamp(text)
            .or_else(|| time::parse_timestamp(&format!("{text}T00:00:00Z")))
            .map_or(Value::text(text), Value::Timestamp),
        _ => Value::text(text),
    }
}

impl<'a> List<'a> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(elements, _) => elements.len(),
            Self::Made(elements) => elements.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Json(elements, ty) => Some(element(elements.get(index)?, *ty)),
            Self::Made(elements) => elements.get(index).cloned(),
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub(crate) fn kind(&self) -> &ListKind {
        match self {
            Self::Json(_, Some(ty)) => &ty.kind,
            _ => &ListKind::Atomic,
        }
    }
}

fn element<'a>(json: &'a Json, ty: Option<&'a ListType>) -> Value<'a> {
    match ty {
        Some(ty) => Value::typed(json, &ty.element),
        None => Value::json(json),
    }
}

impl<'a> Map<'a> {
    /// How many entries; for computed fields it is not known and 0.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(entries, _) | Self::Object(entries, _) => entries.len(),
            Self::Made(entries) => entries.len(),
            Self::Fields(_) => 0,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a name, as `.name` and `["name"]` find it.
    pub fn field(&self, name: &str, budget: &mut Budget) -> Option<Result<Value<'a>, Error>> {
        match self {
            Self::Json(entries, ty) => entries.get(name).map(|json| {
                Ok(match ty {
                    Some(ty) => Value::typed(json, &ty.value),
                    None => Value::json(json),
                })
            }),
            Self::Object(entries, object) => match object.fields.get(name) {
                Some(field) => entries.get(&field.json).map(|json| Ok(Value::typed(json, &field.ty))),
                None => None,
            },
            Self::Made(entries) => entries.get(&Key::String(name.into())).cloned().map(Ok),
            Self::Fields(fields) => fields.field(name, budget),
        }
    }

    /// The value of any key.
    pub fn get(&self, key: &Key, budget: &mut Budget) -> Option<Result<Value<'a>, Error>> {
        match (self, key) {
            (Self::Made(entries), key) => entries.get(key).cloned().map(Ok),
            (_, Key::String(name)) => self.field(name, budget),
            _ => None,
        }
    }

    /// All keys; of an object the names expressions use.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(entries, _) => entries.keys().map(|key| Value::text(key)).collect(),
            Self::Object(entries, object) => object
                .fields
                .iter()
                .filter(|(_, field)| entries.contains_key(&field.json))
                .map(|(name, _)| Value::text(name))
                .collect(),
            Self::Made(entries) => entries.keys().map(Key::to_value).collect(),
            Self::Fields(_) => Vec::new(),
        }
    }
}
