//! Values that may be absent. `?.`, `[?]`, `optMap` and `optFlatMap` are not functions but syntax.

use super::Function;
use crate::{
    cost::Cost,
    error::Error,
    value::{Text, Value},
};

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global("optional.of", &["A -> optional(A)"], Cost::Fixed(1), |args, _| match args {
        [value] => Ok(Value::some(value.clone())),
        _ => Err(Error::no_overload()),
    }),
    Function::global("optional.ofNonZeroValue", &["A -> optional(A)"], Cost::Fixed(1), |args, _| match args {
        [value] if is_zero(value) => Ok(Value::NONE),
        [value] => Ok(Value::some(value.clone())),
        _ => Err(Error::no_overload()),
    }),
    Function::global("optional.none", &["-> optional(A)"], Cost::Fixed(1), |_, _| Ok(Value::NONE)),
    Function::member("hasValue", &["optional(A) -> bool"], Cost::Fixed(1), |args, _| match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => Err(Error::no_overload()),
    }),
    Function::member("value", &["optional(A) -> A"], Cost::Fixed(1), |args, _| match args {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(Error::new("optional.none() dereference")),
        _ => Err(Error::no_overload()),
    }),
    Function::member("or", &["optional(A), optional(A) -> optional(A)"], Cost::Fixed(1), |args, _| match args {
        [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
        [value @ Value::Optional(Some(_)), Value::Optional(_)] => Ok(value.clone()),
        _ => Err(Error::no_overload()),
    }),
    Function::member("orValue", &["optional(A), A -> A"], Cost::Fixed(1), |args, _| match args {
        [Value::Optional(Some(value)), _] => Ok((**value).clone()),
        [Value::Optional(None), other] => Ok(other.clone()),
        _ => Err(Error::no_overload()),
    }),
    Function::global("optional.unwrap", &["list(optional(A)) -> list(A)"], Cost::Elements(0), |args, _| unwrap(args)),
    Function::member("unwrapOpt", &["list(optional(A)) -> list(A)"], Cost::Elements(0), |args, _| unwrap(args)),
];

fn unwrap<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let [Value::List(list)] = args else { return Err(Error::no_overload()) };
    let mut out = Vec::new();
    for element in list.iter() {
        match element {
            Value::Optional(Some(value)) => out.push((*value).clone()),
            Value::Optional(None) => {}
            _ => return Err(Error::no_overload()),
        }
    }
    Ok(Value::list(out))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(bool) => !bool,
        Value::Int(int) => *int == 0,
        Value::Uint(uint) => *uint == 0,
        Value::Double(double) => *double == 0.0,
        Value::String(Text::Borrowed(text)) => text.is_empty(),
        Value::String(Text::Owned(text)) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(nanos) => *nanos == 0,
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Optional(inner) => inner.is_none(),
        _ => false,
    }
}
