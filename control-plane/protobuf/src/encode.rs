//! From JSON to protobuf.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use crate::{
    Error, MAGIC, MAX_DEPTH,
    schema::{self, Field, Message, Shape, Special, Type},
    special,
    wire::{FIXED64, put_bytes, put_nested, put_number, put_tag, put_varint},
};

/// Encodes an object, a list or a Status, in an envelope. Fields the type does not know are left out.
pub fn encode(object: &Value) -> Result<Vec<u8>, Error> {
    let mut out = MAGIC.to_vec();
    envelope(object, &mut out, 0)?;
    Ok(out)
}

/// [`encode`] for JSON text.
pub fn encode_json(json: &[u8]) -> Result<Vec<u8>, Error> {
    encode(&serde_json::from_slice(json)?)
}

/// One frame of a watch: its length, and a `WatchEvent` that holds `object` in an envelope.
/// `kind` is `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`, `object` the JSON of the object.
pub fn watch_frame(kind: &str, object: &[u8]) -> Result<Vec<u8>, Error> {
    let object: Value = serde_json::from_slice(object)?;
    let mut out = vec![0; 4];
    put_bytes(&mut out, 1, kind.as_bytes());
    put_nested(&mut out, 2, |out| {
        put_nested(out, 1, |out| {
            out.extend_from_slice(&MAGIC);
            envelope(&object, out, 0)
        })
    })?;
    let len = u32::try_from(out.len() - 4).map_err(|_| Error::TooLarge)?;
    out[..4].copy_from_slice(&len.to_be_bytes());
    Ok(out)
}

fn envelope(object: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
    let Value::Object(object) = object else { return Err(Error::NoKind) };
    let member = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (member("apiVersion"), member("kind"));
    if kind.is_empty() {
        return Err(Error::NoKind);
    }
    let message = schema::find(api_version, kind)
        .ok_or_else(|| Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
    put_nested(out, 1, |out| {
        put_bytes(out, 1, api_version.as_bytes());
        put_bytes(out, 2, kind.as_bytes());
        Ok::<(), Error>(())
    })?;
    put_nested(out, 2, |out| fields(message, object, out, depth + 1))?;
    // Upstream always writes its empty contentEncoding and contentType.
    put_bytes(out, 3, &[]);
    put_bytes(out, 4, &[]);
    Ok(())
}

/// Encodes the members of `object` that are fields of the message.
pub(crate) fn fields(
    message: &Message,
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    for field in message.fields() {
        if field.is_inline() {
            let start = out.len();
            let mut empty = false;
            put_nested(out, field.number(), |out| {
                let before = out.len();
                fields(field.message(), object, out, depth + 1)?;
                empty = out.len() == before;
                Ok::<(), Error>(())
            })?;
            if empty {
                out.truncate(start);
            }
            continue;
        }
        match (object.get(field.name()), field.shape) {
            (None | Some(Value::Null), _) => {}
            (Some(one), Shape::One) => value(field, field.number(), one, out, depth)?,
            (Some(Value::Array(list)), Shape::Many) => {
                for item in list {
                    value(field, field.number(), item, out, depth)?;
                }
            }
            (Some(Value::Object(map)), Shape::Map) => {
                for (key, item) in map {
                    put_nested(out, field.number(), |out| {
                        put_bytes(out, 1, key.as_bytes());
                        value(field, 2, item, out, depth)
                    })?;
                }
            }
            (_, Shape::Many) => return Err(Error::Type { field: field.name(), expected: "a list" }),
            (_, Shape::Map) => return Err(Error::Type { field: field.name(), expected: "an object" }),
        }
    }
    Ok(())
}

/// Writes one value of a field as the field `number`.
pub(crate) fn value(field: &Field, number: u32, json: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Error> {
    let name = field.name();
    match field.kind {
        Type::String => put_bytes(out, number, text(json, name)?.as_bytes()),
        Type::Bytes => {
            let expected = "base64";
            let bytes = match json {
                // The zero of a list or map.
                Value::Null => Vec::new(),
                json => STANDARD.decode(text(json, name)?).map_err(|_| Error::Type { field: name, expected })?,
            };
            put_bytes(out, number, &bytes);
        }
        Type::Bool => {
            let value = json.as_bool().ok_or(Error::Type { field: name, expected: "a boolean" })?;
            put_number(out, number, i64::from(value));
        }
        Type::Int32 => {
            let value = json.as_i64().and_then(|value| i32::try_from(value).ok());
            put_number(out, number, value.ok_or(Error::Type { field: name, expected: "a number of 32 bits" })?.into());
        }
        Type::Int64 => {
            put_number(out, number, json.as_i64().ok_or(Error::Type { field: name, expected: "a number of 64 bits" })?);
        }
        Type::Double => {
            let value = json.as_f64().ok_or(Error::Type { field: name, expected: "a number" })?;
            put_tag(out, number, FIXED64);
            out.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        Type::Message => put_nested(out, number, |out| message(field.message(), name, json, out, depth + 1))?,
    }
    Ok(())
}

/// Writes what is inside of a message.
pub(crate) fn message(
    message: &Message,
    name: &'static str,
    json: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Error> {
    match (message.special, json) {
        (_, Value::Null) => Ok(()),
        (Special::None, Value::Object(object)) => fields(message, object, out, depth),
        (Special::None, _) => Err(Error::Type { field: name, expected: "an object" }),
        (special, json) => special::to_wire(special, name, json, out, depth),
    }
}

/// A string; null is the empty one, as it is in Go.
pub(crate) fn text<'a>(json: &'a Value, field: &'static str) -> Result<&'a str, Error> {
    match json {
        Value::String(text) => Ok(text),
        Value::Null => Ok(""),
        _ => Err(Error::Type { field, expected: "a string" }),
    }
}

/// A varint field of a message written by hand.
pub(crate) fn put_bool(out: &mut Vec<u8>, number: u32, value: bool) {
    put_tag(out, number, crate::wire::VARINT);
    put_varint(out, u64::from(value));
}
