//! Moments and spans of time.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{Function, text};
use crate::{cost::Cost, error::Error, value::Value};

const SECOND: i64 = 1_000_000_000;
const DATE: &[&str] = &["timestamp -> int", "timestamp, string -> int"];
const CLOCK: &[&str] = &["timestamp -> int", "timestamp, string -> int", "duration -> int"];
/// 0001-01-01T00:00:00Z
const FIRST: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z
const LAST: i64 = 253_402_300_799;

pub(super) static FUNCTIONS: &[Function] = &[
    Function::member("getFullYear", DATE, Cost::Fixed(1), |args, _| part(args, |at| i64::from(at.year()))),
    Function::member("getMonth", DATE, Cost::Fixed(1), |args, _| part(args, |at| i64::from(at.month()) - 1)),
    Function::member("getDayOfYear", DATE, Cost::Fixed(1), |args, _| part(args, |at| i64::from(at.day_of_year()) - 1)),
    Function::member("getDayOfMonth", DATE, Cost::Fixed(1), |args, _| part(args, |at| i64::from(at.day()) - 1)),
    Function::member("getDate", DATE, Cost::Fixed(1), |args, _| part(args, |at| i64::from(at.day()))),
    Function::member("getDayOfWeek", DATE, Cost::Fixed(1), |args, _| {
        part(args, |at| i64::from(at.weekday().to_sunday_zero_offset()))
    }),
    Function::member("getHours", CLOCK, Cost::Fixed(1), |args, _| match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / (3600 * SECOND))),
        _ => part(args, |at| i64::from(at.hour())),
    }),
    Function::member("getMinutes", CLOCK, Cost::Fixed(1), |args, _| match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / (60 * SECOND))),
        _ => part(args, |at| i64::from(at.minute())),
    }),
    Function::member("getSeconds", CLOCK, Cost::Fixed(1), |args, _| match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / SECOND)),
        _ => part(args, |at| i64::from(at.second())),
    }),
    Function::member("getMilliseconds", CLOCK, Cost::Fixed(1), |args, _| match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / 1_000_000)),
        _ => part(args, |at| i64::from(at.subsec_nanosecond() / 1_000_000)),
    }),
];

fn part<'a>(args: &[Value<'a>], of: fn(&jiff::Zoned) -> i64) -> Result<Value<'a>, Error> {
    let Some(Value::Timestamp(moment)) = args.first() else { return Err(Error::no_overload()) };
    let zone = if args.len() > 1 { zone(text(args, 1)?)? } else { TimeZone::UTC };
    Ok(Value::Int(of(&moment.to_zoned(zone))))
}

/// `Europe/Berlin` or `+02:00`.
fn zone(name: &str) -> Result<TimeZone, Error> {
    let unknown = || Error::new(format!("unknown time zone {name}"));
    if let Some((hours, minutes)) = name.split_once(':') {
        let negative = hours.starts_with('-');
        let hours: i32 = hours.parse().map_err(|_| unknown())?;
        let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
        if !(-24..=24).contains(&hours) || !(0..60).contains(&minutes) {
            return Err(unknown());
        }
        let seconds = (hours.abs() * 60 + minutes) * if negative { -60 } else { 60 };
        return jiff::tz::Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| unknown());
    }
    match name {
        "" | "UTC" => Ok(TimeZone::UTC),
        _ => TimeZone::get(name).map_err(|_| unknown()),
    }
}

/// Reads RFC 3339 within the years 1 to 9999.
pub(crate) fn parse_timestamp(text: &str) -> Option<Timestamp> {
    // jiff reads more than RFC 3339: a T and an offset are demanded.
    if text.len() < 20 || !matches!(text.as_bytes().get(10), Some(b'T' | b't')) || text.contains('[') {
        return None;
    }
    let moment: Timestamp = text.parse().ok()?;
    (FIRST..=LAST).contains(&moment.as_second()).then_some(moment)
}

pub(crate) fn from_seconds(seconds: i64) -> Result<Timestamp, Error> {
    let overflow = || Error::new("timestamp overflow");
    if !(FIRST..=LAST).contains(&seconds) {
        return Err(overflow());
    }
    Timestamp::from_second(seconds).map_err(|_| overflow())
}

pub(crate) fn add(moment: Timestamp, nanos: i64) -> Result<Timestamp, Error> {
    let overflow = || Error::new("timestamp overflow");
    let sum = moment.checked_add(SignedDuration::from_nanos(nanos)).map_err(|_| overflow())?;
    if (FIRST..=LAST).contains(&sum.as_second()) { Ok(sum) } else { Err(overflow()) }
}

/// Reads `1h30m`, `1.5s`, `-2ms`, as Go does. In nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total += whole * scale;
        let mut digit = scale;
        for c in fraction.bytes().take(18) {
            digit /= 10;
            total += i128::from(c - b'0') * digit;
        }
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Seconds with as many digits as needed: `5400s`, `1.5s`.
pub(crate) fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let magnitude = nanos.unsigned_abs();
    let (seconds, rest) = (magnitude / 1_000_000_000, magnitude % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let digits = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", digits.trim_end_matches('0'))
}
