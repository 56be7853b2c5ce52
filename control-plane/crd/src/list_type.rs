//! Lists that are sets or maps (`x-kubernetes-list-type`) hold nothing twice.

use std::collections::HashSet;

use serde_json::{Map, Value};
use skep_api::field::{Error, Path};

use crate::schema::Schema;

/// What is twice in a list that is a set or a map.
pub fn validate(value: &Value, schema: &Schema, path: &Path<'_>, errors: &mut Vec<Error>) {
    match value {
        Value::Object(map) => {
            for (name, member) in map {
                match (schema.properties.get(name), schema.additional_schema()) {
                    (Some(known), _) => validate(member, known, &path.child(name), errors),
                    (None, Some(known)) => validate(member, known, &path.key(name), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            match schema.list_type.as_deref() {
                Some("set") => twice(items, |item| Some(item.clone()), path, errors),
                Some("map") => twice(items, |item| keys(item, schema), path, errors),
                _ => {}
            }
            if let Some(known) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    validate(item, known, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn twice(items: &[Value], key: impl Fn(&Value) -> Option<Value>, path: &Path<'_>, errors: &mut Vec<Error>) {
    let mut seen = HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let Some(key) = key(item) else { continue };
        // serde_json's maps are sorted, so equal values have equal texts.
        if !seen.insert(key.to_string()) {
            errors.push(Error::duplicate(&path.index(index), key));
        }
    }
}

/// The members that tell this item from the others.
fn keys(item: &Value, schema: &Schema) -> Option<Value> {
    let item = item.as_object()?;
    let keys: Map<String, Value> =
        schema.list_map_keys.iter().filter_map(|name| Some((name.clone(), item.get(name)?.clone()))).collect();
    Some(keys.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    #[test]
    fn twins_are_refused() {
        let schema = schema(json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                    "items": {"type": "object", "properties": {"port": {"type": "integer"}}}},
            "atomic": {"type": "array", "items": {"type": "string"}},
        }}));
        let mut errors = Vec::new();
        let object = json!({
            "set": ["a", "b", "a"], "atomic": ["a", "a"],
            "map": [{"port": 80, "x": 1}, {"port": 81}, {"port": 80}],
        });
        validate(&object, &schema, &Path::ROOT, &mut errors);
        let texts: Vec<String> = errors.iter().map(Error::to_string).collect();
        assert_eq!(texts, ["map[2]: Duplicate value: {\"port\":80}", "set[2]: Duplicate value: \"a\""]);
    }
}
