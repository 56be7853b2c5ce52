//! What `fieldValidation` complains about: fields a type does not know, and fields that are there twice.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use skep_api::{options::FieldValidation, status::StatusError};
use skep_apply::Type;

use super::decode::Warnings;
use crate::registry::erased::{UnknownFields, unknown_field_texts};

/// Upstream names no more than so many.
const MAX_COMPLAINTS: usize = 100;

/// Complaints about a body that was decoded: `unknown` are the fields decoding did not know. In the order of the body.
pub(super) fn complaints(of: Type<'_>, json: &[u8], unknown: &UnknownFields) -> Vec<String> {
    if unknown.is_empty() && !has_duplicates(json) {
        return Vec::new();
    }
    let mut found = in_order(Some(of), json);
    for text in unknown_field_texts(unknown) {
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found.truncate(MAX_COMPLAINTS);
    found
}

/// Fields of a body that are there twice, in the order of the body.
pub(super) fn duplicates(json: &[u8]) -> Vec<String> {
    if has_duplicates(json) { in_order(None, json) } else { Vec::new() }
}

/// Refuses a body with complaints, warns of them, or ignores them.
pub(super) fn judge(
    complaints: Vec<String>,
    validation: FieldValidation,
    warnings: &mut Warnings,
    refuse: impl FnOnce(String) -> StatusError,
) -> Result<(), StatusError> {
    match validation {
        _ if complaints.is_empty() => Ok(()),
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warnings.extend(complaints);
            Ok(())
        }
        FieldValidation::Strict => Err(refuse(complaints.join(", "))),
    }
}

/// Whether an object somewhere in the JSON has a field twice. Only looks at bytes: nearly no body has.
fn has_duplicates(json: &[u8]) -> bool {
    let mut names: Vec<&[u8]> = Vec::with_capacity(32);
    let mut objects: Vec<usize> = Vec::with_capacity(16);
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        at += 1;
        match byte {
            b'{' => objects.push(names.len()),
            b'}' => {
                let Some(first) = objects.pop() else { return false };
                let own = &mut names[first..];
                let twice = if own.len() <= 12 {
                    own.iter().enumerate().any(|(place, name)| own[place + 1..].contains(name))
                } else {
                    own.sort_unstable();
                    own.windows(2).any(|pair| pair[0] == pair[1])
                };
                if twice {
                    return true;
                }
                names.truncate(first);
            }
            b'"' => {
                let start = at;
                loop {
                    let Some(next) = json.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) else {
                        return false;
                    };
                    at += next + 1;
                    if json[at - 1] == b'"' {
                        break;
                    }
                    at += 1;
                }
                let end = at - 1;
                while json.get(at).is_some_and(u8::is_ascii_whitespace) {
                    at += 1;
                }
                if json.get(at) == Some(&b':') {
                    names.push(&json[start..end]);
                }
            }
            _ => {}
        }
    }
    false
}

fn in_order(of: Option<Type<'_>>, json: &[u8]) -> Vec<String> {
    let mut search = Search { path: String::new(), found: Vec::new() };
    let mut reader = serde_json::Deserializer::from_slice(json);
    // What cannot be parsed was refused before.
    let _ = Place { of, search: &mut search }.deserialize(&mut reader);
    search.found
}

struct Search {
    path: String,
    found: Vec<String>,
}

impl Search {
    fn note(&mut self, what: &str) {
        let text = format!("{what} field {:?}", self.path);
        if !self.found.contains(&text) && self.found.len() < MAX_COMPLAINTS {
            self.found.push(text);
        }
    }
}

/// A place in the body, and the type of what stands there if it matters.
struct Place<'s, 't> {
    of: Option<Type<'t>>,
    search: &'s mut Search,
}

impl<'de> DeserializeSeed<'de> for Place<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let length = self.search.path.len();
        let mut seen = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if length > 0 {
                self.search.path.push('.');
            }
            self.search.path.push_str(&name);
            let (known, of) = match self.of {
                None => (true, None),
                Some(of) => {
                    let of = of.declared(&name).or_else(|| of.open_element());
                    (of.is_some(), of)
                }
            };
            if !known {
                self.search.note("unknown");
                map.next_value::<IgnoredAny>()?;
            } else if seen.contains(&name) {
                self.search.note("duplicate");
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Place { of, search: &mut *self.search })?;
                seen.push(name);
            }
            self.search.path.truncate(length);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let length = self.search.path.len();
        for at in 0.. {
            self.search.path.push_str(&format!("[{at}]"));
            let of = self.of.map(Type::item);
            let more = list.next_element_seed(Place { of, search: &mut *self.search })?;
            self.search.path.truncate(length);
            if more.is_none() {
                return Ok(());
            }
        }
        Err(A::Error::custom("a list without end"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_come_in_the_order_of_the_body() {
        let pod = Type::of_kind("", "v1", "Pod");
        let json = br#"{"spec":{"unknown1":{"a":1,"a":2},"dnsPolicy":"x","twice":1,"twice":2,"dnsPolicy":"y",
            "containers":[{"name":"a"},{"image":"i","imagePullPolicy":"x","imagePullPolicy":"y","nested":1}]}}"#;
        let unknown = vec!["spec.unknown1".to_owned(), "spec.elsewhere".to_owned()];
        assert_eq!(
            complaints(pod, json, &unknown),
            [
                "unknown field \"spec.unknown1\"",
                "unknown field \"spec.twice\"",
                "duplicate field \"spec.dnsPolicy\"",
                "duplicate field \"spec.containers[1].imagePullPolicy\"",
                "unknown field \"spec.containers[1].nested\"",
                "unknown field \"spec.elsewhere\"",
            ]
        );
    }

    #[test]
    fn duplicates_are_seen_wherever_they_are() {
        for (json, twice) in [
            (r#"{"a":1,"b":{"a":2},"c":[{"a":1},{"a":1}]}"#, false),
            (r#"{"a":"b","b":"a","c":"\"a\":"}"#, false),
            (r#"{"a":1,"b":2,"a":3}"#, true),
            (r#"{"x":[{"a" : 1,"a"	: 2}]}"#, true),
            (r#"["a","a"]"#, false),
            (r#"{"a"#, false),
            (r#"{"a":1}}}"#, false),
        ] {
            assert_eq!(has_duplicates(json.as_bytes()), twice, "{json}");
        }
        let many = (0..50).map(|at| format!("\"k{}\":1", at % 49)).collect::<Vec<_>>().join(",");
        assert!(has_duplicates(format!("{{{many}}}").as_bytes()));
        assert_eq!(duplicates(br#"{"a":{"b":1,"b":2}}"#), ["duplicate field \"a.b\""]);
    }
}
