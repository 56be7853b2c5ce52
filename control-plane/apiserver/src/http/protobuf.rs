//! Kubernetes' protobuf encoding, as far as it comes in: typed Go clients (kubectl since 1.32) send it and then take JSON.
//!
//! A body is the magic `k8s\0` and a `runtime.Unknown` that holds apiVersion, kind and the encoded object. It is turned
//! into the JSON the same client would have sent, by the table in `protobuf/messages.txt`; the object then goes the way of
//! every other body.

use std::{collections::HashMap, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Map, Value};
use skep_api::status::StatusError;

mod wire;

use wire::{Reader, Wire};

/// The media type.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

const MAGIC: &[u8] = b"k8s\0";
/// As deep as JSON may nest.
const MAX_DEPTH: usize = 128;

static MESSAGES: LazyLock<HashMap<&'static str, Message>> =
    LazyLock::new(|| parse_table(include_str!("protobuf/messages.txt")));

type Message = Vec<Field>;

#[derive(Debug)]
struct Field {
    number: u32,
    /// None: the fields of the message below are the parent's own.
    json: Option<&'static str>,
    kind: Kind,
    many: Many,
    /// The sender cannot leave it out, so its zero says nothing.
    omit_zero: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Many {
    One,
    List,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Bool,
    Double,
    Text,
    Bytes,
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    /// JSON inside a message of one field.
    Json,
    Message(&'static str),
}

fn parse_table(text: &'static str) -> HashMap<&'static str, Message> {
    let mut messages = HashMap::new();
    let mut current = "";
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some(number), Some(json), Some(kind)) => {
                let fields: &mut Message = messages.entry(current).or_default();
                fields.extend(field(number, json, kind, words.next()));
            }
            (Some(name), ..) => {
                current = name;
                messages.entry(current).or_default();
            }
            _ => {}
        }
    }
    messages
}

fn field(number: &str, json: &'static str, kind: &'static str, flag: Option<&str>) -> Option<Field> {
    let (many, kind) = match kind.split_once(':') {
        Some(("list", kind)) => (Many::List, kind),
        Some(("map", kind)) => (Many::Map, kind),
        _ => (Many::One, kind),
    };
    let kind = match kind {
        "int32" | "int64" => Kind::Integer,
        "bool" => Kind::Bool,
        "double" => Kind::Double,
        "string" => Kind::Text,
        "bytes" => Kind::Bytes,
        "time" => Kind::Time,
        "microtime" => Kind::MicroTime,
        "duration" => Kind::Duration,
        "quantity" => Kind::Quantity,
        "intorstring" => Kind::IntOrString,
        "fieldsv1" | "raw" => Kind::Json,
        message => Kind::Message(message.strip_prefix('@')?),
    };
    let json = (json != "-").then_some(json);
    Some(Field { number: number.parse().ok()?, json, kind, many, omit_zero: flag == Some("omitzero") })
}

/// The JSON of a body.
pub(crate) fn decode(body: &[u8]) -> Result<Value, StatusError> {
    let refuse = |why: &str| StatusError::bad_request(format!("the body of the request is no valid protobuf: {why}"));
    let unknown = body.strip_prefix(MAGIC).ok_or_else(|| refuse("it does not begin with \"k8s\\x00\""))?;
    let unknown = envelope(unknown).ok_or_else(|| refuse("the envelope cannot be read"))?;
    let name = message_name(&unknown.api_version, &unknown.kind).ok_or_else(|| {
        StatusError::bad_request(format!(
            "no kind {:?} is registered for version {:?} in the protobuf encoding of this server",
            unknown.kind, unknown.api_version
        ))
    })?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), unknown.api_version.into());
    object.insert("kind".to_owned(), unknown.kind.into());
    message_into(name, unknown.raw, &mut object, 0).ok_or_else(|| refuse("the object cannot be read"))?;
    Ok(Value::Object(object))
}

struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
}

