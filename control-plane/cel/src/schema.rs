//! Types from structural OpenAPI schemas, as CustomResourceDefinitions carry them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use crate::types::{Field, ListKind, ListType, MAX_REQUEST_BYTES, MapType, ObjectType, Type};

/// Words the language keeps for itself; a property of that name is written `__in__`.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// How a property is written in an expression: `x-y` is `x__dash__y`. None when no expression can name it.
pub fn escape(property: &str) -> Option<String> {
    if RESERVED.contains(&property) {
        return Some(format!("__{property}__"));
    }
    let first = property.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    let mut out = String::with_capacity(property.len());
    let mut rest = property;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

impl Type {
    /// The type of values of a structural schema (in JSON). At the root of a resource (`root`) the type has `apiVersion`,
    /// `kind` and `metadata` with name and generateName, whatever the schema says.
    ///
    /// A schema that says nothing (preserve unknown fields without properties) gives no type: rules cannot be set there.
    pub fn from_schema(schema: &Json, root: bool) -> Option<Self> {
        Reader { depth: 0 }.read(schema, root).map(|sized| sized.ty)
    }
}

/// A type and the fewest bytes a JSON value of it takes.
struct Sized {
    ty: Type,
    min: u64,
}

struct Reader {
    depth: usize,
}

/// No schema that a request can carry nests deeper than this and is sensible.
const MAX_DEPTH: usize = 100;

impl Reader {
    fn read(&mut self, schema: &Json, root: bool) -> Option<Sized> {
        if self.depth >= MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let read = self.read_nested(schema, root);
        self.depth -= 1;
        read
    }

    fn read_nested(&mut self, schema: &Json, root: bool) -> Option<Sized> {
        if flag(schema, "x-kubernetes-int-or-string") {
            return Some(Sized { ty: Type::Dyn, min: 1 });
        }
        let embedded = flag(schema, "x-kubernetes-embedded-resource");
        match schema.get("type").and_then(Json::as_str).unwrap_or_default() {
            "array" => self.array(schema),
            "object" => self.object(schema, root || embedded),
            "string" => Some(string(schema)),
            "boolean" => Some(Sized { ty: Type::Bool, min: 4 }),
            "number" => Some(Sized { ty: Type::Double, min: 1 }),
            "integer" => Some(Sized { ty: Type::Int, min: 1 }),
            _ => None,
        }
    }

    fn array(&mut self, schema: &Json) -> Option<Sized> {
        let element = self.read(schema.get("items")?, false)?;
        let max = bound(schema, "maxItems").unwrap_or((MAX_REQUEST_BYTES - 2) / (element.min + 1));
        let kind = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
            Some("set") => ListKind::Set,
            Some("map") => ListKind::Map(
                schema
                    .get("x-kubernetes-list-map-keys")
                    .and_then(Json::as_array)
                    .map(|keys| keys.iter().filter_map(Json::as_str).map(str::to_owned).collect())
                    .unwrap_or_default(),
            ),
            _ => ListKind::Atomic,
        };
        Some(Sized { ty: Type::List(Arc::new(ListType { element: element.ty, max: Some(max), kind })), min: 2 })
    }

    fn object(&mut self, schema: &Json, resource: bool) -> Option<Sized> {
        if let Some(additional) = schema.get("additionalProperties").filter(|it| it.is_object()) {
            let value = self.read(additional, false)?;
            // "": plus the value and a comma
            let max = bound(schema, "maxProperties").unwrap_or((MAX_REQUEST_BYTES - 2) / (value.min + 6));
            let key = Type::String(Some(MAX_REQUEST_BYTES - 2));
            return Some(Sized { ty: Type::Map(Arc::new(MapType { key, value: value.ty, max: Some(max) })), min: 2 });
        }
        let mut fields = BTreeMap::new();
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Json::as_array)
            .map(|names| names.iter().filter_map(Json::as_str).collect())
            .unwrap_or_default();
        let mut min = 2;
        for (name, property) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
            let Some(read) = self.read(property, false) else { continue };
            if required.contains(&name.as_str()) && property.get("default").is_none() {
                min += name.len() as u64 + read.min + 4;
            }
            if let Some(escaped) = escape(name) {
                fields.insert(escaped, Field { json: name.clone(), ty: read.ty });
            }
        }
        if resource {
            for name in ["apiVersion", "kind"] {
                fields.insert(name.to_owned(), Field { json: name.to_owned(), ty: Type::TEXT });
            }
            let metadata = ObjectType::of("metadata", [("name", Type::TEXT), ("generateName", Type::TEXT)]);
            fields.insert("metadata".to_owned(), Field { json: "metadata".to_owned(), ty: Type::object(metadata) });
        } else if fields.is_empty() && flag(schema, "x-kubernetes-preserve-unknown-fields") {
            return None;
        }
        let object = ObjectType { name: "object".to_owned(), fields };
        Some(Sized { ty: Type::object(object), min })
    }
}

fn string(schema: &Json) -> Sized {
    let max = bound(schema, "maxLength");
    match schema.get("format").and_then(Json::as_str).unwrap_or_default() {
        "byte" => {
            let max = max.unwrap_or(MAX_REQUEST_BYTES - 2);
            Sized { ty: Type::Bytes(Some(max)), min: 2 }
        }
        "duration" => Sized { ty: Type::Duration, min: 4 },
        "date" => Sized { ty: Type::Timestamp, min: 12 },
        "date-time" => Sized { ty: Type::Timestamp, min: 22 },
        _ => {
            let longest = schema
                .get("enum")
                .and_then(Json::as_array)
                .and_then(|values| values.iter().filter_map(Json::as_str).map(|it| it.chars().count() as u64).max());
            // A character takes up to four bytes, but the estimate is of the fewest: one.
            let max = max.map(|max| max.saturating_mul(4)).or(longest).unwrap_or(MAX_REQUEST_BYTES - 2);
            Sized { ty: Type::String(Some(max)), min: 2 }
        }
    }
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}

fn bound(schema: &Json, name: &str) -> Option<u64> {
    let bound = schema.get(name)?;
    bound.as_u64().or_else(|| bound.as_i64().map(|_| 0))
}
