//! `timeout=` in a query: how long a client will wait.

use std::time::Duration;

use skep_api::{request::Query, status::StatusError};

/// Upstream's `--request-timeout`; watches, logs and streams are not bound by it.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request may take: what the client says, but no longer than the server allows. Zero is no wish.
pub(crate) fn of(query: &Query) -> Result<Duration, StatusError> {
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(REQUEST_TIMEOUT) };
    let seconds = parse(text).map_err(|why| {
        StatusError::bad_request(format!("invalid timeout specified in the request URL - time: {why}"))
    })?;
    if seconds <= 0.0 {
        return Ok(REQUEST_TIMEOUT);
    }
    Ok(Duration::try_from_secs_f64(seconds).map_or(REQUEST_TIMEOUT, |wish| wish.min(REQUEST_TIMEOUT)))
}

/// Seconds of a duration as Go writes it, such as `1m30s` or `250ms`.
fn parse(text: &str) -> Result<f64, String> {
    let invalid = || format!("invalid duration {text:?}");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return Ok(0.0);
    }
    let mut rest = unsigned;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (digits, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let value: f64 = digits.parse().map_err(|_| invalid())?;
        seconds += value
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" => return Err(format!("missing unit in duration {text:?}")),
                unit => return Err(format!("unknown unit {unit:?} in duration {text:?}")),
            };
        rest = tail;
    }
    Ok(if text.starts_with('-') { -seconds } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_text(query: &str) -> Result<Duration, String> {
        of(&Query::parse(query).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn clients_may_wait_shorter_but_not_longer() {
        for (query, seconds) in [
            ("", 60.0),
            ("timeout=1m30s", 60.0),
            ("timeout=1.5s", 1.5),
            ("timeout=250ms", 0.25),
            ("timeout=0s", 60.0),
            ("timeout=-1s", 60.0),
        ] {
            assert_eq!(of_text(query), Ok(Duration::from_secs_f64(seconds)), "{query}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_in_gos_words() {
        let prefix = "invalid timeout specified in the request URL - time: ";
        for (query, why) in [
            ("timeout=abc", "invalid duration \"abc\""),
            ("timeout=10", "missing unit in duration \"10\""),
            ("timeout=1x", "unknown unit \"x\" in duration \"1x\""),
            ("timeout=-", "invalid duration \"-\""),
        ] {
            assert_eq!(of_text(query), Err(format!("{prefix}{why}")));
        }
    }
}
