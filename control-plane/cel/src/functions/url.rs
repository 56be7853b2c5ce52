//! URLs, as Go's `net/url` reads them.

use std::{collections::BTreeMap, fmt, rc::Rc};

use super::{Function, text};
use crate::{
    budget::Budget,
    cost::Cost,
    error::Error,
    value::{Key, Map, Value},
};

const PART: &[&str] = &["url -> string"];

pub(super) static FUNCTIONS: &[Function] = &[
    Function::global("url", &["string -> url"], Cost::Walk(0, 1), |args, _| {
        let written = text(args, 0)?;
        Url::parse(written).map(|url| Value::Url(Rc::new(url))).map_err(|why| {
            Error::new(format!("URL parse error during conversion from string: parse {written:?}: {why}"))
        })
    }),
    Function::global("isURL", &["string -> bool"], Cost::Walk(0, 1), |args, _| {
        Ok(Value::Bool(Url::parse(text(args, 0)?).is_ok()))
    }),
    Function::member("getScheme", PART, Cost::Fixed(1), |args, _| part(args, |url| url.scheme.clone())),
    Function::member("getHost", PART, Cost::Fixed(1), |args, _| part(args, |url| url.host.clone())),
    Function::member("getHostname", PART, Cost::Fixed(1), |args, _| part(args, |url| url.split_host().0.to_owned())),
    Function::member("getPort", PART, Cost::Fixed(1), |args, _| part(args, |url| url.split_host().1.to_owned())),
    Function::member("getEscapedPath", PART, Cost::Fixed(1), |args, _| part(args, Url::escaped_path)),
    Function::member("getQuery", &["url -> map(string, list(string))"], Cost::Fixed(1), query),
];

/// A URL with a scheme, or an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    user: Option<String>,
    host: String,
    path: String,
    query: Option<String>,
}

fn url<'v>(args: &'v [Value<'_>]) -> Result<&'v Url, Error> {
    match args {
        [Value::Url(url)] => Ok(url),
        _ => Err(Error::no_overload()),
    }
}

fn part<'a>(args: &[Value<'a>], of: impl Fn(&Url) -> String) -> Result<Value<'a>, Error> {
    Ok(Value::owned(of(url(args)?)))
}

fn query<'a>(args: &[Value<'a>], budget: &mut Budget) -> Result<Value<'a>, Error> {
    let mut entries: BTreeMap<Key, Vec<Value<'a>>> = BTreeMap::new();
    for pair in url(args)?.query.as_deref().unwrap_or_default().split('&') {
        if pair.is_empty() || pair.contains(';') {
            continue;
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(key), Some(value)) = (unescape(key, true), unescape(value, true)) else { continue };
        let value = Value::owned(value);
        budget.step(&value)?;
        entries.entry(Key::String(key.into())).or_default().push(value);
    }
    let entries = entries.into_iter().map(|(key, values)| (key, Value::list(values))).collect();
    Ok(Value::Map(Map::Made(Rc::new(entries))))
}

impl Url {
    /// Reads an absolute URI or an absolute path.
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (scheme, rest) = split_scheme(text)?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query.to_owned())),
            None => (rest, None),
        };
        if !rest.starts_with('/') {
            if scheme.is_empty() {
                return Err("invalid URI for request".to_owned());
            }
            // Opaque: no host, no path.
            let (user, host, path) = (None, String::new(), String::new());
            return Ok(Self { scheme, user, host, path, query });
        }
        let (authority, path) = match rest.strip_prefix("//") {
            Some(after) if !scheme.is_empty() => after.split_at(after.find('/').unwrap_or(after.len())),
            _ => ("", rest),
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        let host = checked_host(host)?;
        let decoded = unescape(path, false).ok_or_else(|| bad_escape(path))?;
        drop(decoded);
        Ok(Self { scheme, user, host, path: path.to_owned(), query })
    }

    /// Host name and port.
    fn split_host(&self) -> (&str, &str) {
        if let Some(after) = self.host.strip_prefix('[') {
            let (inside, rest) = after.split_once(']').unwrap_or((after, ""));
            return (inside, rest.strip_prefix(':').unwrap_or(""));
        }
        match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port),
            _ => (&self.host, ""),
        }
    }

    fn escaped_path(&self) -> String {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@/%[]".contains(&b);
        let mut out = String::with_capacity(self.path.len());
        for b in self.path.bytes() {
            if fits(b) {
                out.push(char::from(b));
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        out
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.scheme.is_empty() {
            write!(f, "{}:", self.scheme)?;
        }
        if !self.host.is_empty() || self.user.is_some() {
            f.write_str("//")?;
            if let Some(user) = &self.user {
                write!(f, "{user}@")?;
            }
            f.write_str(&self.host)?;
        }
        f.write_str(&self.escaped_path())?;
        match &self.query {
            Some(query) => write!(f, "?{query}"),
            None => Ok(()),
        }
    }
}

fn split_scheme(text: &str) -> Result<(String, &str), String> {
    for (at, b) in text.bytes().enumerate() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn checked_host(host: &str) -> Result<String, String> {
    let port_of = |rest: &str| match rest.strip_prefix(':') {
        Some(port) => port.bytes().all(|b| b.is_ascii_digit()),
        None => rest.is_empty(),
    };
    if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        if !port_of(&host[end + 1..]) {
            return Err(format!("invalid port {:?} after host", &host[end + 1..]));
        }
    } else if let Some(colon) = host.rfind(':')
        && !port_of(&host[colon..])
    {
        return Err(format!("invalid port {:?} after host", &host[colon..]));
    }
    if let Some(bad) =
        host.chars().find(|c| c.is_ascii() && !c.is_ascii_alphanumeric() && !"-_.~!$&'()*+,;=:[]<>\"%".contains(*c))
    {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    unescape(host, false).ok_or_else(|| bad_escape(host))
}

fn bad_escape(text: &str) -> String {
    let at = text.find('%').unwrap_or(0);
    let escape: String = text[at..].chars().take(3).collect();
    format!("invalid URL escape {escape:?}")
}

/// Whether a text is a URL.
pub(super) fn check(text: &str) -> Result<(), String> {
    Url::parse(text).map(drop).map_err(|why| format!("parse {text:?}: {why}"))
}

/// Decodes `%41`; None if an escape is broken.
fn unescape(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                out.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'+' if plus => out.push(b' '),
            b => out.push(b),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}
