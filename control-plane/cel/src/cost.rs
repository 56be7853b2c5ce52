//! What calls cost, before and while an expression runs.
//!
//! Both use the same formulas: the estimate puts in the greatest sizes the types allow, the actual cost those of the values.

use crate::{types::Type, value::Value};

/// From the least to the most; a cost or a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The least.
    pub min: u64,
    /// The most; `u64::MAX` when nothing bounds it.
    pub max: u64,
}

impl Range {
    pub(crate) const ZERO: Self = Self::exactly(0);

    pub(crate) const fn exactly(cost: u64) -> Self {
        Self { min: cost, max: cost }
    }

    pub(crate) const fn up_to(max: u64) -> Self {
        Self { min: 0, max }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub(crate) fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Either of two.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// The cost of reading a variable or a field.
pub(crate) const READ: u64 = 1;
/// The cost of a list literal.
pub(crate) const NEW_LIST: u64 = 10;
/// The cost of a map literal.
pub(crate) const NEW_MAP: u64 = 30;

/// How the cost of a call grows with its arguments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cost {
    /// Not at all.
    Fixed(u64),
    /// With the size of one argument, in tenths.
    Walk(usize, u64),
    /// With the number of elements (of text, characters in tenths) of one argument.
    Elements(usize),
    /// With text and pattern.
    Regex,
    /// With both texts.
    Contains,
    /// With the shorter of two.
    Compare,
    /// With the sum of two texts.
    Concatenate,
    /// With the list that is searched.
    In,
    /// With the product of two lists.
    Product,
    /// With the length of addresses.
    Network,
}

/// What matters of a value's type to a cost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text,
    List,
    Map,
    Scalar,
    Unknown,
}

impl Cost {
    /// What a call costs.
    pub(crate) fn actual(self, args: &[Value<'_>]) -> u64 {
        self.of(
            |index| args.get(index).map_or(1, Value::size),
            |index| match args.get(index) {
                Some(Value::String(_) | Value::Bytes(_)) => Shape::Text,
                Some(Value::List(_)) => Shape::List,
                Some(Value::Map(_)) => Shape::Map,
                _ => Shape::Scalar,
            },
        )
    }

    /// What a call may cost.
    pub(crate) fn estimate(self, types: &[Type], sizes: &[Range]) -> Range {
        let shape = |index: usize| match types.get(index) {
            Some(Type::String(_) | Type::Bytes(_)) => Shape::Text,
            Some(Type::List(_)) => Shape::List,
            Some(Type::Map(_)) => Shape::Map,
            Some(Type::Dyn | Type::Param(_)) => Shape::Unknown,
            _ => Shape::Scalar,
        };
        Range {
            min: self.of(|index| sizes.get(index).map_or(1, |size| size.min), shape),
            max: self.of(|index| sizes.get(index).map_or(1, |size| size.max), shape),
        }
    }

    fn of(self, size: impl Fn(usize) -> u64, shape: impl Fn(usize) -> Shape) -> u64 {
        let tenth = |size: u64| size.div_ceil(10);
        match self {
            Self::Fixed(cost) => cost,
            Self::Walk(index, tenths) => match shape(index) {
                Shape::Scalar => 1,
                _ if tenths == 10 => size(index),
                _ => size(index).saturating_mul(tenths).div_ceil(10),
            },
            Self::Elements(index) if shape(index) == Shape::Text => tenth(size(index)),
            Self::Elements(index) => size(index),
            Self::Regex => tenth(size(0).saturating_add(1)).saturating_mul(size(1).div_ceil(4)),
            Self::Contains => tenth(size(0)).saturating_mul(tenth(size(1))),
            Self::Compare => tenth(size(0).min(size(1))),
            Self::Concatenate
                if matches!((shape(0), shape(1)), (Shape::Text | Shape::Unknown, Shape::Text | Shape::Unknown)) =>
            {
                tenth(size(0).saturating_add(size(1)))
            }
            Self::Concatenate => 1,
            Self::In if shape(1) == Shape::Map => 1,
            Self::In => size(1),
            Self::Product => size(0).saturating_mul(size(1)).saturating_add(1),
            Self::Network => 4,
        }
    }
}
