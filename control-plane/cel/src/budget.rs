//! What an evaluation may cost.
//!
//! The unit is upstream's: reading a variable or a field costs 1, so does calling a function that does not grow with its
//! arguments; what walks through text costs a tenth of its length. One evaluation may cost [`Budget::PER_EXPRESSION`], and all
//! evaluations for one request together what the caller gives.

use crate::{error::Error, value::Value};

/// What is left for a request and for the expression being evaluated.
#[derive(Clone, Debug)]
pub struct Budget {
    total: u64,
    expression: u64,
    /// Visits that are too cheap to be charged one by one.
    visits: u64,
}

/// That many visits of elements inside of a structure cost 1.
const VISITS: u64 = 4;

impl Budget {
    /// What one evaluation may cost (upstream's `PerCallLimit`).
    pub const PER_EXPRESSION: u64 = 1_000_000;
    /// What all rules of one custom resource, or all expressions of one policy binding, may cost together.
    pub const PER_REQUEST: u64 = 10_000_000;
    /// What the match conditions of one object may cost together.
    pub const MATCH_CONDITIONS: u64 = 2_500_000;

    /// A budget for all evaluations of a request.
    pub fn new(total: u64) -> Self {
        Self { total, expression: Self::PER_EXPRESSION, visits: 0 }
    }

    /// What is left for the request.
    pub fn left(&self) -> u64 {
        self.total
    }

    /// Whether the request's budget is used up (and not only the expression's).
    pub fn is_exhausted(&self) -> bool {
        self.total == 0
    }

    /// An expression begins, possibly within another (a variable that is asked for): what that one had left.
    pub(crate) fn start(&mut self) -> u64 {
        std::mem::replace(&mut self.expression, Self::PER_EXPRESSION)
    }

    /// The expression is done, and the one around it goes on.
    pub(crate) fn resume(&mut self, left: u64) {
        self.expression = left;
    }

    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), Error> {
        let enough = self.expression >= cost && self.total >= cost;
        self.expression = self.expression.saturating_sub(cost);
        self.total = self.total.saturating_sub(cost);
        if enough { Ok(()) } else { Err(Error::budget()) }
    }

    /// Charges for looking at one value inside of a structure.
    pub(crate) fn step(&mut self, value: &Value<'_>) -> Result<(), Error> {
        self.visits += 1;
        if let Value::String(text) = value {
            self.visits += text.as_str().len() as u64 / 64;
        }
        if self.visits >= VISITS {
            let cost = self.visits / VISITS;
            self.visits %= VISITS;
            return self.charge(cost);
        }
        Ok(())
    }

    /// Charges for walking through so many characters, at `tenths` tenths of a unit each.
    pub(crate) fn traverse(&mut self, size: u64, tenths: u64) -> Result<(), Error> {
        self.charge(size.saturating_mul(tenths).div_ceil(10))
    }
}
