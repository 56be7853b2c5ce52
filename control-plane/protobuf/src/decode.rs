//! From protobuf to JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Number, Value};

use crate::{
    Error, MAGIC, MAX_DEPTH,
    schema::{self, Field, Message, Shape, Special, Type},
    special,
    wire::{BYTES, FIXED64, Reader, VARINT},
};

/// The type of an object, as its envelope says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeMeta {
    /// `v1`, `apps/v1`, ..
    pub api_version: String,
    /// `Pod`, `Deployment`, ..
    pub kind: String,
}

/// Decodes an object in its envelope. The JSON object has `apiVersion` and `kind` again.
pub fn decode(bytes: &[u8]) -> Result<(TypeMeta, Value), Error> {
    enveloped(bytes, 0)
}

/// [`decode`] for an object that lies in another one.
pub(crate) fn enveloped(bytes: &[u8], depth: usize) -> Result<(TypeMeta, Value), Error> {
    let mut reader = Reader(bytes.strip_prefix(&MAGIC).ok_or(Error::NoPrefix)?);
    let mut meta = TypeMeta::default();
    let mut raw: &[u8] = &[];
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => meta = type_meta(expect_bytes(&mut reader, "typeMeta", wire)?)?,
            2 => raw = expect_bytes(&mut reader, "raw", wire)?,
            3 => {
                let encoding = text(expect_bytes(&mut reader, "contentEncoding", wire)?, "contentEncoding")?;
                if !encoding.is_empty() {
                    return Err(Error::ContentEncoding(encoding.to_owned()));
                }
            }
            _ => reader.skip(wire)?,
        }
    }
    if meta.kind.is_empty() {
        return Err(Error::NoKind);
    }
    let Some(message) = schema::find(&meta.api_version, &meta.kind) else {
        return Err(Error::UnknownKind { api_version: meta.api_version, kind: meta.kind });
    };
    let mut object = Map::new();
    object.insert("kind".to_owned(), meta.kind.clone().into());
    object.insert("apiVersion".to_owned(), meta.api_version.clone().into());
    fields(message, raw, depth + 1, &mut object)?;
    Ok((meta, Value::Object(object)))
}

fn type_meta(bytes: &[u8]) -> Result<TypeMeta, Error> {
    let mut meta = TypeMeta::default();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => text(expect_bytes(&mut reader, "apiVersion", wire)?, "apiVersion")?.clone_into(&mut meta.api_version),
            2 => text(expect_bytes(&mut reader, "kind", wire)?, "kind")?.clone_into(&mut meta.kind),
            _ => reader.skip(wire)?,
        }
    }
    Ok(meta)
}

/// Decodes the fields of a message into `object`.
fn fields(message: &Message, bytes: &[u8], depth: usize, object: &mut Map<String, Value>) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    let known = message.fields();
    let mut reader = Reader(bytes);
    // Fields come in the order of their numbers, mostly.
    let mut next = 0;
    while let Some((number, wire)) = reader.tag()? {
        let found = match known.get(next) {
            Some(field) if field.number() == number => Some(next),
            _ => known.binary_search_by_key(&number, Field::number).ok(),
        };
        let Some(index) = found else {
            reader.skip(wire)?;
            continue;
        };
        let field = &known[index];
        next = if field.shape == Shape::One { index + 1 } else { index };
        match field.shape {
            Shape::One => one(field, wire, &mut reader, depth, object)?,
            Shape::Many => {
                let list = object.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(list) = list else { continue };
                many(field, wire, &mut reader, depth, list)?;
            }
            Shape::Map => {
                let (key, value) = entry(field, expect_bytes(&mut reader, field.name(), wire)?, depth)?;
                let map = object.entry(field.name()).or_insert_with(|| Value::Object(Map::new()));
                let Value::Object(map) = map else { continue };
                map.insert(key, value);
            }
        }
    }
    Ok(())
}

