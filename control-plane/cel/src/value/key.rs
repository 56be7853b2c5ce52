//! Keys of maps.

use std::{cmp::Ordering, fmt, rc::Rc};

use super::Value;

/// A key of a map an expression made. Numbers of different types are the same key when they are the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `true` or `false`.
    Bool(bool),
    /// A signed number.
    Int(i64),
    /// An unsigned number beyond those.
    Uint(u64),
    /// Text.
    String(Rc<str>),
}

impl Key {
    /// The key a value is, if it can be one.
    pub fn of(value: &Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bool(bool) => Self::Bool(*bool),
            Value::Int(int) => Self::Int(*int),
            Value::Uint(uint) => i64::try_from(*uint).map_or(Self::Uint(*uint), Self::Int),
            #[expect(clippy::cast_possible_truncation, reason = "the range was checked")]
            Value::Double(double) if double.fract() == 0.0 && double.abs() < 9.2e18 => Self::Int(*double as i64),
            Value::String(text) => Self::String(text.as_str().into()),
            _ => return None,
        })
    }

    pub(crate) fn to_value<'a>(&self) -> Value<'a> {
        match self {
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Int(int) => Value::Int(*int),
            Self::Uint(uint) => Value::Uint(*uint),
            Self::String(text) => Value::owned(Rc::clone(text)),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Int(_) => 1,
            Self::Uint(_) => 2,
            Self::String(_) => 3,
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Uint(a), Self::Uint(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(bool) => write!(f, "{bool}"),
            Self::Int(int) => write!(f, "{int}"),
            Self::Uint(uint) => write!(f, "{uint}"),
            Self::String(text) => f.write_str(text),
        }
    }
}
