//! Operators.

use std::cmp::Ordering;

use super::Function;
use crate::{
    budget::Budget,
    cost::Cost,
    error::Error,
    functions::time,
    types::ListKind,
    value::{Key, List, Value, by_keys, contains, keys_of},
};

const COMPARED: &[&str] = &[
    "bool, bool -> bool",
    "int, int -> bool",
    "uint, uint -> bool",
    "double, double -> bool",
    "int, uint -> bool",
    "int, double -> bool",
    "uint, int -> bool",
    "uint, double -> bool",
    "double, int -> bool",
    "double, uint -> bool",
    "string, string -> bool",
    "bytes, bytes -> bool",
    "timestamp, timestamp -> bool",
    "duration, duration -> bool",
];

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global(
        "_+_",
        &[
            "int, int -> int",
            "uint, uint -> uint",
            "double, double -> double",
            "string, string -> string",
            "bytes, bytes -> bytes",
            "list(A), list(A) -> list(A)",
            "timestamp, duration -> timestamp",
            "duration, timestamp -> timestamp",
            "duration, duration -> duration",
        ],
        Cost::Concatenate,
        add,
    ),
    Function::global(
        "_-_",
        &[
            "int, int -> int",
            "uint, uint -> uint",
            "double, double -> double",
            "timestamp, timestamp -> duration",
            "timestamp, duration -> timestamp",
            "duration, duration -> duration",
        ],
        Cost::Fixed(1),
        subtract,
    ),
    Function::global(
        "_*_",
        &["int, int -> int", "uint, uint -> uint", "double, double -> double"],
        Cost::Fixed(1),
        |args, _| match args {
            [Value::Int(a), Value::Int(b)] => a.checked_mul(*b).map(Value::Int).ok_or_else(overflow),
            [Value::Uint(a), Value::Uint(b)] => a.checked_mul(*b).map(Value::Uint).ok_or_else(unsigned_overflow),
            [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
            _ => Err(Error::no_overload()),
        },
    ),
    Function::global(
        "_/_",
        &["int, int -> int", "uint, uint -> uint", "double, double -> double"],
        Cost::Fixed(1),
        |args, _| match args {
            [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(Error::new("division by zero")),
            [Value::Int(a), Value::Int(b)] => a.checked_div(*b).map(Value::Int).ok_or_else(overflow),
            [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
            [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
            _ => Err(Error::no_overload()),
        },
    ),
    Function::global("_%_", &["int, int -> int", "uint, uint -> uint"], Cost::Fixed(1), |args, _| match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(Error::new("modulus by zero")),
        [Value::Int(a), Value::Int(b)] => a.checked_rem(*b).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
        _ => Err(Error::no_overload()),
    }),
    Function::global("-_", &["int -> int", "double -> double"], Cost::Fixed(1), |args, _| match args {
        [Value::Int(int)] => int.checked_neg().map(Value::Int).ok_or_else(overflow),
        [Value::Double(double)] => Ok(Value::Double(-double)),
        _ => Err(Error::no_overload()),
    }),
    Function::global("!_", &["bool -> bool"], Cost::Fixed(1), |args, _| match args {
        [Value::Bool(bool)] => Ok(Value::Bool(!bool)),
        _ => Err(Error::no_overload()),
    }),
    Function::global("_==_", &["A, A -> bool"], Cost::Compare, |args, budget| {
        let [a, b] = args else { return Err(Error::no_overload()) };
        Ok(Value::Bool(a.equals(b, budget)?))
    }),
    Function::global("_!=_", &["A, A -> bool"], Cost::Compare, |args, budget| {
        let [a, b] = args else { return Err(Error::no_overload()) };
        Ok(Value::Bool(!a.equals(b, budget)?))
    }),
    Function::global("_<_", COMPARED, Cost::Compare, |args, _| order(args, Ordering::is_lt)),
    Function::global("_<=_", COMPARED, Cost::Compare, |args, _| order(args, Ordering::is_le)),
    Function::global("_>_", COMPARED, Cost::Compare, |args, _| order(args, Ordering::is_gt)),
    Function::global("_>=_", COMPARED, Cost::Compare, |args, _| order(args, Ordering::is_ge)),
    Function::global("@in", &["A, list(A) -> bool", "A, map(A, B) -> bool"], Cost::In, |args, budget| match args {
        [wanted, Value::List(list)] => Ok(Value::Bool(contains(list, wanted, budget)?)),
        [wanted, Value::Map(map)] => match Key::of(wanted) {
            Some(key) => Ok(Value::Bool(map.get(&key, budget).transpose()?.is_some())),
            None => Ok(Value::Bool(false)),
        },
        _ => Err(Error::no_overload()),
    }),
];

fn overflow() -> Error {
    Error::new("integer overflow")
}

fn unsigned_overflow() -> Error {
    Error::new("unsigned integer overflow")
}

fn order<'a>(args: &[Value<'a>], accept: fn(Ordering) -> bool) -> Result<Value<'a>, Error> {
    let [a, b] = args else { return Err(Error::no_overload()) };
    match a.order(b) {
        Some(order) => Ok(Value::Bool(accept(order))),
        // Not a number: neither below nor above anything.
        None if a.is_number() && b.is_number() => Ok(Value::Bool(false)),
        None => Err(Error::no_overload()),
    }
}

