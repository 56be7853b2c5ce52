//! Takes fields out of an object.

use serde_json::{Map, Value};

use crate::{
    element::Element,
    schema::{Form, Type},
    set::Set,
};

/// The object without the fields of `doomed`. What is emptied by that becomes null, as upstream leaves it.
pub(crate) fn remove(of: Type<'_>, value: &Value, doomed: &Set) -> Value {
    match (of.form(value), value) {
        (Form::Map, Value::Object(fields)) if !fields.is_empty() => {
            let mut kept = Map::new();
            for (name, value) in fields {
                match doomed.node(&Element::field(name)) {
                    Some(node) if node.member => {}
                    Some(node) if !node.below.is_empty() => {
                        kept.insert(name.clone(), remove(of.field(name), value, &node.below));
                    }
                    _ => {
                        kept.insert(name.clone(), value.clone());
                    }
                }
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        (Form::List(items), Value::Array(list)) if !list.is_empty() => {
            let mut kept = Vec::with_capacity(list.len());
            for item in list {
                let element = of.element_of(items, item).ok();
                match element.and_then(|element| doomed.node(&element)) {
                    Some(node) if node.member => {}
                    Some(node) if !node.below.is_empty() => kept.push(remove(of.item(), item, &node.below)),
                    _ => kept.push(item.clone()),
                }
            }
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        (_, Value::Object(_) | Value::Array(_)) => Value::Null,
        (_, scalar) => scalar.clone(),
    }
}
