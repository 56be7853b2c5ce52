//! Keeps secrets out of what is handed on.

/// What stands in place of a secret.
const GONE: &str = "[removed]";

/// A text without what looks like a credential: JSON web tokens, bootstrap tokens, and what follows `Bearer`, `token` or
/// `password`.
pub(crate) fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut named = false;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_between).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        out.push_str(if named || is_secret(word) { GONE } else { word });
        let gap = behind.find(|c| !is_between(c)).unwrap_or(behind.len());
        let (between, next) = behind.split_at(gap);
        out.push_str(between);
        // `token=X`, `"token": "X"`, `Bearer X`: only directly behind, and not in the next line.
        let assigned = between.contains(['=', ':']) || word.eq_ignore_ascii_case("bearer");
        named = is_name(word) && assigned && !between.contains('\n');
        rest = next;
    }
    out
}

fn is_between(c: char) -> bool {
    c.is_whitespace()
        || matches!(c, '"' | '\'' | '=' | ':' | ',' | '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | '?' | '&')
}

fn is_name(word: &str) -> bool {
    let word = word.trim_start_matches('-').to_ascii_lowercase();
    ["bearer", "token", "password", "secret", "authorization"].iter().any(|name| word.ends_with(name))
}

fn is_secret(word: &str) -> bool {
    // `{"` in base64: the head of a JSON web token.
    if word.starts_with("eyJ") && word.len() > 20 {
        return true;
    }
    let small = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let parts = word.split_once('.');
    parts.is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16 && small(id) && small(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_and_the_rest_stays() {
        let jwt = format!("eyJ{}", "a".repeat(40));
        for (text, wanted) in [
            ("INFO pod=default/web-0 started", "INFO pod=default/web-0 started"),
            ("Authorization: Bearer abc.def\nnext", "Authorization: [removed] [removed]\nnext"),
            ("--token=abcdef.0123456789abcdef --node n1", "--token=[removed] --node n1"),
            ("found abcdef.0123456789abcdef there", "found [removed] there"),
            (r#"{"token": "x", "user": "y"}"#, r#"{"token": "[removed]", "user": "y"}"#),
            ("the token was rotated", "the token was rotated"),
            ("10.96.0.10:53 answers", "10.96.0.10:53 answers"),
            ("", ""),
        ] {
            assert_eq!(redact(text), wanted);
        }
        assert_eq!(redact(&format!("got {jwt}!")), "got [removed]");
    }
}
