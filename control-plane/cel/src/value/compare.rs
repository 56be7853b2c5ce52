//! Equality and order, across the number types too.

use std::cmp::Ordering;

use super::{Key, List, Map, Value};
use crate::{budget::Budget, error::Error, types::ListKind};

impl<'a> Value<'a> {
    /// Whether two values are the same. Values of different types are not (numbers aside). Each value visited inside of
    /// lists and maps costs, so that a comparison of large structures ends with the budget.
    pub fn equals(&self, other: &Value<'a>, budget: &mut Budget) -> Result<bool, Error> {
        Ok(match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::String(a), Self::String(b)) => a.as_str() == b.as_str(),
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Type(a), Self::Type(b)) => a == b,
            (Self::List(a), Self::List(b)) => return lists_equal(a, b, budget),
            (Self::Map(a), Self::Map(b)) => return maps_equal(a, b, budget),
            (Self::Optional(a), Self::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => return a.equals(b, budget),
                (None, None) => true,
                _ => false,
            },
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => a.cmp_precedence(b) == Ordering::Equal,
            (Self::Format(a), Self::Format(b)) => std::ptr::eq(*a, *b),
            (a, b) => numbers(a, b) == Some(Ordering::Equal),
        })
    }

    /// Which comes first; None if the types have no order between them (or one is not a number).
    pub fn order(&self, other: &Value<'a>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::String(a), Self::String(b)) => Some(a.as_str().cmp(b.as_str())),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            (a, b) => numbers(a, b),
        }
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self, Self::Int(_) | Self::Uint(_) | Self::Double(_))
    }
}

fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    use Value::{Double, Int, Uint};
    match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(b)),
        (Uint(a), Uint(b)) => Some(a.cmp(b)),
        (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Double(a), Double(b)) => a.partial_cmp(b),
        (Double(a), Int(b)) => with_double(*a, i128::from(*b)),
        (Double(a), Uint(b)) => with_double(*a, i128::from(*b)),
        (Int(a), Double(b)) => with_double(*b, i128::from(*a)).map(Ordering::reverse),
        (Uint(a), Double(b)) => with_double(*b, i128::from(*a)).map(Ordering::reverse),
        _ => None,
    }
}

/// Compares without losing the low digits of large numbers.
fn with_double(double: f64, int: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Casting saturates, and every 64-bit number is far inside.
    #[expect(clippy::cast_possible_truncation, reason = "saturates")]
    let whole = double.trunc() as i128;
    Some(whole.cmp(&int).then_with(|| double.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
}

fn lists_equal<'a>(a: &List<'a>, b: &List<'a>, budget: &mut Budget) -> Result<bool, Error> {
    if a.len() != b.len() {
        return Ok(false);
    }
    let kind = match (a.kind(), b.kind()) {
        (ListKind::Atomic, kind) | (kind, _) => kind,
    };
    match kind {
        ListKind::Atomic => {
            for (a, b) in a.iter().zip(b.iter()) {
                budget.step(&a)?;
                if !a.equals(&b, budget)? {
                    return Ok(false);
                }
            }
        }
        ListKind::Set => {
            for element in a.iter() {
                if !contains(b, &element, budget)? {
                    return Ok(false);
                }
            }
        }
        ListKind::Map(keys) => {
            let other = by_keys(b, keys, budget)?;
            for element in a.iter() {
                budget.step(&element)?;
                match keys_of(&element, keys, budget)?.and_then(|key| other.get(&key).cloned()) {
                    Some(twin) if element.equals(&twin, budget)? => {}
                    _ => return Ok(false),
                }
            }
        }
    }
    Ok(true)
}

/// Whether a list has an element.
pub(crate) fn contains<'a>(list: &List<'a>, wanted: &Value<'a>, budget: &mut Budget) -> Result<bool, Error> {
    for element in list.iter() {
        budget.step(&element)?;
        if element.equals(wanted, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

type ByKeys<'a> = std::collections::BTreeMap<Vec<Option<Key>>, Value<'a>>;

/// The elements of a list by the keys that tell them apart.
pub(crate) fn by_keys<'a>(list: &List<'a>, keys: &[String], budget: &mut Budget) -> Result<ByKeys<'a>, Error> {
    let mut out = ByKeys::new();
    for element in list.iter() {
        budget.step(&element)?;
        if let Some(key) = keys_of(&element, keys, budget)? {
            out.insert(key, element);
        }
    }
    Ok(out)
}

pub(crate) fn keys_of(
    element: &Value<'_>,
    keys: &[String],
    budget: &mut Budget,
) -> Result<Option<Vec<Option<Key>>>, Error> {
    let Value::Map(map) = element else { return Ok(None) };
    let mut out = Vec::with_capacity(keys.len());
    for key in keys {
        let escaped = crate::schema::escape(key);
        let found = map.field(escaped.as_deref().unwrap_or(key), budget).transpose()?;
        out.push(found.as_ref().and_then(Key::of));
    }
    Ok(Some(out))
}

fn maps_equal<'a>(a: &Map<'a>, b: &Map<'a>, budget: &mut Budget) -> Result<bool, Error> {
    let keys = a.keys();
    if keys.len() != b.keys().len() {
        return Ok(false);
    }
    for key in keys {
        let Some(key) = Key::of(&key) else { return Ok(false) };
        let (Some(mine), Some(theirs)) = (a.get(&key, budget).transpose()?, b.get(&key, budget).transpose()?) else {
            return Ok(false);
        };
        budget.step(&mine)?;
        if !mine.equals(&theirs, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}
