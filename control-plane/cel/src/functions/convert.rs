//! Conversions between types.

use std::rc::Rc;

use super::{Function, print::double_text, time};
use crate::{budget::Budget, cost::Cost, error::Error, value::Value};

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global(
        "int",
        &["int -> int", "uint -> int", "double -> int", "string -> int", "timestamp -> int", "duration -> int"],
        Cost::Fixed(1),
        to_int,
    ),
    Function::global(
        "uint",
        &["uint -> uint", "int -> uint", "double -> uint", "string -> uint"],
        Cost::Fixed(1),
        to_uint,
    ),
    Function::global(
        "double",
        &["double -> double", "int -> double", "uint -> double", "string -> double"],
        Cost::Fixed(1),
        to_double,
    ),
    Function::global(
        "string",
        &[
            "string -> string",
            "int -> string",
            "uint -> string",
            "double -> string",
            "bool -> string",
            "bytes -> string",
            "timestamp -> string",
            "duration -> string",
            "ip -> string",
            "cidr -> string",
        ],
        Cost::Walk(0, 1),
        to_string,
    ),
    Function::global("bytes", &["bytes -> bytes", "string -> bytes"], Cost::Walk(0, 1), |args, _| match args {
        [Value::Bytes(bytes)] => Ok(Value::Bytes(Rc::clone(bytes))),
        [Value::String(text)] => Ok(Value::Bytes(text.as_str().as_bytes().into())),
        _ => Err(Error::no_overload()),
    }),
    Function::global("bool", &["bool -> bool", "string -> bool"], Cost::Fixed(1), |args, _| match args {
        [Value::Bool(bool)] => Ok(Value::Bool(*bool)),
        [Value::String(text)] => match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => Err(unconvertible("string", "bool")),
        },
        _ => Err(Error::no_overload()),
    }),
    Function::global("dyn", &["A -> dyn"], Cost::Fixed(1), |args, _| {
        args.first().cloned().ok_or_else(Error::no_overload)
    }),
    Function::global("type", &["A -> type"], Cost::Fixed(1), |args, _| {
        args.first().map(|value| Value::Type(value.type_name().into())).ok_or_else(Error::no_overload)
    }),
    Function::global(
        "duration",
        &["duration -> duration", "string -> duration", "int -> duration"],
        Cost::Fixed(1),
        |args, _| match args {
            [Value::Duration(nanos)] => Ok(Value::Duration(*nanos)),
            [Value::Int(nanos)] => Ok(Value::Duration(*nanos)),
            [Value::String(text)] => time::parse_duration(text.as_str())
                .map(Value::Duration)
                .ok_or_else(|| unconvertible("string", "google.protobuf.Duration")),
            _ => Err(Error::no_overload()),
        },
    ),
    Function::global(
        "timestamp",
        &["timestamp -> timestamp", "string -> timestamp", "int -> timestamp"],
        Cost::Fixed(1),
        |args, _| match args {
            [Value::Timestamp(moment)] => Ok(Value::Timestamp(*moment)),
            [Value::Int(seconds)] => time::from_seconds(*seconds).map(Value::Timestamp),
            [Value::String(text)] => time::parse_timestamp(text.as_str())
                .map(Value::Timestamp)
                .ok_or_else(|| unconvertible("string", "google.protobuf.Timestamp")),
            _ => Err(Error::no_overload()),
        },
    ),
];

fn unconvertible(from: &str, to: &str) -> Error {
    Error::new(format!("type conversion error from '{from}' to '{to}'"))
}

fn overflow() -> Error {
    Error::new("integer overflow")
}

#[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
fn to_int<'a>(args: &[Value<'a>], _: &mut Budget) -> Result<Value<'a>, Error> {
    match args {
        [Value::Int(int)] => Ok(Value::Int(*int)),
        [Value::Uint(uint)] => i64::try_from(*uint).map(Value::Int).map_err(|_| overflow()),
        [Value::Double(double)] if double.abs() < 9_223_372_036_854_775_808.0 => Ok(Value::Int(*double as i64)),
        [Value::Double(_)] => Err(overflow()),
        [Value::String(text)] => text.as_str().parse().map(Value::Int).map_err(|_| unconvertible("string", "int")),
        [Value::Timestamp(moment)] => Ok(Value::Int(moment.as_nanosecond().div_euclid(1_000_000_000) as i64)),
        [Value::Duration(nanos)] => Ok(Value::Int(*nanos)),
        _ => Err(Error::no_overload()),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
fn to_uint<'a>(args: &[Value<'a>], _: &mut Budget) -> Result<Value<'a>, Error> {
    let overflow = || Error::new("unsigned integer overflow");
    match args {
        [Value::Uint(uint)] => Ok(Value::Uint(*uint)),
        [Value::Int(int)] => u64::try_from(*int).map(Value::Uint).map_err(|_| overflow()),
        [Value::Double(double)] if *double >= 0.0 && *double < 18_446_744_073_709_551_616.0 => {
            Ok(Value::Uint(*double as u64))
        }
        [Value::Double(_)] => Err(overflow()),
        [Value::String(text)] => text.as_str().parse().map(Value::Uint).map_err(|_| unconvertible("string", "uint")),
        _ => Err(Error::no_overload()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "that is what the conversion means")]
fn to_double<'a>(args: &[Value<'a>], _: &mut Budget) -> Result<Value<'a>, Error> {
    match args {
        [Value::Double(double)] => Ok(Value::Double(*double)),
        [Value::Int(int)] => Ok(Value::Double(*int as f64)),
        [Value::Uint(uint)] => Ok(Value::Double(*uint as f64)),
        [Value::String(text)] => {
            text.as_str().parse().map(Value::Double).map_err(|_| unconvertible("string", "double"))
        }
        _ => Err(Error::no_overload()),
    }
}

fn to_string<'a>(args: &[Value<'a>], _: &mut Budget) -> Result<Value<'a>, Error> {
    Ok(match args {
        [Value::String(text)] => Value::String(text.clone()),
        [Value::Int(int)] => Value::owned(int.to_string()),
        [Value::Uint(uint)] => Value::owned(uint.to_string()),
        [Value::Double(double)] => Value::owned(double_text(*double)),
        [Value::Bool(bool)] => Value::owned(bool.to_string()),
        [Value::Bytes(bytes)] => match std::str::from_utf8(bytes) {
            Ok(text) => Value::owned(text),
            Err(_) => return Err(Error::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        [Value::Timestamp(moment)] => Value::owned(moment.to_string()),
        [Value::Duration(nanos)] => Value::owned(time::format_duration(*nanos)),
        [Value::Ip(ip)] => Value::owned(ip.to_string()),
        [Value::Cidr(net)] => Value::owned(net.to_string()),
        _ => return Err(Error::no_overload()),
    })
}