fn envelope(bytes: &[u8]) -> Option<Envelope<'_>> {
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        match (number, value) {
            (1, Wire::Bytes(type_meta)) => {
                let mut reader = Reader::new(type_meta);
                while let Some((number, value)) = reader.next()? {
                    match (number, value) {
                        (1, Wire::Bytes(text)) => envelope.api_version = text_of(text)?,
                        (2, Wire::Bytes(text)) => envelope.kind = text_of(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Some(envelope)
}

/// `apps/v1.Deployment` for `apps/v1` and `Deployment`; kinds every group has are meta's.
fn message_name(api_version: &str, kind: &str) -> Option<&'static str> {
    let own = match api_version.split_once('/') {
        None => format!("core/{api_version}.{kind}"),
        Some((group, version)) => format!("{}/{version}.{kind}", group.split('.').next().unwrap_or_default()),
    };
    [own, format!("meta/v1.{kind}")]
        .iter()
        .find_map(|name| MESSAGES.get_key_value(name.as_str()))
        .map(|(name, _)| *name)
}

/// Adds the fields of a message to a JSON object. None when the bytes are no such message.
fn message_into(name: &str, bytes: &[u8], object: &mut Map<String, Value>, depth: usize) -> Option<()> {
    if depth > MAX_DEPTH {
        return None;
    }
    let fields = MESSAGES.get(name)?;
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        // What a newer client knows and this server does not is dropped, as upstream drops it.
        let Some(field) = fields.iter().find(|field| field.number == number) else { continue };
        let Some(json) = field.json else {
            if let (Kind::Message(inner), Wire::Bytes(bytes)) = (field.kind, wire) {
                message_into(inner, bytes, object, depth + 1)?;
            }
            continue;
        };
        match field.many {
            Many::One => {
                let value = value(field.kind, wire, depth)?;
                if !(value.is_null() || (field.omit_zero && is_zero(&value))) {
                    object.insert(json.to_owned(), value);
                }
            }
            Many::List => {
                let list = object.entry(json).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()?;
                match (field.kind, wire) {
                    (Kind::Integer, Wire::Bytes(packed)) => {
                        let mut reader = Reader::new(packed);
                        while !reader.is_empty() {
                            list.push(integer(reader.varint()?).into());
                        }
                    }
                    (kind, wire) => list.push(value(kind, wire, depth)?),
                }
            }
            Many::Map => {
                let Wire::Bytes(entry) = wire else { return None };
                let (key, item) = entry_of(field.kind, entry, depth)?;
                object.entry(json).or_insert_with(|| Value::Object(Map::new())).as_object_mut()?.insert(key, item);
            }
        }
    }
    Some(())
}

fn entry_of(kind: Kind, bytes: &[u8], depth: usize) -> Option<(String, Value)> {
    let mut key = String::new();
    // A missing value is the type's zero.
    let mut item = value(kind, Wire::Bytes(&[]), depth).unwrap_or(Value::Null);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(text)) => key = text_of(text)?,
            (2, wire) => item = value(kind, wire, depth)?,
            _ => {}
        }
    }
    Some((key, item))
}

fn value(kind: Kind, wire: Wire<'_>, depth: usize) -> Option<Value> {
    Some(match (kind, wire) {
        (Kind::Integer, Wire::Varint(bits)) => integer(bits).into(),
        (Kind::Bool, Wire::Varint(bits)) => (bits != 0).into(),
        (Kind::Double, Wire::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Kind::Text, Wire::Bytes(bytes)) => text_of(bytes)?.into(),
        (Kind::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Kind::Time, Wire::Bytes(bytes)) => time(bytes, 0)?,
        (Kind::MicroTime, Wire::Bytes(bytes)) => time(bytes, 6)?,
        (Kind::Quantity, Wire::Bytes(bytes)) => match single(bytes)? {
            Some(Wire::Bytes(text)) => text_of(text)?.into(),
            _ => "0".into(),
        },
        (Kind::Duration, Wire::Bytes(bytes)) => match single(bytes)? {
            Some(Wire::Varint(nanoseconds)) => duration(integer(nanoseconds)).into(),
            _ => "0s".into(),
        },
        (Kind::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Kind::Json, Wire::Bytes(bytes)) => match single(bytes)? {
            Some(Wire::Bytes(json)) if !json.is_empty() => serde_json::from_slice(json).ok()?,
            _ => Value::Null,
        },
        (Kind::Message(name), Wire::Bytes(bytes)) => {
            let mut object = Map::new();
            message_into(name, bytes, &mut object, depth + 1)?;
            // Named list types are messages of one list.
            if name.ends_with(".ExtraValue") {
                object.remove("items").unwrap_or_default()
            } else {
                Value::Object(object)
            }
        }
        _ => return None,
    })
}

/// The first field of a message that has but one.
fn single(bytes: &[u8]) -> Option<Option<Wire<'_>>> {
    let mut reader = Reader::new(bytes);
    let mut found = None;
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            found = Some(wire);
        }
    }
    Some(found)
}

fn time(bytes: &[u8], digits: u8) -> Option<Value> {
    let (mut seconds, mut nanoseconds) = (0_i64, 0_i64);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(bits)) => seconds = integer(bits),
            (2, Wire::Varint(bits)) => nanoseconds = integer(bits),
            _ => {}
        }
    }
    // The zero time is an empty message: no time at all.
    if bytes.is_empty() {
        return Some(Value::Null);
    }
    let time = Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()?;
    Some(format!("{time:.precision$}", precision = usize::from(digits)).into())
}

fn int_or_string(bytes: &[u8]) -> Option<Value> {
    let (mut is_text, mut number, mut text) = (false, 0_i64, String::new());
    let mut reader = Reader::new(bytes);
    while let Some((field, wire)) = reader.next()? {
        match (field, wire) {
            (1, Wire::Varint(kind)) => is_text = kind == 1,
            (2, Wire::Varint(bits)) => number = integer(bits),
            (3, Wire::Bytes(bytes)) => text = text_of(bytes)?,
            _ => {}
        }
    }
    Some(if is_text { text.into() } else { number.into() })
}

/// Nanoseconds as Go writes them, in the one unit that is exact everywhere.
fn duration(nanoseconds: i64) -> String {
    match nanoseconds {
        0 => "0s".to_owned(),
        n if n % 1_000_000_000 == 0 => format!("{}s", n / 1_000_000_000),
        n => format!("{n}ns"),
    }
}

/// Negative numbers travel as 64 bits in two's complement, whatever their width.
fn integer(bits: u64) -> i64 {
    bits.cast_signed()
}

fn text_of(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
