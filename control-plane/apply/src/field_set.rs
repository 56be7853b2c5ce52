//! The fields a configuration speaks of.

use serde_json::Value;

use crate::{
    element::Element,
    schema::{Form, Type},
    set::{Node, Set},
};

/// All fields of an object: each scalar, each list or map that is one value, each item of a list, each key of a map.
pub(crate) fn field_set(of: Type<'_>, object: &Value) -> Set {
    node(of, object).below
}

fn node(of: Type<'_>, value: &Value) -> Node {
    match (of.form(value), value) {
        (Form::Map, Value::Object(fields)) => {
            let nodes = fields.iter().map(|(name, value)| {
                let declared = of.declared(name);
                let mut found = node(declared.unwrap_or_else(|| of.element()), value);
                let hollow = value.is_null() || value.as_object().is_some_and(|fields| fields.is_empty());
                found.member |= declared.is_none() || hollow;
                (Element::field(name), found)
            });
            Node { member: false, below: Set::of_nodes(nodes.collect()) }
        }
        (Form::List(items), Value::Array(list)) => {
            let nodes = list.iter().filter_map(|item| {
                let element = of.element_of(items, item).ok()?;
                let mut found = node(of.item(), item);
                found.member = true;
                Some((element, found))
            });
            Node { member: false, below: Set::of_nodes(nodes.collect()) }
        }
        _ => Node::leaf(),
    }
}
