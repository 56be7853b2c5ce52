//! Field selectors: `spec.nodeName=n1,status.phase!=Failed`.

use std::fmt;

use crate::status::StatusError;

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    /// Path of the field, such as `spec.nodeName`.
    pub field: String,
    /// The value to compare with.
    pub value: String,
    /// Whether the field must be equal (true) or different (false).
    pub equal: bool,
}

/// A conjunction of [`FieldTerm`]s. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Reads `a=b`, `a==b`, `a!=b`, joined with commas; `\`, `,` and `=` in values are escaped with a backslash.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let (field, equal, value) = split_term(part).ok_or_else(|| {
                StatusError::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, equal });
        }
        terms.sort_by(|a, b| (&a.field, &a.value).cmp(&(&b.field, &b.value)));
        Ok(FieldSelector { terms })
    }

    /// Whether every term holds. A field the object does not have counts as empty.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (field(&t.field).unwrap_or_default() == t.value) == t.equal)
    }

    /// The fields spoken of, in order, possibly repeated.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.terms.iter().map(|t| t.field.as_str())
    }

    /// The terms, sorted by field.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// The same selector with other names for fields: pairs of the old name and the new.
    pub fn renamed(&self, names: &[(&str, &str)]) -> Self {
        let mut selector = self.clone();
        for term in &mut selector.terms {
            if let Some((_, new)) = names.iter().find(|(old, _)| *old == term.field) {
                term.field = (*new).to_owned();
            }
        }
        selector
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value `field` must have, if the selector fixes it.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// 400 with upstream's text when a field is not among `supported`.
    pub fn check(&self, supported: &[&str]) -> Result<(), StatusError> {
        const BASIC: [&str; 2] = ["metadata.name", "metadata.namespace"];
        let Some(unknown) = self.fields().find(|f| !supported.contains(f)) else { return Ok(()) };
        let message = if supported.iter().all(|f| BASIC.contains(f)) {
            let unknown = crate::field::quote(unknown);
            format!("{unknown} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        } else {
            format!("field label not supported: {unknown}")
        };
        Err(StatusError::bad_request(message))
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        let rest = &term[at..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, StatusError> {
    let bad = |what: String| StatusError::bad_request(format!("invalid field selector: {what}"));
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(bad(format!("invalid escape sequence: \\{c}"))),
                None => return Err(bad("invalid escape sequence: \\".to_owned())),
            },
            ',' | '=' => return Err(bad(format!("unescaped character in value: {c}"))),
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let operator = if term.equal { "=" } else { "!=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(field: &str) -> Option<&'static str> {
        match field {
            "spec.nodeName" => Some("n1"),
            "status.phase" => Some("Running"),
            _ => None,
        }
    }

    #[test]
    fn equality_and_difference() {
        for (selector, want) in [
            ("", true),
            ("spec.nodeName=n1", true),
            ("spec.nodeName==n1,status.phase!=Failed", true),
            ("spec.nodeName=n1,status.phase=Failed", false),
            ("spec.nodeName!=n1", false),
            ("status.podIP=", true),
        ] {
            assert_eq!(FieldSelector::parse(selector).unwrap().matches(object), want, "{selector}");
        }
    }

    #[test]
    fn exact_values_serve_indices() {
        let selector = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed").unwrap();
        assert_eq!(selector.exact("spec.nodeName"), Some("n1"));
        assert_eq!(selector.exact("status.phase"), None);
        assert_eq!(selector.fields().collect::<Vec<_>>(), ["spec.nodeName", "status.phase"]);
    }

    #[test]
    fn nonsense_is_a_bad_request() {
        let error = FieldSelector::parse("abc").unwrap_err();
        assert_eq!((error.code().as_u16(), error.message()), (400, "invalid selector: 'abc'; can't understand 'abc'"));
        let error = FieldSelector::parse("a=b=c").unwrap_err();
        assert_eq!(error.message(), "invalid field selector: unescaped character in value: =");
        assert!(FieldSelector::parse("a=\\x").is_err());
        assert!(FieldSelector::parse("a=\\").is_err());
    }

    #[test]
    fn unknown_fields_are_named() {
        let selector = FieldSelector::parse("spec.foo=1").unwrap();
        let error = selector.check(&["metadata.name", "metadata.namespace", "type"]).unwrap_err();
        assert_eq!(error.message(), "field label not supported: spec.foo");
        let error = selector.check(&["metadata.name", "metadata.namespace"]).unwrap_err();
        assert_eq!(
            error.message(),
            "\"spec.foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }

    proptest! {
        #[test]
        fn whatever_is_printed_parses_to_the_same(terms in prop::collection::vec(("[a-z.]{1,8}", "[a-z,=\\\\!ä]{0,8}", any::<bool>()), 0..4)) {
            let mut terms: Vec<_> =
                terms.into_iter().map(|(field, value, equal)| FieldTerm { field, value, equal }).collect();
            terms.sort_by(|a, b| (&a.field, &a.value).cmp(&(&b.field, &b.value)));
            let selector = FieldSelector { terms };
            prop_assert_eq!(FieldSelector::parse(&selector.to_string()).unwrap(), selector);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = FieldSelector::parse(&text);
        }
    }
}
