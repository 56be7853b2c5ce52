//! The schemas `/openapi` publishes of custom resources.

use serde_json::{Map, Value, json};

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should \
                           convert recognized schemas to the latest internal value, and may reject unrecognized \
                           values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/\
                           api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer \
                    this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: \
                    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/\
                        sig-architecture/api-conventions.md#metadata";
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The version of OpenAPI a schema is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Swagger 2.0, which clients validate with: what it cannot say is left out, so that nothing valid is refused.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// The schema of a kind, from what the definition writes, with `apiVersion`, `kind` and `metadata`.
pub fn schema(open_api: &Value, dialect: Dialect) -> Value {
    let mut schema = if open_api.is_object() { open_api.clone() } else { json!({}) };
    if dialect == Dialect::V2 {
        simplify(&mut schema);
    }
    resource(&mut schema, dialect);
    embedded(&mut schema, dialect);
    schema
}

/// Gives a whole object the fields that every object has.
fn resource(schema: &mut Value, dialect: Dialect) {
    let Value::Object(map) = schema else { return };
    map.entry("type").or_insert_with(|| "object".into());
    if dialect == Dialect::V2 && map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        map.remove("properties");
    }
    let properties = map.entry("properties").or_insert_with(|| json!({}));
    let Value::Object(properties) = properties else { return };
    let reference = dialect.reference(OBJECT_META);
    let metadata = match dialect {
        Dialect::V2 => json!({"description": METADATA, "$ref": reference}),
        Dialect::V3 => json!({"description": METADATA, "allOf": [{"$ref": reference}]}),
    };
    properties.insert("apiVersion".to_owned(), json!({"description": API_VERSION, "type": "string"}));
    properties.insert("kind".to_owned(), json!({"description": KIND, "type": "string"}));
    properties.insert("metadata".to_owned(), metadata);
}

/// The same for objects inside it.
fn embedded(schema: &mut Value, dialect: Dialect) {
    each_below(schema, &mut |below| {
        if below.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
            resource(below, dialect);
        }
        embedded(below, dialect);
    });
}

/// Calls for every schema directly below this one, outside of `allOf` and its like.
fn each_below(schema: &mut Value, call: &mut dyn FnMut(&mut Value)) {
    let Value::Object(map) = schema else { return };
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(&mut *call);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(below @ Value::Object(_)) = map.get_mut(name) {
            call(below);
        }
    }
}

/// Leaves out what Swagger 2.0 cannot say, or kubectl would misunderstand.
fn simplify(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for name in ["allOf", "anyOf", "oneOf", "not", "default"] {
        map.remove(name);
    }
    let is = |map: &Map<String, Value>, name: &str| map.get(name) == Some(&Value::Bool(true));
    if is(map, "x-kubernetes-int-or-string") || is(map, "nullable") {
        for name in ["type", "nullable", "properties", "items", "additionalProperties", "required", "enum"] {
            map.remove(name);
        }
    }
    if is(map, "x-kubernetes-preserve-unknown-fields") {
        for name in ["items", "properties", "additionalProperties", "required"] {
            map.remove(name);
        }
        if map.get("type") == Some(&Value::from("array")) {
            map.remove("type");
        }
    }
    each_below(schema, &mut simplify);
}

/// The schema of a list of `item`, a definition's name.
pub fn list(kind: &str, item: &str, dialect: Dialect) -> Value {
    let reference = dialect.reference("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    let metadata_text = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/\
                         sig-architecture/api-conventions.md#types-kinds";
    let metadata = match dialect {
        Dialect::V2 => json!({"description": metadata_text, "$ref": reference}),
        Dialect::V3 => json!({"description": metadata_text, "allOf": [{"$ref": reference}]}),
    };
    let plural = format!(
        "List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/\
                          api-conventions.md",
        item.rsplit('.').next().unwrap_or(item).to_lowercase() + "s"
    );
    json!({
        "description": format!("{kind} is a list of {}", kind.trim_end_matches("List")),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": API_VERSION, "type": "string"},
            "kind": {"description": KIND, "type": "string"},
            "metadata": metadata,
            "items": {"description": plural, "type": "array", "items": {"$ref": dialect.reference(item)}},
        },
    })
}

/// The name of a definition: the group backwards, the version and the kind.
pub fn name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swagger_says_only_what_it_can() {
        let props = json!({
            "type": "object",
            "properties": {"spec": {
                "type": "object",
                "oneOf": [{"required": ["a"]}],
                "properties": {
                    "a": {"type": "string", "nullable": true},
                    "b": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "c": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    "t": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"x": {"type": "string"}}},
                },
            }},
        });
        let v2 = schema(&props, Dialect::V2);
        let spec = &v2["properties"]["spec"];
        assert_eq!(spec["properties"]["a"], json!({}));
        assert_eq!(spec["properties"]["b"], json!({"x-kubernetes-int-or-string": true}));
        assert_eq!(spec["properties"]["c"]["x-kubernetes-list-type"], "set");
        assert_eq!(spec.get("oneOf"), None);
        assert_eq!(
            spec["properties"]["t"]["properties"]["metadata"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        let v3 = schema(&props, Dialect::V3);
        assert_eq!(v3["properties"]["spec"]["oneOf"], json!([{"required": ["a"]}]));
        assert!(v3["properties"]["metadata"]["allOf"].is_array());
        assert_eq!(name("stable.example.com", "v1", "CronTab"), "com.example.stable.v1.CronTab");
    }
}
