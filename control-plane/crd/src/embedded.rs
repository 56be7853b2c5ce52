//! Objects inside objects (`x-kubernetes-embedded-resource`): their type and metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize as _;
use serde_json::Value;
use skep_api::{
    field::{Error, Path},
    meta, name,
};

use crate::schema::Schema;

/// What is wrong with embedded objects.
pub fn validate(value: &Value, schema: &Schema, path: &Path<'_>, errors: &mut Vec<Error>) {
    match value {
        Value::Object(map) => {
            if schema.embedded {
                resource(value, path, errors);
            }
            for (name, member) in map {
                match (schema.properties.get(name), schema.additional_schema()) {
                    (Some(known), _) => validate(member, known, &path.child(name), errors),
                    (None, Some(known)) => validate(member, known, &path.key(name), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(known) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    validate(item, known, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn resource(value: &Value, path: &Path<'_>, errors: &mut Vec<Error>) {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let at = path.child("apiVersion");
    match text("apiVersion") {
        "" => errors.push(Error::required(&at, "must not be empty")),
        version if version.matches('/').count() > 1 => {
            errors.push(Error::invalid(&at, version, format!("unexpected GroupVersion string: {version}")));
        }
        _ => {}
    }
    let at = path.child("kind");
    match text("kind") {
        "" => errors.push(Error::required(&at, "must not be empty")),
        kind => {
            let complaints = name::dns1035_label(&kind.to_lowercase());
            if !complaints.is_empty() {
                let detail = format!("may have mixed case, but should otherwise match: {}", complaints.join(","));
                errors.push(Error::invalid(&at, kind, detail));
            }
        }
    }
    let at = path.child("metadata");
    match value.get("metadata").map(ObjectMeta::deserialize) {
        None => {}
        Some(Err(error)) => errors.push(Error::invalid(&at, &value["metadata"], error.to_string())),
        Some(Ok(meta)) => {
            if let Some(labels) = &meta.labels {
                meta::validate_labels(labels, &at.child("labels"), errors);
            }
            if let Some(annotations) = &meta.annotations {
                meta::validate_annotations(annotations, &at.child("annotations"), errors);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    #[test]
    fn embedded_objects_have_type_and_metadata() {
        let schema = schema(json!({"type": "object", "properties": {
            "t": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        }}));
        let texts = |object: Value| {
            let mut errors = Vec::new();
            validate(&object, &schema, &Path::ROOT, &mut errors);
            errors.iter().map(Error::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts(json!({"t": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}})), [""; 0]);
        assert_eq!(
            texts(json!({"t": {}})),
            ["t.apiVersion: Required value: must not be empty", "t.kind: Required value: must not be empty"]
        );
        assert_eq!(texts(json!({"t": {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": 1}}}})).len(), 1);
    }
}
