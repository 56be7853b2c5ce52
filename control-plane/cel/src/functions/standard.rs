//! Functions on strings, lists and maps that the language itself has.

use super::{Function, regexes, text};
use crate::{cost::Cost, error::Error, value::Value};

const SIZED: &[&str] = &["string -> int", "bytes -> int", "list(A) -> int", "map(A, B) -> int"];

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global("size", SIZED, Cost::Fixed(1), |args, _| size(args)),
    Function::member("size", SIZED, Cost::Fixed(1), |args, _| size(args)),
    Function::member("startsWith", &["string, string -> bool"], Cost::Walk(1, 1), |args, _| {
        Ok(Value::Bool(text(args, 0)?.starts_with(text(args, 1)?)))
    }),
    Function::member("endsWith", &["string, string -> bool"], Cost::Walk(1, 1), |args, _| {
        Ok(Value::Bool(text(args, 0)?.ends_with(text(args, 1)?)))
    }),
    Function::member("contains", &["string, string -> bool"], Cost::Contains, |args, _| {
        Ok(Value::Bool(text(args, 0)?.contains(text(args, 1)?)))
    }),
    Function::member("matches", &["string, string -> bool"], Cost::Regex, |args, _| {
        Ok(Value::Bool(regexes::compiled(text(args, 1)?)?.is_match(text(args, 0)?)))
    }),
    Function::global("matches", &["string, string -> bool"], Cost::Regex, |args, _| {
        Ok(Value::Bool(regexes::compiled(text(args, 1)?)?.is_match(text(args, 0)?)))
    }),
];

fn size<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let size = match args {
        [Value::String(text)] => text.as_str().chars().count(),
        [Value::Bytes(bytes)] => bytes.len(),
        [Value::List(list)] => list.len(),
        [Value::Map(map)] => map.keys().len(),
        _ => return Err(Error::no_overload()),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}
