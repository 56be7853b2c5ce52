//! Quantities of resources.

use std::cmp::Ordering;

use skep_api::quantity::{Format, Quantity};

use super::{Function, text};
use crate::{cost::Cost, error::Error, value::Value};

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global("quantity", &["string -> quantity"], Cost::Walk(0, 1), |args, _| {
        Quantity::parse(text(args, 0)?).map(Value::Quantity).map_err(|error| Error::new(error.to_string()))
    }),
    Function::global("isQuantity", &["string -> bool"], Cost::Walk(0, 1), |args, _| {
        Ok(Value::Bool(Quantity::parse(text(args, 0)?).is_ok()))
    }),
    Function::member("sign", &["quantity -> int"], Cost::Fixed(1), |args, _| {
        let quantity = quantity(args, 0)?;
        Ok(Value::Int(if quantity.is_zero() {
            0
        } else if quantity.is_negative() {
            -1
        } else {
            1
        }))
    }),
    Function::member("isInteger", &["quantity -> bool"], Cost::Fixed(1), |args, _| {
        Ok(Value::Bool(whole(quantity(args, 0)?).is_some()))
    }),
    Function::member("asInteger", &["quantity -> int"], Cost::Fixed(1), |args, _| {
        whole(quantity(args, 0)?).map(Value::Int).ok_or_else(|| Error::new("cannot convert value to integer"))
    }),
    Function::member("asApproximateFloat", &["quantity -> double"], Cost::Fixed(1), |args, _| {
        Ok(Value::Double(approximate(quantity(args, 0)?)))
    }),
    Function::member(
        "add",
        &["quantity, quantity -> quantity", "quantity, int -> quantity"],
        Cost::Fixed(1),
        |args, _| Ok(Value::Quantity(quantity(args, 0)? + quantity(args, 1)?)),
    ),
    Function::member(
        "sub",
        &["quantity, quantity -> quantity", "quantity, int -> quantity"],
        Cost::Fixed(1),
        |args, _| Ok(Value::Quantity(quantity(args, 0)? - quantity(args, 1)?)),
    ),
    Function::member(
        "isLessThan",
        &["quantity, quantity -> bool", "semver, semver -> bool"],
        Cost::Fixed(1),
        |args, _| Ok(Value::Bool(compare(args)?.is_lt())),
    ),
    Function::member(
        "isGreaterThan",
        &["quantity, quantity -> bool", "semver, semver -> bool"],
        Cost::Fixed(1),
        |args, _| Ok(Value::Bool(compare(args)?.is_gt())),
    ),
    Function::member(
        "compareTo",
        &["quantity, quantity -> int", "semver, semver -> int"],
        Cost::Fixed(1),
        |args, _| Ok(Value::Int(compare(args)? as i64)),
    ),
];

fn quantity(args: &[Value<'_>], index: usize) -> Result<Quantity, Error> {
    match args.get(index) {
        Some(Value::Quantity(quantity)) => Ok(*quantity),
        Some(Value::Int(int)) if index > 0 => Ok(Quantity::from_units(*int, Format::DecimalSi)),
        _ => Err(Error::no_overload()),
    }
}

/// The number of units, if it is whole and fits.
fn whole(quantity: Quantity) -> Option<i64> {
    let units = quantity.value();
    (Quantity::from_units(units, quantity.format()) == quantity).then_some(units)
}

#[expect(clippy::cast_precision_loss, reason = "it is asked for approximately")]
fn approximate(quantity: Quantity) -> f64 {
    match whole(quantity) {
        Some(units) => units as f64,
        // Rounded up to thousandths is what upstream's callers see of sizes that matter; finer digits come from the text.
        None => {
            let units = quantity.value();
            let rest = Quantity::from_units(units, quantity.format()) - quantity;
            units as f64 - fraction(rest)
        }
    }
}

/// A quantity below one.
#[expect(clippy::cast_precision_loss, reason = "a billionth fits")]
fn fraction(quantity: Quantity) -> f64 {
    (quantity * 1_000_000_000).value() as f64 / 1e9
}

/// The order of two quantities or of two versions, which share these functions' names.
fn compare(args: &[Value<'_>]) -> Result<Ordering, Error> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(a.cmp(b)),
        [Value::Semver(a), Value::Semver(b)] => Ok(a.cmp_precedence(b)),
        _ => Err(Error::no_overload()),
    }
}
