//! The path a proxied request asks for.

use std::fmt::Write as _;

/// The encoded path behind `/proxy`, as upstream makes it: decoded, cleaned of dots and double slashes, encoded anew. Empty
/// when the client asked for `/proxy` itself.
///
/// `trailing` is what follows `/proxy/`, encoded; `slash` says that the address ended with a slash; `option` is the query's
/// `path`, which counts where nothing follows.
pub(crate) fn target_path(trailing: &str, slash: bool, option: Option<&str>) -> String {
    let decoded = match (trailing, option) {
        ("", Some(option)) if !slash => option.to_owned(),
        ("", _) => String::new(),
        (trailing, _) => decode(trailing),
    };
    if decoded.is_empty() {
        return if slash { "/".to_owned() } else { String::new() };
    }
    let mut path = encode(&clean(&decoded));
    if (slash || decoded.ends_with('/')) && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// Resolves dots below the root and joins slashes.
pub(super) fn clean(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// The request has been parsed, so its encoding is sound.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Encodes what Go's `url.EscapedPath` does.
pub(super) fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'=' | b'@' => {
                out.push(char::from(byte));
            }
            byte => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_upstream_asks_for() {
        assert_eq!(target_path("", false, None), "");
        assert_eq!(target_path("", true, None), "/");
        assert_eq!(target_path("", false, Some("a b")), "/a%20b");
        assert_eq!(target_path("a%20b/c", false, Some("ignored")), "/a%20b/c");
        assert_eq!(target_path("a/", true, None), "/a/");
        assert_eq!(target_path("a//b/./../%2e%2e/%2e%2e/c", false, None), "/c");
        assert_eq!(target_path("100%25/%3F", false, None), "/100%25/%3F");
    }
}
