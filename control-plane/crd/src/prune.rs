//! Dropping fields a schema does not know.

use serde_json::Value;

use crate::schema::{Additional, META_FIELDS, Schema};

/// Where a value is, written as upstream names unknown fields: `spec.items[0].name`.
enum At<'a> {
    Root,
    Member(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl At<'_> {
    fn write(&self, out: &mut String) {
        match self {
            At::Root => {}
            At::Member(parent, name) => {
                parent.write(out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            At::Item(parent, index) => {
                parent.write(out);
                out.push_str(&format!("[{index}]"));
            }
        }
    }
}

/// Drops what `schema` does not know from a whole object, whose `apiVersion`, `kind` and `metadata` always stay, and notes
/// where it was.
pub fn prune(object: &mut Value, schema: &Schema, dropped: &mut Vec<String>) {
    value(object, Some(schema), true, &At::Root, dropped);
}

/// The same for a part of an object.
pub fn prune_part(part: &mut Value, schema: &Schema, dropped: &mut Vec<String>) {
    value(part, Some(schema), false, &At::Root, dropped);
}

fn value(x: &mut Value, schema: Option<&Schema>, resource: bool, at: &At<'_>, dropped: &mut Vec<String>) {
    let preserve = schema.is_some_and(|schema| schema.preserve_unknown);
    match x {
        Value::Object(map) => {
            let resource = resource || schema.is_some_and(|schema| schema.embedded);
            map.retain(|name, member| {
                let here = At::Member(at, name);
                if schema.is_some() && resource && META_FIELDS.contains(&name.as_str()) {
                    return true;
                }
                if let Some(known) = schema.and_then(|schema| schema.properties.get(name)) {
                    value(member, Some(known), false, &here, dropped);
                    return true;
                }
                match schema.and_then(|schema| schema.additional.as_ref()) {
                    Some(Additional::Schema(known)) => {
                        value(member, Some(known), false, &here, dropped);
                        return true;
                    }
                    Some(Additional::Allowed(_)) if !preserve => {
                        value(member, None, false, &here, dropped);
                        return true;
                    }
                    _ => {}
                }
                if !preserve {
                    let mut text = String::new();
                    here.write(&mut text);
                    dropped.push(text);
                }
                preserve
            });
        }
        Value::Array(items) => {
            let known = schema.and_then(|schema| schema.items.as_deref());
            if known.is_none() && preserve {
                return;
            }
            for (index, item) in items.iter_mut().enumerate() {
                value(item, known, false, &At::Item(at, index), dropped);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::tests::schema;

    #[test]
    fn unknown_fields_go_and_are_named() {
        let cases = [
            (
                json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}}),
                json!({"apiVersion": "x", "kind": "y", "metadata": {"z": 1}, "spec": {"a": "1", "b": 2}, "c": 3}),
                json!({"apiVersion": "x", "kind": "y", "metadata": {"z": 1}, "spec": {"a": "1"}}),
                vec!["c", "spec.b"],
            ),
            (
                json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "integer"}}}}}}),
                json!({"l": [{"a": 1}, {"a": 2, "b": 3}]}),
                json!({"l": [{"a": 1}, {"a": 2}]}),
                vec!["l[1].b"],
            ),
            (
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"s": {"type": "object"}}}),
                json!({"any": {"thing": 1}, "s": {"gone": 1}}),
                json!({"any": {"thing": 1}, "s": {}}),
                vec!["s.gone"],
            ),
            (
                json!({"type": "object", "properties": {"m": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": {"type": "string"}}}}}}),
                json!({"m": {"k": {"a": "b", "c": "d"}}}),
                json!({"m": {"k": {"a": "b"}}}),
                vec!["m.k.c"],
            ),
            (
                json!({"type": "object", "properties": {"t": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"}}}}}),
                json!({"t": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "spec": {}, "more": 1}}),
                json!({"t": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}, "spec": {}}}),
                vec!["t.more"],
            ),
        ];
        for (definition, mut object, want, names) in cases {
            let mut dropped = Vec::new();
            prune(&mut object, &schema(definition), &mut dropped);
            assert_eq!(object, want);
            dropped.sort();
            assert_eq!(dropped, names);
        }
    }
}