fn add<'a>(args: &[Value<'a>], budget: &mut Budget) -> Result<Value<'a>, Error> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_add(*b).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(a), Value::Uint(b)] => a.checked_add(*b).map(Value::Uint).ok_or_else(unsigned_overflow),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] => Ok(Value::owned(format!("{}{}", a.as_str(), b.as_str()))),
        [Value::Bytes(a), Value::Bytes(b)] => Ok(Value::Bytes([&**a, &**b].concat().into())),
        [Value::List(a), Value::List(b)] => join(a, b, budget),
        [Value::Timestamp(at), Value::Duration(by)] | [Value::Duration(by), Value::Timestamp(at)] => {
            time::add(*at, *by).map(Value::Timestamp)
        }
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_add(*b).map(Value::Duration).ok_or_else(|| Error::new("duration overflow"))
        }
        _ => Err(Error::no_overload()),
    }
}

/// Appends; sets take no element twice, maps-as-lists take the second list's element where keys are the same.
fn join<'a>(a: &List<'a>, b: &List<'a>, budget: &mut Budget) -> Result<Value<'a>, Error> {
    let mut out = Vec::with_capacity(a.len() + b.len());
    let mut taken = |element: Value<'a>, budget: &mut Budget| {
        budget.step(&element)?;
        out.push(element);
        Ok::<_, Error>(())
    };
    match a.kind() {
        ListKind::Atomic => {
            for element in a.iter().chain(b.iter()) {
                taken(element, budget)?;
            }
        }
        ListKind::Set => {
            for element in a.iter() {
                taken(element, budget)?;
            }
            for element in b.iter() {
                if !contains(a, &element, budget)? {
                    taken(element, budget)?;
                }
            }
        }
        ListKind::Map(keys) => {
            let mut newer = by_keys(b, keys, budget)?;
            for element in a.iter() {
                let replaced = keys_of(&element, keys, budget)?.and_then(|key| newer.remove(&key));
                taken(replaced.unwrap_or(element), budget)?;
            }
            for element in b.iter() {
                if keys_of(&element, keys, budget)?.is_some_and(|key| newer.remove(&key).is_some()) {
                    taken(element, budget)?;
                }
            }
        }
    }
    Ok(Value::list(out))
}

fn subtract<'a>(args: &[Value<'a>], _: &mut Budget) -> Result<Value<'a>, Error> {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_sub(*b).map(Value::Int).ok_or_else(overflow),
        [Value::Uint(a), Value::Uint(b)] => a.checked_sub(*b).map(Value::Uint).ok_or_else(unsigned_overflow),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map(Value::Duration).map_err(|_| Error::new("duration overflow"))
        }
        [Value::Timestamp(at), Value::Duration(by)] => {
            let back = by.checked_neg().ok_or_else(|| Error::new("timestamp overflow"))?;
            time::add(*at, back).map(Value::Timestamp)
        }
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_sub(*b).map(Value::Duration).ok_or_else(|| Error::new("duration overflow"))
        }
        _ => Err(Error::no_overload()),
    }
}
