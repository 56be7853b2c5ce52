//! `"%s is %d".format([..])`, and how values are written in messages.

use std::fmt::Write as _;

use super::time;
use crate::{
    budget::Budget,
    error::Error,
    value::{Key, List, Value},
};

/// A number as Go writes it with `%g`-like care: no exponent for everyday numbers, `+Inf` and `NaN` by name.
pub(super) fn double_text(double: f64) -> String {
    if double.is_nan() {
        return "NaN".to_owned();
    }
    if double.is_infinite() {
        return if double > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = double.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        // Go writes at least two digits of exponent and its sign.
        let text = format!("{double:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    format!("{double}")
}

fn write_value(out: &mut String, value: &Value<'_>, budget: &mut Budget) -> Result<(), Error> {
    budget.step(value)?;
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(bool) => _ = write!(out, "{bool}"),
        Value::Int(int) => _ = write!(out, "{int}"),
        Value::Uint(uint) => _ = write!(out, "{uint}"),
        Value::Double(double) => out.push_str(&double_text(*double)),
        Value::String(text) => out.push_str(text.as_str()),
        Value::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Value::Duration(nanos) => out.push_str(&time::format_duration(*nanos)),
        Value::Timestamp(moment) => _ = write!(out, "{moment}"),
        Value::Type(name) => out.push_str(name),
        Value::List(list) => {
            out.push('[');
            for (index, element) in list.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_value(out, &element, budget)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            let mut keys: Vec<Key> = map.keys().iter().filter_map(Key::of).collect();
            keys.sort();
            out.push('{');
            for (index, key) in keys.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                _ = write!(out, "{key}: ");
                if let Some(value) = map.get(key, budget) {
                    write_value(out, &value?, budget)?;
                }
            }
            out.push('}');
        }
        Value::Quantity(quantity) => _ = write!(out, "{quantity}"),
        Value::Url(url) => _ = write!(out, "{url}"),
        Value::Ip(ip) => _ = write!(out, "{ip}"),
        Value::Cidr(net) => _ = write!(out, "{net}"),
        Value::Semver(version) => _ = write!(out, "{version}"),
        other => {
            return Err(Error::new(format!(
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            )));
        }
    }
    Ok(())
}

/// Fills in a pattern.
pub(super) fn format(pattern: &str, arguments: &List<'_>, budget: &mut Budget) -> Result<String, Error> {
    let mut out = String::new();
    let mut next = 0;
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if rest.peek() == Some(&'%') {
            rest.next();
            out.push('%');
            continue;
        }
        let mut precision = None;
        if rest.peek() == Some(&'.') {
            rest.next();
            let mut digits = 0_usize;
            while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
                rest.next();
                digits = digits.saturating_mul(10).saturating_add(digit as usize);
            }
            precision = Some(digits.min(100));
        }
        let Some(verb) = rest.next() else { return Err(Error::new("unexpected end of string")) };
        let argument = arguments.get(next).ok_or_else(|| Error::new(format!("index {next} out of range")))?;
        next += 1;
        clause(&mut out, verb, precision, &argument, budget)?;
    }
    if next < arguments.len() {
        return Err(Error::new("more arguments than clauses"));
    }
    Ok(out)
}

fn clause(
    out: &mut String,
    verb: char,
    precision: Option<usize>,
    value: &Value<'_>,
    budget: &mut Budget,
) -> Result<(), Error> {
    let wrong = |what: &str, kinds: &str| {
        Error::new(format!("{what} clause can only be used on {kinds}, was given {}", value.type_name()))
    };
    match (verb, value) {
        ('s', _) => return write_value(out, value, budget),
        ('d', Value::Int(_) | Value::Uint(_) | Value::Double(_)) => return write_value(out, value, budget),
        ('d', _) => return Err(wrong("decimal", "integers")),
        ('f', Value::Double(double)) => _ = write!(out, "{double:.*}", precision.unwrap_or(6)),
        #[expect(clippy::cast_precision_loss, reason = "the clause asks for floating point")]
        ('f', Value::Int(int)) => _ = write!(out, "{:.*}", precision.unwrap_or(6), *int as f64),
        #[expect(clippy::cast_precision_loss, reason = "the clause asks for floating point")]
        ('f', Value::Uint(uint)) => _ = write!(out, "{:.*}", precision.unwrap_or(6), *uint as f64),
        ('f', _) => return Err(wrong("fixed-point", "doubles")),
        ('e', Value::Double(double)) => {
            let text = format!("{double:.*e}", precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            _ = write!(out, "{mantissa}e{sign}{digits:0>2}");
        }
        ('e', _) => return Err(wrong("scientific", "doubles")),
        ('b', Value::Int(int)) => {
            let sign = if *int < 0 { "-" } else { "" };
            _ = write!(out, "{sign}{:b}", int.unsigned_abs());
        }
        ('b', Value::Uint(uint)) => _ = write!(out, "{uint:b}"),
        ('b', Value::Bool(bool)) => out.push(if *bool { '1' } else { '0' }),
        ('b', _) => return Err(wrong("only integers and bools can be formatted as binary,", "them")),
        ('o', Value::Int(int)) => {
            let sign = if *int < 0 { "-" } else { "" };
            _ = write!(out, "{sign}{:o}", int.unsigned_abs());
        }
        ('o', Value::Uint(uint)) => _ = write!(out, "{uint:o}"),
        ('o', _) => return Err(wrong("octal", "integers")),
        ('x' | 'X', value) => {
            hex(out, verb == 'X', value).ok_or_else(|| wrong("hex", "integers, byte buffers, and strings"))?
        }
        (other, _) => {
            return Err(Error::new(format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            )));
        }
    }
    Ok(())
}

fn hex(out: &mut String, upper: bool, value: &Value<'_>) -> Option<()> {
    let mut text = String::new();
    match value {
        Value::Int(int) => {
            let sign = if *int < 0 { "-" } else { "" };
            _ = write!(text, "{sign}{:x}", int.unsigned_abs());
        }
        Value::Uint(uint) => _ = write!(text, "{uint:x}"),
        Value::String(string) => string.as_str().bytes().for_each(|b| _ = write!(text, "{b:02x}")),
        Value::Bytes(bytes) => bytes.iter().for_each(|b| _ = write!(text, "{b:02x}")),
        _ => return None,
    }
    if upper {
        text.make_ascii_uppercase();
    }
    out.push_str(&text);
    Some(())
}
