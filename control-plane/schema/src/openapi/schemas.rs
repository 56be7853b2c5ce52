//! From a type to its JSON schema.

use serde_json::{Map, Value, json};

use crate::{
    Error,
    types::{Descriptions, Field, ListType, Shape, Type},
};

/// The version of OpenAPI that is spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Swagger 2.0: one type a value, no defaults, nothing beside a reference but its description.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    /// A reference to a type.
    pub(super) fn reference(self, of: Type) -> Value {
        self.named(of.name())
    }

    /// A reference to a type of that name.
    pub(super) fn named(self, name: &str) -> Value {
        json!({"$ref": format!("{}{name}", if self == Self::V2 { "#/definitions/" } else { "#/components/schemas/" })})
    }
}

/// The schema of a type.
pub(super) fn of(dialect: Dialect, of: Type, docs: &mut Descriptions) -> Result<Value, Error> {
    let mut schema = Map::new();
    let mut required = Vec::new();
    if of.shape() == Shape::Struct {
        let mut properties = Map::new();
        for field in of.fields() {
            if field.is_required() {
                required.push(Value::from(field.name()));
            }
            let description = docs.of_field(of, field)?;
            properties.insert(field.name().to_owned(), property(dialect, field, description));
        }
        schema.insert("type".to_owned(), "object".into());
        schema.insert("properties".to_owned(), properties.into());
    } else {
        schema = value(dialect, of.shape());
    }
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
    describe(&mut schema, docs.of(of)?);
    if of.is_atomic() {
        schema.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    if let Some(union) = of.union() {
        let fields: Map<String, Value> =
            union.fields.iter().map(|(field, name)| ((*field).to_owned(), Value::from(*name))).collect();
        schema.insert(
            "x-kubernetes-unions".to_owned(),
            json!([{"discriminator": union.discriminator, "fields-to-discriminateBy": fields}]),
        );
    }
    Ok(schema.into())
}

fn describe(schema: &mut Map<String, Value>, description: &str) {
    if !description.is_empty() {
        schema.insert("description".to_owned(), description.into());
    }
}

fn property(dialect: Dialect, field: Field, description: &str) -> Value {
    let mut schema = value(dialect, field.shape());
    describe(&mut schema, description);
    match field.list_type() {
        None => {}
        Some(ListType::Atomic) => mark(&mut schema, "list-type", "atomic"),
        Some(ListType::Set) => mark(&mut schema, "list-type", "set"),
        Some(ListType::Map(keys)) => {
            mark(&mut schema, "list-type", "map");
            mark(&mut schema, "list-map-keys", keys);
        }
    }
    if matches!(field.shape(), Shape::Map(_)) && field.is_atomic_map() {
        mark(&mut schema, "map-type", "atomic");
    }
    if let Some(strategy) = field.patch_strategy() {
        mark(&mut schema, "patch-strategy", strategy);
    }
    if let Some(key) = field.patch_merge_key() {
        mark(&mut schema, "patch-merge-key", key);
    }
    if dialect == Dialect::V3
        && let Some(default) = default(field)
    {
        schema.insert("default".to_owned(), default);
    }
    schema.into()
}

fn mark(schema: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    schema.insert(format!("x-kubernetes-{name}"), value.into());
}

/// What is declared, else the zero value of what is always there.
fn default(field: Field) -> Option<Value> {
    if let Some(declared) = field.default() {
        return serde_json::from_str(declared).ok();
    }
    match field.shape() {
        Shape::Ref(of) if of.name().ends_with(".ObjectMeta") || of.name().ends_with(".ListMeta") => Some(json!({})),
        shape if field.is_required() => zero(shape),
        _ => None,
    }
}

/// The value of something that is not a pointer in upstream's types.
fn zero(shape: Shape) -> Option<Value> {
    match shape {
        Shape::String("") => Some("".into()),
        Shape::Integer(_) | Shape::Number(_) => Some(0.into()),
        Shape::Boolean => Some(false.into()),
        Shape::Ref(of) if of.shape() == Shape::Struct => Some(json!({})),
        _ => None,
    }
}

fn value(dialect: Dialect, shape: Shape) -> Map<String, Value> {
    let mut schema = Map::new();
    let mut put = |name: &str, value: Value| {
        schema.insert(name.to_owned(), value);
    };
    let scalar = |kind: &str, format: &str, put: &mut dyn FnMut(&str, Value)| {
        put("type", kind.into());
        if !format.is_empty() {
            put("format", format.into());
        }
    };
    match shape {
        Shape::String(format) => scalar("string", format, &mut put),
        Shape::Integer(format) => scalar("integer", format, &mut put),
        Shape::Number(format) => scalar("number", format, &mut put),
        Shape::Boolean => put("type", "boolean".into()),
        Shape::Object | Shape::Struct => put("type", "object".into()),
        Shape::Any => {}
        Shape::IntOrString if dialect == Dialect::V2 => scalar("string", "int-or-string", &mut put),
        Shape::IntOrString => {
            put("format", "int-or-string".into());
            put("oneOf", json!([{"type": "integer"}, {"type": "string"}]));
        }
        Shape::Quantity if dialect == Dialect::V2 => put("type", "string".into()),
        Shape::Quantity => put("oneOf", json!([{"type": "string"}, {"type": "number"}])),
        // In OpenAPI 3.0 nothing may stand beside a reference.
        Shape::Ref(of) if dialect == Dialect::V3 => put("allOf", json!([dialect.reference(of)])),
        Shape::Ref(of) => put("$ref", dialect.reference(of)["$ref"].take()),
        Shape::List(element) => {
            put("type", "array".into());
            put("items", inner(dialect, element.shape()));
        }
        Shape::Map(element) => {
            put("type", "object".into());
            put("additionalProperties", inner(dialect, element.shape()));
        }
    }
    schema
}

/// An item of a list or a value of a map.
fn inner(dialect: Dialect, shape: Shape) -> Value {
    let mut schema = value(dialect, shape);
    if dialect == Dialect::V3
        && let Some(zero) = zero(shape)
    {
        schema.insert("default".to_owned(), zero);
    }
    schema.into()
}
