//! From text to a syntax tree, by the crate `cel`.

use cel::{
    IdedExpr,
    common::ast::SourceInfo,
    parser::{ParseErrors, Parser},
};

use crate::error::{CompileError, Fault};

/// The longest expression, in characters (upstream's).
const MAX_CHARACTERS: usize = 100_000;
/// How deep an expression may nest; operators in a row nest too, since each takes the one before as its operand.
pub(crate) const MAX_DEPTH: usize = 250;
/// Brackets within brackets: the parser's stack grows most with these.
const MAX_BRACKETS: u16 = 96;

/// Parses; errors as upstream lays them out.
pub(crate) fn parse(source: &str) -> Result<(IdedExpr, SourceInfo), CompileError> {
    if source.chars().count() > MAX_CHARACTERS {
        return Err(CompileError::plain(format!(
            "ERROR: <input>:-1:0: expression code point size exceeds limit: size: {}, limit {MAX_CHARACTERS}",
            source.chars().count()
        )));
    }
    if depth(source) > MAX_DEPTH {
        return Err(CompileError::plain(format!(
            "ERROR: <input>:-1:0: expression recursion limit exceeded: {MAX_DEPTH}"
        )));
    }
    let parser =
        Parser::new().max_recursion_depth(MAX_BRACKETS).enable_optional_syntax(true).enable_ident_escape_syntax(true);
    parser.parse_with_source_info(source).map_err(|errors| faults(source, errors))
}

fn faults(source: &str, errors: ParseErrors) -> CompileError {
    let place = |position: isize| usize::try_from(position).unwrap_or(0);
    let faults = errors.errors.iter().map(|error| {
        // What the grammar complains about is a syntax error; what macros and limits complain about says so itself.
        let (line, column) = (place(error.pos.0).max(1), place(error.pos.1).saturating_sub(1));
        let message = if grammatical(&error.msg) { format!("Syntax error: {}", error.msg) } else { error.msg.clone() };
        Fault::placed(source, line, column, &message)
    });
    CompileError { faults: faults.collect() }
}

fn grammatical(message: &str) -> bool {
    ["mismatched input", "extraneous input", "missing ", "no viable alternative", "token recognition error"]
        .iter()
        .any(|start| message.starts_with(start))
}

/// An upper bound of how deep the syntax tree will be, from the text alone: the tree of a long chain of operators is as deep
/// as the chain is long, and nothing may recurse into what was not bounded before.
fn depth(source: &str) -> usize {
    let bytes = source.as_bytes();
    // The chain of the innermost bracket, and those around it.
    let mut around: Vec<Chain> = Vec::new();
    let mut here = Chain::default();
    let mut outer = 0;
    let mut deepest = 0;
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        let next = bytes.get(at + 1).copied();
        let mut step = 1;
        match b {
            b'"' | b'\'' => step = string_length(bytes, at).unwrap_or(1),
            b'/' if next == Some(b'/') => {
                step = bytes[at..].iter().position(|b| *b == b'\n').unwrap_or(bytes.len() - at);
            }
            b'(' | b'[' | b'{' => {
                outer += here.length() + 1;
                around.push(std::mem::take(&mut here));
            }
            b')' | b']' | b'}' => {
                here = around.pop().unwrap_or_default();
                outer = outer.saturating_sub(here.length() + 1);
                // The bracket itself is a step of the chain it stands in: calls and indexes follow each other.
                here.steps += 1;
            }
            b',' => here = Chain::default(),
            // Rows of these become balanced trees; what stands between begins a chain of its own.
            b'&' | b'|' if next == Some(b) => {
                here.steps = 1;
                step = 2;
            }
            b'?' => here.choices += 1,
            b'.' | b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'<' | b'>' | b'=' | b':' => here.steps += 1,
            b'i' if next == Some(b'n') && !word(bytes, at.wrapping_sub(1)) && !word(bytes, at + 2) => here.steps += 1,
            _ => {}
        }
        at += step;
        deepest = deepest.max(outer + here.length());
    }
    deepest
}

#[derive(Default)]
struct Chain {
    steps: usize,
    /// `a ? b : c ? d : e` nests to the right, whatever stands between.
    choices: usize,
}

impl Chain {
    fn length(&self) -> usize {
        self.steps + self.choices * 2
    }
}

fn word(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// The length of the literal that begins at a quote. None if it does not end: then what follows is not text.
fn string_length(bytes: &[u8], at: usize) -> Option<usize> {
    let quote = bytes[at];
    let raw = at > 0
        && matches!(bytes[at - 1], b'r' | b'R')
        && (at < 2 || !word(bytes, at - 2) || matches!(bytes[at - 2], b'b' | b'B'));
    let triple = bytes[at..].starts_with(&[quote; 3]);
    let opening = if triple { 3 } else { 1 };
    let mut end = at + opening;
    loop {
        match *bytes.get(end)? {
            b'\\' if !raw => end += 2,
            b'\n' | b'\r' if !triple => return None,
            _ if bytes[end..].starts_with(&[quote; 3][..opening]) => return Some(end + opening - at),
            _ => end += 1,
        }
    }
}
