//! Paths to fields and the errors validation reports about them, worded as upstream words them.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde::Serialize;
use serde_json::Value;

/// Where a field is, from the root of an object. A path is a chain of borrowed segments and costs nothing until an
/// error prints it.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Empty,
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The path of the object itself; children print without a leading dot.
    pub const ROOT: Path<'static> = Path { parent: None, segment: Segment::Empty };

    /// A path starting at a field, which may be several joined with dots (`spec.template`).
    pub const fn new(name: &'a str) -> Self {
        Path { parent: None, segment: Segment::Name(name) }
    }

    /// A field below this one, which may be several joined with dots.
    pub const fn child(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Name(name) }
    }

    /// An item of this list.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// An entry of this map.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }

    fn is_empty(&self) -> bool {
        matches!(self.segment, Segment::Empty) && self.parent.is_none_or(Path::is_empty)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if matches!(self.segment, Segment::Name(_)) && !parent.is_empty() {
                f.write_str(".")?;
            }
        }
        match self.segment {
            Segment::Empty => Ok(()),
            Segment::Name(name) => f.write_str(name),
            Segment::Index(index) => write!(f, "[{index}]"),
            Segment::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// A value is missing.
    Required,
    /// A value is malformed.
    Invalid,
    /// A value is not in the fixed set of values.
    NotSupported,
    /// A value that must be unique is not.
    Duplicate,
    /// A value is well-formed but not permitted now.
    Forbidden,
    /// A string is too long.
    TooLong,
    /// A list is too long.
    TooMany,
    /// A reference points nowhere.
    NotFound,
    /// A value has the wrong type.
    TypeInvalid,
    /// Validation itself failed.
    Internal,
}

impl ErrorType {
    /// The reason in a status cause.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
            ErrorType::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            ErrorType::Required => "Required value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::NotFound => "Not found",
            ErrorType::Internal => "Internal error",
        }
    }
}

/// A complaint about one field.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorType,
    /// Path of the field.
    pub field: String,
    /// The offending value, where the message shows it.
    pub value: Option<Value>,
    /// Explanation, may be empty.
    pub detail: String,
}

/// The complaints about one object.
pub type Errors = Vec<Error>;

impl Error {
    fn new(kind: ErrorType, path: &Path<'_>, value: Option<Value>, detail: impl Into<String>) -> Self {
        Error { kind, field: path.to_string(), value, detail: detail.into() }
    }

    /// A missing value; the detail may be empty.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Required, path, None, detail)
    }

    /// A malformed value.
    pub fn invalid(path: &Path<'_>, value: impl Serialize, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Invalid, path, Some(to_value(value)), detail)
    }

    /// A value outside the supported ones, which are printed in the order given.
    pub fn not_supported(path: &Path<'_>, value: impl Serialize, supported: &[&str]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|s| quote(s)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(ErrorType::NotSupported, path, Some(to_value(value)), detail)
    }

    /// A repeated value.
    pub fn duplicate(path: &Path<'_>, value: impl Serialize) -> Self {
        Self::new(ErrorType::Duplicate, path, Some(to_value(value)), "")
    }

    /// A value that may not be set or changed now.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Forbidden, path, None, detail)
    }

    /// A string longer than `max` bytes.
    pub fn too_long(path: &Path<'_>, max: usize) -> Self {
        Self::new(ErrorType::TooLong, path, None, format!("may not be more than {max} bytes"))
    }

    /// A list longer than `max` items.
    pub fn too_many(path: &Path<'_>, actual: usize, max: usize) -> Self {
        let plural = if max == 1 { "" } else { "s" };
        let detail = format!("must have at most {max} item{plural}");
        Self::new(ErrorType::TooMany, path, Some(to_value(actual)), detail)
    }

    /// A reference to something that does not exist.
    pub fn not_found(path: &Path<'_>, value: impl Serialize) -> Self {
        Self::new(ErrorType::NotFound, path, Some(to_value(value)), "")
    }

    /// A value of the wrong type.
    pub fn type_invalid(path: &Path<'_>, value: impl Serialize, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::TypeInvalid, path, Some(to_value(value)), detail)
    }

    /// Validation could not be done.
    pub fn internal(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(ErrorType::Internal, path, None, detail)
    }

    /// The message without the field, as status causes carry it.
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_owned();
        if let Some(value) = &self.value {
            body.push_str(": ");
            match value {
                Value::String(s) => body.push_str(&quote(s)),
                other => body.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }

    /// The cause of an Invalid status.
    pub fn cause(&self) -> StatusCause {
        StatusCause {
            reason: Some(self.kind.reason().to_owned()),
            message: Some(self.body()),
            field: Some(self.field.clone()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

fn to_value(value: impl Serialize) -> Value {
    // Serialising an API type only fails for maps with non-string keys, which have none.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Go's `%q`: double quotes, with escapes.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Several errors as one text: the error itself, or `[a, b]`, without repetitions.
pub fn aggregate(errors: &[Error]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for text in errors.iter().map(Error::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.len() {
        1 => texts.remove(0),
        _ => format!("[{}]", texts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_names_indices_and_keys() {
        let spec = Path::new("spec");
        let containers = spec.child("containers");
        assert_eq!(containers.index(2).child("name").to_string(), "spec.containers[2].name");
        assert_eq!(Path::new("metadata").child("labels").key("a/b").to_string(), "metadata.labels[a/b]");
        assert_eq!(Path::ROOT.child("data").to_string(), "data");
    }

    #[test]
    fn messages_read_like_upstream() {
        let p = Path::new("spec.x");
        assert_eq!(Error::required(&p, "").to_string(), "spec.x: Required value");
        assert_eq!(Error::invalid(&p, "a\"b", "no").to_string(), "spec.x: Invalid value: \"a\\\"b\": no");
        assert_eq!(Error::invalid(&p, -1, "must be positive").body(), "Invalid value: -1: must be positive");
        let unsupported = Error::not_supported(&p, "Z", &["A", "B"]);
        assert_eq!(unsupported.body(), "Unsupported value: \"Z\": supported values: \"A\", \"B\"");
        assert_eq!(Error::duplicate(&p, 80).body(), "Duplicate value: 80");
        assert_eq!(Error::forbidden(&p, "field is immutable").body(), "Forbidden: field is immutable");
        assert_eq!(Error::too_long(&p, 63).body(), "Too long: may not be more than 63 bytes");
        assert_eq!(Error::too_many(&p, 4, 3).body(), "Too many: 4: must have at most 3 items");
    }

    #[test]
    fn structured_values_print_as_json() {
        let p = Path::new("spec.selector");
        let value = serde_json::json!({"matchLabels": {"a": "b"}});
        assert_eq!(Error::invalid(&p, value, "x").body(), "Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: x");
    }

    #[test]
    fn several_errors_are_bracketed_and_not_repeated() {
        let p = Path::new("a");
        let one = Error::required(&p, "");
        assert_eq!(aggregate(&[one.clone(), one.clone()]), "a: Required value");
        let two = Error::forbidden(&p, "no");
        assert_eq!(aggregate(&[one, two]), "[a: Required value, a: Forbidden: no]");
    }
}
