//! Messages whose JSON is something else than an object with their fields.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    Error, MAGIC, decode, duration, encode,
    schema::{self, Special},
    wire::{BYTES, Reader, VARINT, put_bytes, put_nested, put_number},
};

/// The years 0 to 9999, which RFC 3339 can say.
const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;
/// The first of January of the year 1, Go's zero time.
const GO_ZERO: i64 = -62_135_596_800;

/// All values of a small message, by number, as they are.
enum Found<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Calls `each` for every field of the message.
fn each<'a>(bytes: &'a [u8], mut each: impl FnMut(u32, Found<'a>) -> Result<(), Error>) -> Result<(), Error> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.tag()? {
        match wire {
            VARINT => each(number, Found::Number(reader.varint()?))?,
            BYTES => each(number, Found::Bytes(reader.bytes()?))?,
            other => reader.skip(other)?,
        }
    }
    Ok(())
}

/// From the inside of a message to JSON; none where JSON would say null.
pub(crate) fn from_wire(
    special: Special,
    name: &'static str,
    bytes: &[u8],
    depth: usize,
) -> Result<Option<Value>, Error> {
    if depth > crate::MAX_DEPTH {
        return Err(Error::TooDeep);
    }
    let wrong = |wire| Error::WireType { field: name, wire };
    // The fields with the numbers 1 to 3, as far as they are numbers or bytes.
    let (mut numbers, mut texts) = ([None; 4], [None; 4]);
    let mut items = Vec::new();
    each(bytes, |number, found| {
        let slot = number as usize;
        match found {
            Found::Number(value) if slot < 4 => numbers[slot] = Some(value),
            Found::Bytes(value) if slot < 4 => {
                texts[slot] = Some(value);
                let list = match special {
                    Special::Items => number == 1,
                    Special::OrArray | Special::OrStrings => number == 2,
                    _ => false,
                };
                if list {
                    items.push(value);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    let number = |slot: usize| if texts[slot].is_some() { Err(wrong(BYTES)) } else { Ok(numbers[slot].unwrap_or(0)) };
    let text = |slot: usize| if numbers[slot].is_some() { Err(wrong(VARINT)) } else { Ok(texts[slot]) };
    let string = |bytes: &[u8]| decode::text(bytes, name).map(|text| Value::String(text.to_owned()));
    let schema = |bytes: &[u8]| {
        Ok::<Value, Error>(decode::message(schema::json_schema(), name, bytes, depth + 1)?.unwrap_or_default())
    };
    Ok(Some(match special {
        Special::None => Value::Null,
        Special::Time => return time(number(1)? as i64, 0, name, "%Y-%m-%dT%H:%M:%SZ"),
        Special::MicroTime => {
            return time(number(1)? as i64, number(2)? as i32, name, "%Y-%m-%dT%H:%M:%S.%6fZ");
        }
        Special::Duration => Value::String(duration::format(number(1)? as i64)),
        Special::Quantity => match text(1)? {
            Some(text) if !text.is_empty() => string(text)?,
            _ => Value::String("0".to_owned()),
        },
        Special::IntOrString if number(1)? == 0 => (number(2)? as i32).into(),
        Special::IntOrString => string(text(3)?.unwrap_or_default())?,
        Special::Raw => match text(1)? {
            None | Some([]) => return Ok(None),
            Some(raw) if raw.starts_with(&MAGIC) => decode::enveloped(raw, depth + 1)?.1,
            Some(raw) => serde_json::from_slice(raw)?,
        },
        Special::Items => Value::Array(items.into_iter().map(string).collect::<Result<_, _>>()?),
        Special::OrBool => match text(2)? {
            Some(bytes) => schema(bytes)?,
            None => Value::Bool(number(1)? != 0),
        },
        Special::OrArray | Special::OrStrings => match text(1)? {
            Some(bytes) => schema(bytes)?,
            None if special == Special::OrArray => {
                Value::Array(items.into_iter().map(schema).collect::<Result<_, _>>()?)
            }
            None => Value::Array(items.into_iter().map(string).collect::<Result<_, _>>()?),
        },
    }))
}

fn time(seconds: i64, nanos: i32, name: &'static str, format: &str) -> Result<Option<Value>, Error> {
    // Upstream takes both for no time at all.
    if matches!(seconds, 0 | GO_ZERO) && nanos == 0 {
        return Ok(None);
    }
    if !YEARS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return Err(Error::Time(name));
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| Error::Time(name))?;
    Ok(Some(Value::String(time.strftime(format).to_string())))
}

/// From JSON to the inside of a message.
pub(crate) fn to_wire(
    special: Special,
    name: &'static str,
    json: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), Error> {
    let wrong = |expected| Error::Type { field: name, expected };
    let schema = |json: &Value, out: &mut Vec<u8>| encode::message(schema::json_schema(), name, json, out, depth + 1);
    match special {
        Special::None => {}
        Special::Time | Special::MicroTime => {
            let time: Timestamp = encode::text(json, name)?.parse().map_err(|_| Error::Time(name))?;
            // Nanoseconds count from the second before.
            let mut seconds = time.as_second();
            let mut nanos = time.subsec_nanosecond();
            if nanos < 0 {
                seconds -= 1;
                nanos += 1_000_000_000;
            }
            put_number(out, 1, seconds);
            put_number(out, 2, if special == Special::Time { 0 } else { i64::from(nanos) / 1000 * 1000 });
        }
        Special::Duration => {
            put_number(out, 1, duration::parse(encode::text(json, name)?).ok_or_else(|| wrong("a duration"))?);
        }
        Special::Quantity => match json {
            Value::String(text) => put_bytes(out, 1, text.as_bytes()),
            Value::Number(number) => put_bytes(out, 1, number.to_string().as_bytes()),
            _ => return Err(wrong("a quantity")),
        },
        Special::IntOrString => {
            let (is_text, number, text) = match json {
                Value::String(text) => (1, 0, text.as_str()),
                json => {
                    let number = json.as_i64().and_then(|number| i32::try_from(number).ok());
                    (0, number.ok_or_else(|| wrong("a number or a string"))?, "")
                }
            };
            put_number(out, 1, is_text);
            put_number(out, 2, number.into());
            put_bytes(out, 3, text.as_bytes());
        }
        Special::Raw => put_bytes(out, 1, &serde_json::to_vec(json)?),
        Special::Items => {
            for item in json.as_array().ok_or_else(|| wrong("a list"))? {
                put_bytes(out, 1, encode::text(item, name)?.as_bytes());
            }
        }
        Special::OrBool => match json {
            Value::Bool(allows) => encode::put_bool(out, 1, *allows),
            json => {
                encode::put_bool(out, 1, true);
                put_nested(out, 2, |out| schema(json, out))?;
            }
        },
        Special::OrArray | Special::OrStrings => match json {
            Value::Array(items) => {
                for item in items {
                    if special == Special::OrArray {
                        put_nested(out, 2, |out| schema(item, out))?;
                    } else {
                        put_bytes(out, 2, encode::text(item, name)?.as_bytes());
                    }
                }
            }
            json => put_nested(out, 1, |out| schema(json, out))?,
        },
    }
    Ok(())
}
