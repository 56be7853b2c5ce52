//! What an expression becomes once it is compiled.

use std::sync::Arc;

use crate::{
    budget::Budget,
    cost::Range,
    error::Error,
    evaluate::{self, Inputs},
    functions::Function,
    types::Type,
    value::Value,
};

/// A compiled expression. Compile once, evaluate often, from any thread.
pub struct Program {
    pub(crate) source: Arc<str>,
    pub(crate) root: Node,
    pub(crate) result: Type,
    pub(crate) cost: Range,
    pub(crate) variables: Vec<Variable>,
}

/// A declared variable, as a program sees it.
#[derive(Clone)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) used: bool,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("source", &self.source).field("result", &self.result).finish_non_exhaustive()
    }
}

impl Program {
    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its value; `Dyn` when only evaluation can tell.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// What one evaluation may cost, judged by the greatest sizes the declared types allow.
    pub fn cost(&self) -> Range {
        self.cost
    }

    /// Whether the expression mentions a variable. (A rule that mentions `oldSelf` is a transition rule.)
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|it| it.used && it.name == variable)
    }

    /// Evaluates. What it costs comes off `budget`; it ends with an error when that, or [`Budget::PER_EXPRESSION`], is used up.
    pub fn evaluate<'a>(&'a self, inputs: &Inputs<'a>, budget: &mut Budget) -> Result<Value<'a>, Error> {
        evaluate::run(self, inputs, budget)
    }

    /// Evaluates an expression that must say yes or no.
    pub fn evaluate_bool<'a>(&'a self, inputs: &Inputs<'a>, budget: &mut Budget) -> Result<bool, Error> {
        let value = self.evaluate(inputs, budget)?;
        value.as_bool().ok_or_else(|| Error::new(format!("expected bool, got {}", value.type_name())))
    }

    /// Evaluates an expression that must give text.
    pub fn evaluate_string<'a>(&'a self, inputs: &Inputs<'a>, budget: &mut Budget) -> Result<String, Error> {
        let value = self.evaluate(inputs, budget)?;
        let text = value.as_str().map(str::to_owned);
        text.ok_or_else(|| Error::new(format!("expected string, got {}", value.type_name())))
    }
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constant {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Box<str>),
    Bytes(Box<[u8]>),
    Type(&'static str),
}

impl Constant {
    pub(crate) fn to_value<'a>(&'a self) -> Value<'a> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(bool) => Value::Bool(*bool),
            Self::Int(int) => Value::Int(*int),
            Self::Uint(uint) => Value::Uint(*uint),
            Self::Double(double) => Value::Double(*double),
            Self::String(text) => Value::text(text),
            Self::Bytes(bytes) => Value::Bytes((&**bytes).into()),
            Self::Type(name) => Value::Type((*name).into()),
        }
    }
}

/// One step of a program.
pub(crate) enum Node {
    Constant(Constant),
    /// A declared variable.
    Variable(usize),
    /// A variable of a macro: its place on the stack of those.
    Local(usize),
    Field {
        operand: Box<Node>,
        name: Box<str>,
        optional: bool,
    },
    Has {
        operand: Box<Node>,
        name: Box<str>,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Choose(Box<[Node; 3]>),
    Call {
        function: &'static Function,
        args: Box<[Node]>,
    },
    /// Elements; those marked are optional and left out when absent.
    List(Box<[(Node, bool)]>),
    Map(Box<[(Node, Node, bool)]>),
    Loop(Box<Loop>),
    /// `optMap` and `optFlatMap`.
    OptionalMap {
        target: Box<Node>,
        body: Box<Node>,
        local: usize,
        flat: bool,
    },
}

/// A comprehension.
pub(crate) struct Loop {
    pub(crate) kind: LoopKind,
    pub(crate) range: Node,
    /// Where the first variable lies.
    pub(crate) local: usize,
    /// Whether there is a second one, after it.
    pub(crate) two: bool,
    /// The predicate or filter.
    pub(crate) test: Option<Node>,
    /// What each element becomes.
    pub(crate) make: Option<Node>,
}

/// What a comprehension computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    /// A list.
    List,
    /// A map with the same keys.
    Map,
    /// A map of entries that are maps.
    Entries,
}
