//! Semantic versions.

use std::rc::Rc;

use semver::Version;

use super::{Function, text};
use crate::{cost::Cost, error::Error, value::Value};

const READ: &[&str] = &["string -> semver", "string, bool -> semver"];
const TEST: &[&str] = &["string -> bool", "string, bool -> bool"];
const PART: &[&str] = &["semver -> int"];

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global("semver", READ, Cost::Walk(0, 1), |args, _| Ok(Value::Semver(Rc::new(read(args)?)))),
    Function::global("isSemver", TEST, Cost::Walk(0, 1), |args, _| {
        text(args, 0)?;
        Ok(Value::Bool(read(args).is_ok()))
    }),
    Function::member("major", PART, Cost::Fixed(1), |args, _| part(args, |version| version.major)),
    Function::member("minor", PART, Cost::Fixed(1), |args, _| part(args, |version| version.minor)),
    Function::member("patch", PART, Cost::Fixed(1), |args, _| part(args, |version| version.patch)),
];

fn part<'a>(args: &[Value<'a>], of: fn(&Version) -> u64) -> Result<Value<'a>, Error> {
    match args {
        [Value::Semver(version)] => Ok(Value::Int(i64::try_from(of(version)).unwrap_or(i64::MAX))),
        _ => Err(Error::no_overload()),
    }
}

fn read(args: &[Value<'_>]) -> Result<Version, Error> {
    let written = text(args, 0)?;
    let version = match args.get(1) {
        None | Some(Value::Bool(false)) => Version::parse(written),
        Some(Value::Bool(true)) => Version::parse(&normalized(written)),
        Some(_) => return Err(Error::no_overload()),
    };
    version.map_err(|error| Error::new(error.to_string()))
}

/// `v1.02` is `1.2.0`: no leading v, no leading zeros, three numbers.
fn normalized(written: &str) -> String {
    let written = written.strip_prefix('v').unwrap_or(written);
    let end = written.find(['-', '+']).unwrap_or(written.len());
    let (numbers, rest) = written.split_at(end);
    let mut parts: Vec<&str> = numbers
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            trimmed => trimmed,
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0");
    }
    format!("{}{rest}", parts.join("."))
}
