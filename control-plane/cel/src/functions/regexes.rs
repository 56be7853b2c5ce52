//! Regular expressions. Matching is linear in the text, whatever the expression; its compiled size is bounded.

use std::{cell::RefCell, rc::Rc};

use regex::{Regex, RegexBuilder};

use super::{Function, int, text};
use crate::{budget::Budget, cost::Cost, error::Error, value::Value};

/// The largest program a regular expression may become.
const MAX_COMPILED_BYTES: usize = 1 << 20;
/// Patterns kept compiled by each thread. A rule's pattern is nearly always constant.
const KEPT: usize = 64;

thread_local! {
    static CACHE: RefCell<Vec<(Rc<str>, Regex)>> = const { RefCell::new(Vec::new()) };
}

pub(super) static FUNCTIONS: &[Function] = &[
    Function::member("find", &["string, string -> string"], Cost::Regex, |args, _| {
        let found = compiled(text(args, 1)?)?.find(text(args, 0)?).map_or("", |found| found.as_str()).to_owned();
        Ok(Value::owned(found))
    }),
    Function::member(
        "findAll",
        &["string, string -> list(string)", "string, string, int -> list(string)"],
        Cost::Regex,
        |args, budget| {
            let limit = if args.len() > 2 { usize::try_from(int(args, 2)?).unwrap_or(usize::MAX) } else { usize::MAX };
            find_all(&compiled(text(args, 1)?)?, text(args, 0)?, limit, budget)
        },
    ),
];

fn find_all<'a>(regex: &Regex, text: &str, limit: usize, budget: &mut Budget) -> Result<Value<'a>, Error> {
    let mut out = Vec::new();
    for found in regex.find_iter(text).take(limit) {
        let found = Value::owned(found.as_str());
        budget.step(&found)?;
        out.push(found);
    }
    Ok(Value::list(out))
}

/// Whether a constant pattern is one.
pub(crate) fn check(pattern: &str) -> Result<(), String> {
    build(pattern).map(drop)
}

fn build(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .nest_limit(100)
        .build()
        .map_err(|error| {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!("error parsing regexp: {}", last.strip_prefix("error: ").unwrap_or(last))
        })
}

/// The compiled form of a pattern.
pub(super) fn compiled(pattern: &str) -> Result<Regex, Error> {
    let known =
        CACHE.with_borrow(|cache| cache.iter().find(|(known, _)| **known == *pattern).map(|(_, regex)| regex.clone()));
    if let Some(regex) = known {
        return Ok(regex);
    }
    let regex = build(pattern).map_err(Error::new)?;
    CACHE.with_borrow_mut(|cache| {
        if cache.len() == KEPT {
            cache.remove(0);
        }
        cache.push((pattern.into(), regex.clone()));
    });
    Ok(regex)
}
