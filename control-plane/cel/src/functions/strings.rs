//! The string library.

use super::{Function, int, print, text};
use crate::{budget::Budget, cost::Cost, error::Error, value::Value};

/// The longest text an expression may make.
const MAX_TEXT: usize = 10 << 20;

pub(super) static FUNCTIONS: &[Function] = &[
    Function::member("charAt", &["string, int -> string"], Cost::Walk(0, 1), |args, _| {
        let (text, index) = (text(args, 0)?, int(args, 1)?);
        let position = usize::try_from(index).map_err(|_| out_of_range(index))?;
        match text.chars().nth(position) {
            Some(c) => Ok(Value::owned(c.to_string())),
            None if position == text.chars().count() => Ok(Value::text("")),
            None => Err(out_of_range(index)),
        }
    }),
    Function::member("join", &["list(string) -> string", "list(string), string -> string"], Cost::Elements(0), join),
    Function::member("lowerAscii", &["string -> string"], Cost::Walk(0, 1), |args, _| {
        Ok(Value::owned(text(args, 0)?.to_ascii_lowercase()))
    }),
    Function::member("upperAscii", &["string -> string"], Cost::Walk(0, 1), |args, _| {
        Ok(Value::owned(text(args, 0)?.to_ascii_uppercase()))
    }),
    Function::member("trim", &["string -> string"], Cost::Walk(0, 1), |args, _| {
        Ok(Value::owned(text(args, 0)?.trim()))
    }),
    Function::member(
        "replace",
        &["string, string, string -> string", "string, string, string, int -> string"],
        Cost::Walk(0, 2),
        replace,
    ),
    Function::member(
        "split",
        &["string, string -> list(string)", "string, string, int -> list(string)"],
        Cost::Walk(0, 2),
        split,
    ),
    Function::member(
        "substring",
        &["string, int -> string", "string, int, int -> string"],
        Cost::Walk(0, 1),
        substring,
    ),
    Function::member("format", &["string, list(dyn) -> string"], Cost::Walk(0, 1), |args, budget| {
        let [Value::String(pattern), Value::List(list)] = args else { return Err(Error::no_overload()) };
        let made = print::format(pattern.as_str(), list, budget)?;
        budget.traverse(made.len() as u64, 1)?;
        Ok(Value::owned(made))
    }),
    Function::global("strings.quote", &["string -> string"], Cost::Walk(0, 1), |args, _| {
        Ok(Value::owned(skep_api::field::quote(text(args, 0)?)))
    }),
];

fn out_of_range(index: i64) -> Error {
    Error::new(format!("index out of range: {index}"))
}

/// Where a text is in another, in characters.
pub(super) fn index_of<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let (text, wanted) = (text(args, 0)?, text(args, 1)?);
    let start = if args.len() > 2 { int(args, 2)? } else { 0 };
    if wanted.is_empty() {
        return Ok(Value::Int(start));
    }
    let from = offset(text, start).ok_or_else(|| out_of_range(start))?;
    Ok(match text[from..].find(wanted) {
        Some(at) => Value::Int(count(&text[..from + at])),
        None => Value::Int(-1),
    })
}

/// Where a text is last in another, in characters.
pub(super) fn last_index_of<'a>(args: &[Value<'a>]) -> Result<Value<'a>, Error> {
    let (text, wanted) = (text(args, 0)?, text(args, 1)?);
    let last = if args.len() > 2 { Some(int(args, 2)?) } else { None };
    if wanted.is_empty() {
        return Ok(Value::Int(last.unwrap_or_else(|| count(text))));
    }
    let end = match last {
        Some(last) => {
            let from = offset(text, last).ok_or_else(|| out_of_range(last))?;
            from.saturating_add(wanted.len()).min(text.len())
        }
        None => text.len(),
    };
    let end = (end..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
    Ok(match text[..end].rfind(wanted) {
        Some(at) => Value::Int(count(&text[..at])),
        None => Value::Int(-1),
    })
}

fn count(text: &str) -> i64 {
    i64::try_from(text.chars().count()).unwrap_or(i64::MAX)
}

/// The byte at which a character begins; the end counts.
fn offset(text: &str, character: i64) -> Option<usize> {
    let character = usize::try_from(character).ok()?;
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(character)
}

fn join<'a>(args: &[Value<'a>], budget: &mut Budget) -> Result<Value<'a>, Error> {
    let Some(Value::List(list)) = args.first() else { return Err(Error::no_overload()) };
    let separator = if args.len() > 1 { text(args, 1)? } else { "" };
    let mut out = String::new();
    for (index, element) in list.iter().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        let Value::String(element) = element else { return Err(Error::no_overload()) };
        out.push_str(element.as_str());
        too_long(out.len())?;
    }
    budget.traverse(out.len() as u64, 2)?;
    Ok(Value::owned(out))
}

fn too_long(length: usize) -> Result<(), Error> {
    if length > MAX_TEXT { Err(Error::budget()) } else { Ok(()) }
}

fn replace<'a>(args: &[Value<'a>], budget: &mut Budget) -> Result<Value<'a>, Error> {
    let (source, old, new) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let limit = if args.len() > 3 { int(args, 3)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let most = source.len() / old.len().max(1) + 1;
    // What it would become is charged before it is made.
    budget.traverse(most.min(limit).saturating_mul(new.len()) as u64, 1)?;
    too_long(source.len().saturating_add(most.min(limit).saturating_mul(new.len())) / 4)?;
    Ok(Value::owned(source.replacen(old, new, limit)))
}

fn split<'a>(args: &[Value<'a>], budget: &mut Budget) -> Result<Value<'a>, Error> {
    let (source, separator) = (text(args, 0)?, text(args, 1)?);
    let limit = if args.len() > 2 { int(args, 2)? } else { -1 };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut out = Vec::new();
    let mut push = |piece: &str, budget: &mut Budget| {
        let piece = Value::owned(piece);
        budget.step(&piece)?;
        out.push(piece);
        Ok::<_, Error>(())
    };
    if limit == 0 {
        return Ok(Value::list(out));
    }
    if separator.is_empty() {
        // Between characters.
        let mut rest = source;
        let mut made = 1;
        while let Some(c) = rest.chars().next() {
            if made == limit {
                break;
            }
            let (first, after) = rest.split_at(c.len_utf8());
            push(first, budget)?;
            rest = after;
            made += 1;
        }
        if !rest.is_empty() {
            push(rest, budget)?;
        }
    } else {
        for piece in source.splitn(limit, separator) {
            push(piece, budget)?;
        }
    }
    Ok(Value::list(out))
}

fn substring<'a>(args: &[Value<'a>], _: &mut Budget) -> Result<Value<'a>, Error> {
    let (source, start) = (text(args, 0)?, int(args, 1)?);
    let from = offset(source, start).ok_or_else(|| out_of_range(start))?;
    let end = if args.len() > 2 { Some(int(args, 2)?) } else { None };
    let to = match end {
        Some(end) if end < start => {
            return Err(Error::new(format!("invalid substring range. start: {start}, end: {end}")));
        }
        Some(end) => offset(source, end).ok_or_else(|| out_of_range(end))?,
        None => source.len(),
    };
    Ok(Value::owned(&source[from..to]))
}
