//! Looks into JSON without parsing it: finds the top-level members of an object.
//!
//! Only used on JSON that serde wrote or already accepted, but never panics on anything else.

use std::ops::Range;

/// One member of an object: where its name (without quotes) and its value are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// The members of the object `json` is; none if it is not an object or is cut short.
pub(crate) fn members(json: &[u8]) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    visit(json, |member| {
        members.push(member);
        false
    })?;
    Some(members)
}

/// The raw value of the top-level member `name`. What comes after it is not looked at.
pub(crate) fn member<'a>(json: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut found = None;
    visit(json, |member| {
        let is_it = json[member.name.clone()] == *name.as_bytes();
        if is_it {
            found = Some(member.value);
        }
        is_it
    })?;
    found.map(|value| &json[value])
}

/// Shows the members of an object one after the other, until `enough`. None if it is no object as far as it was read.
fn visit(json: &[u8], mut enough: impl FnMut(Member) -> bool) -> Option<()> {
    let mut at = skip_space(json, 0);
    if json.get(at) != Some(&b'{') {
        return None;
    }
    at = skip_space(json, at + 1);
    if json.get(at) == Some(&b'}') {
        return Some(());
    }
    loop {
        if json.get(at) != Some(&b'"') {
            return None;
        }
        let end = string_end(json, at)?;
        let name = at + 1..end - 1;
        at = skip_space(json, end);
        if json.get(at) != Some(&b':') {
            return None;
        }
        let start = skip_space(json, at + 1);
        let end = value_end(json, start)?;
        at = skip_space(json, end);
        let next = *json.get(at)?;
        if enough(Member { name, value: start..end }) {
            return Some(());
        }
        match next {
            b',' => at = skip_space(json, at + 1),
            b'}' => return Some(()),
            _ => return None,
        }
    }
}

/// The same object with `apiVersion`, `kind` and `metadata` as its first members, which is how values are stored: whatever
/// needs only metadata stops reading there. Returned as it is if it is so already.
pub(crate) fn metadata_first(json: Vec<u8>) -> Vec<u8> {
    let Some(members) = members(&json) else { return json };
    let rank = |member: &Member| match &json[member.name.clone()] {
        b"apiVersion" | b"kind" => 0,
        b"metadata" => 1,
        _ => 2,
    };
    if members.is_sorted_by_key(rank) {
        return json;
    }
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_by_key(|member| rank(member));
    let mut out = Vec::with_capacity(json.len());
    for member in sorted {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(&json[member.name.start - 1..member.name.end + 1]);
        out.push(b':');
        out.extend_from_slice(&json[member.value.clone()]);
    }
    out.push(b'}');
    out
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while matches!(json.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The index after the string that starts at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        if json[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// The index after the value that starts at `at`.
fn value_end(json: &[u8], at: usize) -> Option<usize> {
    match json.get(at)? {
        b'"' => string_end(json, at),
        b'{' | b'[' => {
            let mut depth = 0_usize;
            let mut at = at;
            loop {
                match json.get(at)? {
                    b'"' => {
                        at = string_end(json, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => {
                        depth -= 1;
                        if depth == 0 {
                            return Some(at + 1);
                        }
                    }
                    _ => {}
                }
                at += 1;
            }
        }
        _ => {
            let rest = &json[at..];
            let length =
                rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'))?;
            (length > 0).then_some(at + length)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_behind_strings_and_nesting() {
        let json = br#" { "a\"}" : [1,{"b":"]"}] , "kind":"X", "n": 12 } "#;
        let found = members(json).unwrap();
        let text = |range: &Range<usize>| std::str::from_utf8(&json[range.clone()]).unwrap();
        let pairs: Vec<_> = found.iter().map(|m| (text(&m.name), text(&m.value))).collect();
        assert_eq!(pairs, [(r#"a\"}"#, r#"[1,{"b":"]"}]"#), ("kind", "\"X\""), ("n", "12")]);
        assert_eq!(member(json, "kind"), Some(&b"\"X\""[..]));
        assert_eq!(member(json, "none"), None);
        assert_eq!(member(br#"{"a":1,"b":"#, "a"), Some(&b"1"[..]), "what follows is not looked at");
        assert_eq!(member(br#"{"a":1"#, "a"), None);
    }

    #[test]
    fn anything_cut_short_is_no_object() {
        let json = br#"{"a":[1,{"b":"]"}],"c":"\\","d":null}"#;
        assert!(members(json).is_some());
        for end in 0..json.len() {
            assert_eq!(members(&json[..end]), None, "{end}");
        }
        for odd in ["", "[]", "1", "{,}", "{1:2}", "{\"a\" 1}", "{\"a\":}", "{\"a\":1,}"] {
            assert_eq!(members(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn metadata_moves_to_the_front() {
        let json = br#"{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b"},"metadata":{"name":"x"},"z":1}"#.to_vec();
        let moved = metadata_first(json);
        assert_eq!(
            std::str::from_utf8(&moved).unwrap(),
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"a":"b"},"z":1}"#
        );
        assert_eq!(metadata_first(moved.clone()), moved);
    }
}