/// A field there is one of; the last value counts, and messages are merged.
fn one(
    field: &Field,
    wire: u8,
    reader: &mut Reader<'_>,
    depth: usize,
    object: &mut Map<String, Value>,
) -> Result<(), Error> {
    let name = field.name();
    if field.kind == Type::Message && field.message().special == Special::None {
        let bytes = expect_bytes(reader, name, wire)?;
        if field.is_inline() {
            return fields(field.message(), bytes, depth + 1, object);
        }
        let inner = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = inner else { return Ok(()) };
        return fields(field.message(), bytes, depth + 1, inner);
    }
    // Go's omitempty knows no empty struct; a port of 0 stands for none all the same.
    let may_drop = field.drops_zero && (field.kind != Type::Message || field.message().special == Special::IntOrString);
    match value(field, wire, reader, depth)? {
        Some(value) if !(may_drop && is_zero(&value)) => object.insert(name.to_owned(), value),
        _ => object.remove(name),
    };
    Ok(())
}

fn many(field: &Field, wire: u8, reader: &mut Reader<'_>, depth: usize, list: &mut Vec<Value>) -> Result<(), Error> {
    let packable = matches!(field.kind, Type::Bool | Type::Int32 | Type::Int64 | Type::Double);
    if packable && wire == BYTES {
        let wire = if field.kind == Type::Double { FIXED64 } else { VARINT };
        let mut packed = Reader(reader.bytes()?);
        while !packed.0.is_empty() {
            list.push(value(field, wire, &mut packed, depth)?.unwrap_or_default());
        }
        return Ok(());
    }
    list.push(value(field, wire, reader, depth)?.unwrap_or_default());
    Ok(())
}

/// A key and its value.
fn entry(field: &Field, bytes: &[u8], depth: usize) -> Result<(String, Value), Error> {
    let mut reader = Reader(bytes);
    let (mut key, mut found) = (String::new(), None);
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => text(expect_bytes(&mut reader, field.name(), wire)?, field.name())?.clone_into(&mut key),
            2 => found = Some(value(field, wire, &mut reader, depth)?.unwrap_or_default()),
            _ => reader.skip(wire)?,
        }
    }
    let value = match found {
        Some(value) => value,
        // A value that is left out is the zero of its type.
        None => match field.kind {
            Type::String | Type::Bytes => Value::String(String::new()),
            Type::Bool => Value::Bool(false),
            Type::Int32 | Type::Int64 | Type::Double => 0.into(),
            Type::Message => value(field, BYTES, &mut Reader(&[0]), depth)?.unwrap_or_default(),
        },
    };
    Ok((key, value))
}

/// One value of a field's type; none where JSON would say null.
fn value(field: &Field, wire: u8, reader: &mut Reader<'_>, depth: usize) -> Result<Option<Value>, Error> {
    let name = field.name();
    Ok(Some(match field.kind {
        Type::String => Value::String(text(expect_bytes(reader, name, wire)?, name)?.to_owned()),
        Type::Bytes => Value::String(STANDARD.encode(expect_bytes(reader, name, wire)?)),
        Type::Bool => Value::Bool(expect_varint(reader, name, wire)? != 0),
        // Protobuf cuts a number that is too large for its field.
        Type::Int32 => (expect_varint(reader, name, wire)? as i32).into(),
        Type::Int64 => (expect_varint(reader, name, wire)? as i64).into(),
        Type::Double => {
            if wire != FIXED64 {
                return Err(Error::WireType { field: name, wire });
            }
            return Ok(Number::from_f64(f64::from_bits(reader.fixed64()?)).map(Value::Number));
        }
        Type::Message => return message(field.message(), name, expect_bytes(reader, name, wire)?, depth + 1),
    }))
}

/// A message as JSON; none where JSON would say null.
pub(crate) fn message(
    message: &Message,
    name: &'static str,
    bytes: &[u8],
    depth: usize,
) -> Result<Option<Value>, Error> {
    if message.special != Special::None {
        return special::from_wire(message.special, name, bytes, depth);
    }
    let mut object = Map::new();
    fields(message, bytes, depth, &mut object)?;
    Ok(Some(Value::Object(object)))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

pub(crate) fn expect_bytes<'a>(reader: &mut Reader<'a>, field: &'static str, wire: u8) -> Result<&'a [u8], Error> {
    if wire == BYTES { reader.bytes() } else { Err(Error::WireType { field, wire }) }
}

pub(crate) fn expect_varint(reader: &mut Reader<'_>, field: &'static str, wire: u8) -> Result<u64, Error> {
    if wire == VARINT { reader.varint() } else { Err(Error::WireType { field, wire }) }
}

pub(crate) fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes).map_err(|_| Error::Utf8(field))
}
