//! Filling in defaults.

use serde_json::Value;

use crate::schema::Schema;

/// Fills in what an object lacks, also in lists and maps, and in place of nulls where null is not allowed.
pub fn default(object: &mut Value, schema: &Schema) {
    match object {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                if let Some(default) = &property.default
                    && map.get(name).is_none_or(|value| value.is_null() && !property.nullable)
                {
                    map.insert(name.clone(), default.clone());
                }
            }
            let additional = schema.additional_schema();
            for (name, value) in map.iter_mut() {
                match (schema.properties.get(name), additional) {
                    (Some(property), _) => self::default(value, property),
                    (None, Some(additional)) => element(value, additional),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items.iter_mut().for_each(|item| element(item, schema));
            }
        }
        _ => {}
    }
}

fn element(value: &mut Value, schema: &Schema) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
    default(value, schema);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    #[test]
    fn what_is_missing_or_wrongly_null_becomes_the_default() {
        let schema = schema(json!({"type": "object", "properties": {
            "spec": {"type": "object", "default": {}, "properties": {
                "replicas": {"type": "integer", "default": 1},
                "maybe": {"type": "string", "nullable": true, "default": "x"},
            }},
            "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"p": {"type": "integer", "default": 7}}}},
        }}));
        for (given, want) in [
            (json!({}), json!({"spec": {"replicas": 1, "maybe": "x"}})),
            (json!({"spec": {"replicas": null, "maybe": null}}), json!({"spec": {"replicas": 1, "maybe": null}})),
            (json!({"spec": {"replicas": 3, "maybe": ""}}), json!({"spec": {"replicas": 3, "maybe": ""}})),
            (
                json!({"spec": {"replicas": 3, "maybe": ""}, "list": [{}, {"p": "UDP"}], "map": {"a": {}}}),
                json!({"spec": {"replicas": 3, "maybe": ""}, "list": [{"p": "TCP"}, {"p": "UDP"}], "map": {"a": {"p": 7}}}),
            ),
        ] {
            let mut object = given;
            default(&mut object, &schema);
            assert_eq!(object, want);
        }
    }
}
