//! What may go wrong, before an expression runs and while it does.

use std::fmt;

/// Why an expression cannot be used: every fault found, in upstream's layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.faults))]
pub struct CompileError {
    /// Each fault, in the order of the source.
    pub faults: Vec<Fault>,
}

/// One fault of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong: `undefined field 'z'`.
    pub message: String,
    /// The same with its place: line, column, the source and a mark below it.
    pub shown: String,
}

impl CompileError {
    pub(crate) fn plain(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { faults: vec![Fault { shown: message.clone(), message }] }
    }
}

fn join(faults: &[Fault]) -> String {
    faults.iter().map(|fault| fault.shown.as_str()).collect::<Vec<_>>().join("\n")
}

impl Fault {
    /// A fault at a byte offset of the source.
    pub(crate) fn at(source: &str, offset: usize, message: impl Into<String>) -> Self {
        let offset = (0..=offset.min(source.len())).rev().find(|at| source.is_char_boundary(*at)).unwrap_or(0);
        let before = &source[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        Self::placed(source, line, before[line_start..].chars().count(), &message.into())
    }

    pub(crate) fn placed(source: &str, line: usize, column: usize, message: &str) -> Self {
        let text = source.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        Self { shown: layout(line, column, text, message), message: message.to_owned() }
    }
}

fn layout(line: usize, column: usize, text: &str, message: &str) -> String {
    format!("ERROR: <input>:{line}:{}: {message}\n | {text}\n | {}^", column + 1, ".".repeat(column))
}

/// Why an evaluation gave no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: String,
    out_of_budget: bool,
}

impl Error {
    /// An error with upstream's text.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), out_of_budget: false }
    }

    pub(crate) fn budget() -> Self {
        Self { message: "operation cancelled: actual cost limit exceeded".to_owned(), out_of_budget: true }
    }

    pub(crate) fn no_overload() -> Self {
        Self::new("no such overload")
    }

    pub(crate) fn no_such_key(key: impl fmt::Display) -> Self {
        Self::new(format!("no such key: {key}"))
    }

    /// Whether the cost limit ended the evaluation. Such an error is never absorbed by `||` or `&&`.
    pub fn is_out_of_budget(&self) -> bool {
        self.out_of_budget
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
