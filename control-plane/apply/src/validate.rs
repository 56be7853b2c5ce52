//! What is wrong with an applied configuration.

use serde_json::Value;

use crate::{
    element::Element,
    schema::{Form, ScalarKind, Takes, Type},
};

/// Checks that a configuration fits its type: fields are declared, values are of the right kind, no item is there twice.
/// The text lists all errors as upstream does; none when there are none.
pub(crate) fn validate(of: Type<'_>, object: &Value) -> Option<String> {
    let mut errors = Vec::new();
    check(of, object, &mut String::new(), &mut errors);
    match errors.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        _ => Some(errors.iter().fold("errors:".to_owned(), |all, error| format!("{all}\n  {error}"))),
    }
}

fn check(of: Type<'_>, value: &Value, path: &mut String, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    if let Some(takes) = of.takes()
        && let Some(wrong) = mismatch(&takes, value)
    {
        errors.push(at(path, &wrong));
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let length = path.len();
                path.push('.');
                path.push_str(name);
                match of.declared(name).or_else(|| of.open_element()) {
                    Some(of) => check(of, value, path, errors),
                    None => {
                        errors.push(at(path, "field not declared in schema"));
                        path.truncate(length);
                        return;
                    }
                }
                path.truncate(length);
            }
        }
        Value::Array(items) => check_items(of, value, items, path, errors),
        _ => {}
    }
}

fn check_items(of: Type<'_>, list: &Value, items: &[Value], path: &mut String, errors: &mut Vec<String>) {
    let form = of.form(list);
    let mut seen: Vec<Element> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let element = match &form {
            Form::List(items) => match of.element_of(*items, item) {
                Ok(element) => element,
                Err(why) => {
                    errors.push(at(path, &format!("element {index}: {why}")));
                    return;
                }
            },
            _ => Element::Index(i64::try_from(index).unwrap_or(i64::MAX)),
        };
        let length = path.len();
        if !matches!(element, Element::Index(_)) {
            match seen.binary_search(&element) {
                Ok(_) => errors.push(at(path, &format!("duplicate entries for key {element}"))),
                Err(place) => seen.insert(place, element.clone()),
            }
        }
        path.push_str(&element.to_string());
        check(of.item(), item, path, errors);
        path.truncate(length);
    }
}

fn mismatch(takes: &Takes, value: &Value) -> Option<String> {
    match value {
        Value::Array(_) if takes.list => None,
        Value::Object(_) if takes.map => None,
        Value::String(_) if matches!(takes.scalar, Some(ScalarKind::String | ScalarKind::Any)) => None,
        Value::Number(_) if matches!(takes.scalar, Some(ScalarKind::Numeric | ScalarKind::Any)) => None,
        Value::Bool(_) if matches!(takes.scalar, Some(ScalarKind::Boolean | ScalarKind::Any)) => None,
        _ if takes.list => Some(format!("expected list, got {}", shown(value))),
        _ if takes.map => Some(format!("expected map, got {}", shown(value))),
        _ => match takes.scalar {
            Some(ScalarKind::Numeric) => Some(format!("expected numeric (int or float), got {}", go_type(value))),
            Some(ScalarKind::String) => Some(format!("expected string, got &value.valueUnstructured{{Value:{value}}}")),
            Some(ScalarKind::Boolean) => Some(format!("expected boolean, got {}", shown(value))),
            // Upstream lets lists and objects pass for untyped scalars; decoding complains about them.
            Some(ScalarKind::Any) | None => None,
        },
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("&{{{text}}}"),
        other => format!("&{{{other}}}"),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
        Value::Number(_) | Value::Null => "<nil>",
    }
}

fn at(path: &str, why: &str) -> String {
    if path.is_empty() { why.to_owned() } else { format!("{path}: {why}") }
}
