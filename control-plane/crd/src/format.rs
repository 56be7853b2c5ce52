//! String formats (`format` of a schema) that are checked; any other says nothing.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex::Regex;

static EMAIL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[^@\s<>]+@[^@\s<>]+$").ok());
static HOSTNAME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.?$").ok()
});
static MAC: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^([0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5,7}|[0-9A-Fa-f]{4}(\.[0-9A-Fa-f]{4}){2,3})$").ok()
});
static DURATION: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)\s*(ns|us|µs|ms|s|m|h|d|w|nanosec(ond)?s?|microsec(ond)?s?|millisec(ond)?s?|secs?|seconds?|mins?|minutes?|hours?|days?|weeks?)\s*)+$").ok()
});
static HEX_COLOR: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$").ok());
static RGB_COLOR: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$").ok()
});
static OBJECT_ID: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[0-9a-fA-F]{24}$").ok());
static SSN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\d{3}[- ]?\d{2}[- ]?\d{4}$").ok());

fn matches(regex: &LazyLock<Option<Regex>>, text: &str) -> bool {
    regex.as_ref().is_some_and(|regex| regex.is_match(text))
}

/// Whether `text` is of that format; none if the format is not checked.
pub(crate) fn check(format: &str, text: &str) -> Option<bool> {
    let plain: String = format.chars().filter(|c| *c != '-').collect();
    Some(match plain.as_str() {
        "datetime" => text.parse::<jiff::Timestamp>().is_ok() && text.contains(['T', 't']),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => text == "0" || matches(&DURATION, text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => cidr(text),
        "mac" => matches(&MAC, text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some(3)),
        "uuid4" => uuid(text, Some(4)),
        "uuid5" => uuid(text, Some(5)),
        "byte" => STANDARD.decode(text).is_ok(),
        "uri" => uri(text),
        "email" => matches(&EMAIL, text),
        "hostname" => text.len() <= 253 && matches(&HOSTNAME, text),
        "hexcolor" => matches(&HEX_COLOR, text),
        "rgbcolor" => matches(&RGB_COLOR, text),
        "bsonobjectid" => matches(&OBJECT_ID, text),
        "ssn" => matches(&SSN, text),
        "isbn" => isbn10(text) || isbn13(text),
        "isbn10" => isbn10(text),
        "isbn13" => isbn13(text),
        "creditcard" => credit_card(text),
        "password" => true,
        "k8sshortname" => skep_api::name::dns1123_label(text).is_empty(),
        "k8slongname" => skep_api::name::dns1123_subdomain(text).is_empty(),
        _ => return None,
    })
}

fn cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Ok(length) = length.parse::<u8>() else { return false };
    match address.parse() {
        Ok(IpAddr::V4(_)) => length <= 32,
        Ok(IpAddr::V6(_)) => length <= 128,
        Err(_) => false,
    }
}

fn uuid(text: &str, version: Option<usize>) -> bool {
    uuid::Uuid::try_parse(text).is_ok_and(|uuid| version.is_none_or(|version| uuid.get_version_num() == version))
        && !text.starts_with(['{', 'u'])
}

/// What Go's `url.ParseRequestURI` takes: an absolute URI or an absolute path.
fn uri(text: &str) -> bool {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        && rest.starts_with('/')
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_digit(10).unwrap_or(99)).collect()
}

fn isbn10(text: &str) -> bool {
    let plain: Vec<char> = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    if plain.len() != 10 {
        return false;
    }
    let mut sum = 0;
    for (at, c) in (1..).zip(&plain) {
        match (c.to_digit(10), c) {
            (Some(digit), _) => sum += at * digit,
            (None, 'X' | 'x') if at == 10 => sum += 100,
            _ => return false,
        }
    }
    sum % 11 == 0
}

fn isbn13(text: &str) -> bool {
    let digits = digits(text);
    digits.len() == 13
        && digits.iter().all(|digit| *digit < 10)
        && digits.iter().zip([1, 3].into_iter().cycle()).map(|(digit, weight)| digit * weight).sum::<u32>() % 10 == 0
}

fn credit_card(text: &str) -> bool {
    let digits = digits(text);
    if !(13..=19).contains(&digits.len()) || digits.iter().any(|digit| *digit > 9) {
        return false;
    }
    let doubled = |digit: u32| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let sum: u32 =
        digits.iter().rev().enumerate().map(|(at, digit)| if at % 2 == 1 { doubled(*digit) } else { *digit }).sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn formats_tell_right_from_wrong() {
        for (format, right, wrong) in [
            ("date-time", "2026-11-20T10:00:00Z", "2026-11-20"),
            ("date", "2026-11-20", "2026-13-20"),
            ("duration", "5m30s", "five"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "fd00::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("mac", "00:11:22:33:44:55", "00:11"),
            ("uuid", "a81bc81b-dead-4e5d-abff-90865d1e13b1", "a81bc81b"),
            ("uuid4", "a81bc81b-dead-4e5d-abff-90865d1e13b1", "a81bc81b-dead-3e5d-abff-90865d1e13b1"),
            ("byte", "aGVsbG8=", "a$"),
            ("uri", "https://example.com/a", "no uri"),
            ("email", "a@example.com", "a.example.com"),
            ("hostname", "a.example.com", "-a"),
            ("hexcolor", "#ff00aa", "ff00a"),
            ("rgbcolor", "rgb(1, 2, 3)", "rgb(1,2)"),
            ("bsonobjectid", "507f1f77bcf86cd799439011", "507f"),
            ("isbn10", "0321751043", "0321751044"),
            ("isbn13", "978-0321751041", "978-0321751042"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ] {
            assert_eq!(check(format, right), Some(true), "{format} {right}");
            assert_eq!(check(format, wrong), Some(false), "{format} {wrong}");
        }
        assert_eq!(check("unheard-of", ""), None);
    }
}
