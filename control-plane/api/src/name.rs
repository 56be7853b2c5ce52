//! Validators of names and other short strings. Each returns what is wrong, in upstream's words; nothing when all is well.

use std::net::IpAddr;

/// What is wrong with a value; empty when nothing is.
pub type Complaints = Vec<String>;
/// A validator of names.
pub type Validator = fn(&str) -> Complaints;

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
    and must start and end with an alphanumeric character";
const DNS1123_LABEL_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
    '-' or '.', and must start and end with an alphanumeric character";
const DNS1123_SUBDOMAIN_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
    alphabetic character, and end with an alphanumeric character";
const DNS1035_LABEL_RE: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_NAME: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const QUALIFIED_NAME_RE: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character";
const LABEL_VALUE_RE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
const CONFIG_KEY_RE: &str = "[-._a-zA-Z0-9]+";

/// `prefix (e.g. 'a',  or 'b', regex used for validation is 're')`, with upstream's spacing.
fn regex_error(text: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    if examples.is_empty() {
        return format!("{text} (regex used for validation is '{regex}')");
    }
    format!("{text} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn max_length(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_label(s: &str, first: fn(u8) -> bool) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = s.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&f), Some(&l)) => first(f) && lower(l) && bytes.iter().all(|&b| lower(b) || b == b'-'),
        _ => false,
    }
}

fn is_dns1123_label_text(s: &str) -> bool {
    is_label(s, |b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn is_qualified_text(s: &str) -> bool {
    let bytes = s.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(f), Some(l)) => {
            f.is_ascii_alphanumeric()
                && l.is_ascii_alphanumeric()
                && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        }
        _ => false,
    }
}

/// A label of at most 63 bytes, as in RFC 1123.
pub fn dns1123_label(s: &str) -> Complaints {
    let mut out = Complaints::new();
    if s.len() > 63 {
        out.push(max_length(63));
    }
    if !is_dns1123_label_text(s) {
        out.push(regex_error(DNS1123_LABEL, DNS1123_LABEL_RE, &["my-name", "123-abc"]));
    }
    out
}

/// A subdomain of at most 253 bytes, as in RFC 1123.
pub fn dns1123_subdomain(s: &str) -> Complaints {
    let mut out = Complaints::new();
    if s.len() > 253 {
        out.push(max_length(253));
    }
    if !s.split('.').all(is_dns1123_label_text) {
        out.push(regex_error(DNS1123_SUBDOMAIN, DNS1123_SUBDOMAIN_RE, &["example.com"]));
    }
    out
}

/// A label of at most 63 bytes that starts with a letter, as in RFC 1035.
pub fn dns1035_label(s: &str) -> Complaints {
    let mut out = Complaints::new();
    if s.len() > 63 {
        out.push(max_length(63));
    }
    if !is_label(s, |b| b.is_ascii_lowercase()) {
        out.push(regex_error(DNS1035_LABEL, DNS1035_LABEL_RE, &["my-name", "abc-123"]));
    }
    out
}

