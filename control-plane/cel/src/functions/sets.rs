//! Lists as sets.

use super::Function;
use crate::{
    budget::Budget,
    cost::Cost,
    error::Error,
    value::{List, Value, contains},
};

const LISTS: &[&str] = &["list(A), list(A) -> bool"];

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global("sets.contains", LISTS, Cost::Product, |args, budget| {
        let (a, b) = lists(args)?;
        Ok(Value::Bool(all(b, a, budget)?))
    }),
    Function::global("sets.equivalent", LISTS, Cost::Product, |args, budget| {
        let (a, b) = lists(args)?;
        Ok(Value::Bool(all(b, a, budget)? && all(a, b, budget)?))
    }),
    Function::global("sets.intersects", LISTS, Cost::Product, |args, budget| {
        let (a, b) = lists(args)?;
        for element in a.iter() {
            if contains(b, &element, budget)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
];

fn lists<'v, 'a>(args: &'v [Value<'a>]) -> Result<(&'v List<'a>, &'v List<'a>), Error> {
    match args {
        [Value::List(a), Value::List(b)] => Ok((a, b)),
        _ => Err(Error::no_overload()),
    }
}

/// Whether all elements of `these` are in `list`.
fn all<'a>(these: &List<'a>, list: &List<'a>, budget: &mut Budget) -> Result<bool, Error> {
    for element in these.iter() {
        if !contains(list, &element, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}
