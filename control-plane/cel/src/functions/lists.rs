//! The Kubernetes list library.

use super::Function;
use crate::{budget::Budget, cost::Cost, error::Error, value::Value};

pub(super) static FUNCTIONS: &[Function] = &[
    Function::member(
        "isSorted",
        &[
            "list(int) -> bool",
            "list(uint) -> bool",
            "list(double) -> bool",
            "list(bool) -> bool",
            "list(duration) -> bool",
            "list(timestamp) -> bool",
            "list(string) -> bool",
            "list(bytes) -> bool",
        ],
        Cost::Elements(0),
        |args, _| {
            let mut before: Option<Value<'_>> = None;
            for element in elements(args)? {
                if let Some(before) = &before
                    && before.order(&element).ok_or_else(Error::no_overload)?.is_gt()
                {
                    return Ok(Value::Bool(false));
                }
                before = Some(element);
            }
            Ok(Value::Bool(true))
        },
    ),
    Function::member(
        "sum",
        &["list(int) -> int", "list(uint) -> uint", "list(double) -> double", "list(duration) -> duration"],
        Cost::Elements(0),
        sum,
    ),
    Function::member("min", EXTREME, Cost::Elements(0), |args, _| extreme(args, "min", std::cmp::Ordering::is_lt)),
    Function::member("max", EXTREME, Cost::Elements(0), |args, _| extreme(args, "max", std::cmp::Ordering::is_gt)),
    Function::member("indexOf", INDEX, Cost::Elements(0), |args, budget| match args {
        [Value::List(list), wanted] => {
            for (index, element) in list.iter().enumerate() {
                budget.step(&element)?;
                if element.equals(wanted, budget)? {
                    return Ok(number(index));
                }
            }
            Ok(Value::Int(-1))
        }
        _ => super::strings::index_of(args),
    }),
    Function::member("lastIndexOf", INDEX, Cost::Elements(0), |args, budget| match args {
        [Value::List(list), wanted] => {
            let mut found = Value::Int(-1);
            for (index, element) in list.iter().enumerate() {
                budget.step(&element)?;
                if element.equals(wanted, budget)? {
                    found = number(index);
                }
            }
            Ok(found)
        }
        _ => super::strings::last_index_of(args),
    }),
];

/// Of lists and, from the string library, of texts.
const INDEX: &[&str] = &["list(A), A -> int", "string, string -> int", "string, string, int -> int"];

const EXTREME: &[&str] = &[
    "list(int) -> int",
    "list(uint) -> uint",
    "list(double) -> double",
    "list(bool) -> bool",
    "list(duration) -> duration",
    "list(timestamp) -> timestamp",
    "list(string) -> string",
    "list(bytes) -> bytes",
];

fn number<'a>(index: usize) -> Value<'a> {
    Value::Int(i64::try_from(index).unwrap_or(i64::MAX))
}

fn elements<'v, 'a>(args: &'v [Value<'a>]) -> Result<impl Iterator<Item = Value<'a>> + 'v, Error> {
    match args {
        [Value::List(list)] => Ok(list.iter()),
        _ => Err(Error::no_overload()),
    }
}

fn sum<'a>(args: &[Value<'a>], _: &mut Budget) -> Result<Value<'a>, Error> {
    let mut total: Option<Value<'a>> = None;
    for element in elements(args)? {
        let overflow = || Error::new("integer overflow");
        total = Some(match (total, element) {
            (None, first @ (Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_))) => first,
            (Some(Value::Int(a)), Value::Int(b)) => Value::Int(a.checked_add(b).ok_or_else(overflow)?),
            (Some(Value::Uint(a)), Value::Uint(b)) => Value::Uint(a.checked_add(b).ok_or_else(overflow)?),
            (Some(Value::Double(a)), Value::Double(b)) => Value::Double(a + b),
            (Some(Value::Duration(a)), Value::Duration(b)) => {
                Value::Duration(a.checked_add(b).ok_or_else(|| Error::new("duration overflow"))?)
            }
            _ => return Err(Error::no_overload()),
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(args: &[Value<'a>], name: &str, better: fn(std::cmp::Ordering) -> bool) -> Result<Value<'a>, Error> {
    let mut best: Option<Value<'a>> = None;
    for element in elements(args)? {
        best = Some(match best {
            None => element,
            Some(best) if better(element.order(&best).ok_or_else(Error::no_overload)?) => element,
            Some(best) => best,
        });
    }
    best.ok_or_else(|| Error::new(format!("{name} called on empty list")))
}
