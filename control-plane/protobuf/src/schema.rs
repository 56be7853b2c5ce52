//! The table of messages. It holds offsets in place of pointers, so it stays in the program's read-only pages.

/// A name: where it is in the pool of names, and its length.
#[derive(Clone, Copy)]
struct Name(u16, u8);

impl Name {
    fn text(self) -> &'static str {
        // The build script made both: every offset and length lies within the pool, between ASCII characters.
        let start = usize::from(self.0);
        &NAMES[start..start + usize::from(self.1)]
    }
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    Message,
}

/// How many of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    Many,
    /// By a string.
    Map,
}

/// Messages whose JSON is not an object with their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// An object with the fields.
    None,
    /// Seconds and nanoseconds; RFC 3339 with seconds in JSON.
    Time,
    /// The same, with microseconds in JSON.
    MicroTime,
    /// Nanoseconds; a Go duration in JSON.
    Duration,
    /// A message around a string.
    Quantity,
    /// Type, number, string.
    IntOrString,
    /// Bytes that are JSON.
    Raw,
    /// A message around a list of strings.
    Items,
    /// A JSON schema or a boolean.
    OrBool,
    /// A JSON schema or several.
    OrArray,
    /// A JSON schema or property names.
    OrStrings,
}

/// A field of a message.
pub(crate) struct Field {
    name: Name,
    number: u8,
    pub(crate) kind: Type,
    pub(crate) shape: Shape,
    /// Go's JSON leaves the field out when it is zero: it is no pointer, and has `omitempty`.
    pub(crate) drops_zero: bool,
    message: u16,
}

impl Field {
    /// The name in JSON.
    pub(crate) fn name(&self) -> &'static str {
        self.name.text()
    }

    /// The field number.
    pub(crate) fn number(&self) -> u32 {
        u32::from(self.number)
    }

    /// The message that a field of [`Type::Message`] holds.
    pub(crate) fn message(&self) -> &'static Message {
        message(self.message)
    }

    /// Whether the fields of the message are fields of the object around it in JSON.
    pub(crate) fn is_inline(&self) -> bool {
        self.name() == "."
    }
}

/// A message: a range of the fields.
pub(crate) struct Message {
    first: u16,
    end: u16,
    pub(crate) special: Special,
}

impl Message {
    /// The fields, by number.
    pub(crate) fn fields(&self) -> &'static [Field] {
        &FIELDS[usize::from(self.first)..usize::from(self.end)]
    }
}

struct Kind {
    kind: Name,
    /// `*` when the kind belongs to every version.
    version: Name,
    message: u16,
}

fn message(index: u16) -> &'static Message {
    &MESSAGES[usize::from(index)]
}

/// A JSON schema of a custom resource.
pub(crate) fn json_schema() -> &'static Message {
    message(JSON_SCHEMA_PROPS)
}

/// The message of a kind.
pub(crate) fn find(api_version: &str, kind: &str) -> Option<&'static Message> {
    let start = KINDS.partition_point(|row| row.kind.text() < kind);
    KINDS[start..]
        .iter()
        .take_while(|row| row.kind.text() == kind)
        .find(|row| matches!(row.version.text(), version if version == api_version || version == "*"))
        .map(|row| message(row.message))
}

/// All kinds: apiVersion, kind, message.
#[cfg(test)]
pub(crate) fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static Message)> {
    KINDS.iter().map(|row| (row.version.text(), row.kind.text(), message(row.message)))
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_sorted_by_number_and_kinds_are_found() {
        for message in &MESSAGES {
            assert!(message.fields().is_sorted_by_key(Field::number));
        }
        for row in &KINDS {
            assert!(find(row.version.text(), row.kind.text()).is_some());
        }
        assert!(find("apps/v1", "Deployment").is_some());
        assert!(find("apps/v1", "DeleteOptions").is_some());
        assert!(find("v1", "Deployment").is_none());
    }

    #[test]
    fn the_tables_are_small() {
        let bytes = NAMES.len() + size_of_val(&FIELDS) + size_of_val(&MESSAGES) + size_of_val(&KINDS);
        assert!(bytes < 80 * 1024, "{bytes}");
    }
}