/// Anything that can be one segment of a request path.
pub fn path_segment_name(s: &str) -> Complaints {
    if s == "." || s == ".." {
        return vec![format!("may not be '{s}'")];
    }
    ['/', '%'].into_iter().filter(|c| s.contains(*c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A label or annotation key: an optional DNS prefix, a slash, a name.
pub fn qualified_name(s: &str) -> Complaints {
    let mut out = Complaints::new();
    let mut parts = s.split('/');
    let (prefix, name) = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => (None, name),
        (Some(prefix), Some(name), None) => (Some(prefix), name),
        _ => {
            let shape = regex_error(QUALIFIED_NAME, QUALIFIED_NAME_RE, &["MyName", "my.name", "123-abc"]);
            return vec![format!(
                "a qualified name {shape} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    match prefix {
        Some("") => out.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => out.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}"))),
        None => {}
    }
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        out.push(format!("name part {}", max_length(63)));
    }
    if !is_qualified_text(name) {
        let shape = regex_error(QUALIFIED_NAME, QUALIFIED_NAME_RE, &["MyName", "my.name", "123-abc"]);
        out.push(format!("name part {shape}"));
    }
    out
}

/// The value of a label.
pub fn label_value(s: &str) -> Complaints {
    let mut out = Complaints::new();
    if s.len() > 63 {
        out.push(max_length(63));
    }
    if !s.is_empty() && !is_qualified_text(s) {
        out.push(regex_error(LABEL_VALUE, LABEL_VALUE_RE, &["MyValue", "my_value", "12345"]));
    }
    out
}

/// The name of a port: a service name as in RFC 6335.
pub fn port_name(s: &str) -> Complaints {
    let mut out = Complaints::new();
    if s.len() > 15 {
        out.push(max_length(15));
    }
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !s.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if s.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if s.starts_with('-') || s.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// A port number.
pub fn port_number(port: i64) -> Complaints {
    if (1..=65535).contains(&port) { vec![] } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// The name of an environment variable.
pub fn env_var_name(s: &str) -> Complaints {
    if s.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if s.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') { vec![] } else { vec![ENV_NAME.to_owned()] }
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(s: &str) -> Complaints {
    let mut out = Complaints::new();
    if s.len() > 253 {
        out.push(max_length(253));
    }
    if s.is_empty() || !s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        out.push(regex_error(CONFIG_KEY, CONFIG_KEY_RE, &["key.name", "KEY_NAME", "key-name"]));
    }
    match s {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        _ if s.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
    out
}

/// An IPv4 or IPv6 address.
pub fn ip(s: &str) -> Complaints {
    match s.parse::<IpAddr>() {
        Ok(_) => vec![],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// A name that will get a generated suffix: a trailing dash is all right, because something follows it.
pub fn prefix(validator: Validator, name: &str) -> Complaints {
    match name.strip_suffix('-') {
        Some(base) if !base.is_empty() => {
            let mut masked = base.to_owned();
            masked.pop();
            masked.push('a');
            validator(&masked)
        }
        _ => validator(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_judged_in_upstreams_words() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert!(dns1123_label("a-1").is_empty());
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(!dns1123_label("").is_empty());
    }

    #[test]
    fn subdomains_have_dots_between_labels() {
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        assert!(!dns1123_subdomain("a..b").is_empty());
        assert!(!dns1123_subdomain("a.").is_empty());
        assert_eq!(
            dns1123_subdomain("_"),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
    }

    #[test]
    fn qualified_names_may_have_one_prefix() {
        assert!(qualified_name("app.kubernetes.io/name").is_empty());
        assert!(qualified_name("Name_1.x").is_empty());
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert!(qualified_name("a/")[0].starts_with("name part must be non-empty"));
    }

    #[test]
    fn ports_environment_and_keys() {
        assert!(port_name("http-2").is_empty());
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert!(port_number(0).len() == 1 && port_number(65536).len() == 1 && port_number(1).is_empty());
        assert!(env_var_name("A.b").is_empty() && !env_var_name("A=b").is_empty());
        assert!(config_map_key("a.b_C-1").is_empty() && !config_map_key("a b").is_empty());
        assert_eq!(config_map_key(".."), ["must not be '..'"]);
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(prefix(dns1123_subdomain, "web-").is_empty());
        assert!(!prefix(dns1123_subdomain, "-").is_empty());
        assert!(prefix(dns1035_label, "web").is_empty());
    }

    #[test]
    fn path_segments_exclude_only_what_a_path_cannot_hold() {
        assert!(path_segment_name("A:b").is_empty());
        assert_eq!(path_segment_name("a/b%"), ["may not contain '/'", "may not contain '%'"]);
        assert_eq!(path_segment_name(".."), ["may not be '..'"]);
    }
}
