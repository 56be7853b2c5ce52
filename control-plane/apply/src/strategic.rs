//! Strategic merge patch: a merge patch that knows which lists merge by a key, and a few directives.
//!
//! The format is described in upstream's "Strategic Merge Patch" design document. Order follows upstream too: items of
//! the patch keep the patch's order, items only the server has keep theirs, and a patch item unknown to the server comes first.

use serde_json::{Map, Value};
use skep_schema::{Shape, Type as BuiltIn};

use crate::{error::Error, schema::Type};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, Error>;

/// The type with fields of a value, if it is known.
type Schema = Option<BuiltIn>;

/// How a field is merged.
#[derive(Clone, Copy)]
enum Strategy {
    /// Objects merge; lists are replaced.
    Plain(Schema),
    /// The value is replaced, whatever it is.
    Replace,
    /// A list of scalars that unite.
    Set,
    /// A list of objects that merge by a key.
    List { key: &'static str, item: Schema },
}

/// What the API's types say of a field.
fn strategy(of: Schema, name: &str) -> Strategy {
    let Some(field) = of.and_then(|of| of.field(name)) else { return Strategy::Plain(None) };
    let inner = field.shape().inner_type();
    let is = |wanted: &str| field.patch_strategy().is_some_and(|all| all.split(',').any(|one| one == wanted));
    match (field.shape().resolved(), field.patch_merge_key()) {
        (Shape::List(_), Some(key)) if is("merge") => Strategy::List { key, item: inner },
        (Shape::List(_), None) if is("merge") => Strategy::Set,
        (Shape::List(_), _) => Strategy::Replace,
        _ if is("replace") => Strategy::Replace,
        _ => Strategy::Plain(inner),
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::BadRequest(message.into())
}

/// Merges `patch` into `document` by the merge keys of its type.
///
/// # Errors
/// [`Error::BadRequest`], in upstream's words, when the patch makes no sense.
pub fn merge(of: Type<'_>, document: Value, patch: &Value) -> Result<Value> {
    let Value::Object(patch) = patch else {
        return Err(bad("error decoding patch: a strategic merge patch must be a JSON object"));
    };
    let document = match document {
        Value::Object(document) => document,
        _ => Object::new(),
    };
    merge_map(document, patch.clone(), of.built_in()).map(Value::Object)
}

fn merge_map(mut original: Object, mut patch: Object, schema: Schema) -> Result<Object> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            Some("merge") => merge_map(original, patch, schema),
            _ => Err(bad(format!("unknown patch type: {} in map: {}", shown(&directive), Value::Object(patch)))),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    ordered_lists(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            delete_from_list(&mut original, field, &value)?;
        } else if value.is_null() {
            original.remove(&key);
        } else if let Some(old) = original.get_mut(&key) {
            let old = std::mem::take(old);
            original.insert(key.clone(), merge_value(old, value, strategy(schema, &key))?);
        } else if let Some(new) = without_directives(value) {
            original.insert(key, new);
        }
    }
    Ok(original)
}

fn merge_value(original: Value, patch: Value, strategy: Strategy) -> Result<Value> {
    match (original, patch, strategy) {
        (_, patch, Strategy::Replace) => Ok(patch),
        (Value::Object(original), Value::Object(patch), strategy) => {
            let inner = if let Strategy::Plain(inner) = strategy { inner } else { None };
            merge_map(original, patch, inner).map(Value::Object)
        }
        (Value::Array(original), Value::Array(patch), strategy @ (Strategy::List { .. } | Strategy::Set)) => {
            merge_list(original, patch, strategy).map(Value::Array)
        }
        (Value::Array(_), patch @ Value::Array(_), _) => Ok(patch),
        (_, patch, _) => Ok(without_directives(patch).unwrap_or(Value::Null)),
    }
}

/// `$retainKeys`: only the keys it names stay in the original.
fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<()> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let format = || bad("invalid patch format of retainKeys");
    let retained = retained.as_array().ok_or_else(format)?;
    let kept = |key: &str| retained.iter().any(|k| k.as_str() == Some(key));
    if patch.iter().any(|(key, value)| !key.starts_with('$') && !value.is_null() && !kept(key)) {
        return Err(format());
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// `$setElementOrder/x`: merges list `x` and gives it that order.
fn ordered_lists(original: &mut Object, patch: &mut Object, schema: Schema) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    let format = || bad("invalid patch format of setElementOrder list");
    for directive in directives {
        let field = directive[SET_ORDER.len()..].to_owned();
        let Some(Value::Array(order)) = patch.remove(&directive) else { return Err(format()) };
        let strategy = match strategy(schema, &field) {
            list @ Strategy::List { .. } => list,
            _ => Strategy::Set,
        };
        let key = if let Strategy::List { key, .. } = strategy { Some(key) } else { None };
        let server = original.get(&field).cloned();
        let (had, wanted) = match (server, patch.remove(&field)) {
            (had, Some(Value::Null)) => {
                patch.insert(field, Value::Null);
                drop(had);
                continue;
            }
            (None, None) => continue,
            (None | Some(Value::Null), Some(Value::Array(wanted))) => (vec![], wanted),
            (Some(Value::Array(had)), None) => (had, vec![]),
            (Some(Value::Array(had)), Some(Value::Array(wanted))) => (had, wanted),
            _ => return Err(format()),
        };
        check_order(&wanted, &order, key)?;
        let merged = merge_list(had.clone(), wanted, strategy)?;
        original.insert(field, Value::Array(in_order(merged, &order, &had, key)));
    }
    Ok(())
}

/// The patch's items must appear in the order list, in its order.
fn check_order(items: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    let mut at = 0;
    for item in items.iter().filter(|i| i.get(PATCH).is_none()) {
        match order[at..].iter().position(|o| same(item, o, key)) {
            Some(found) => at += found + 1,
            None => {
                let (items, order) = (Value::from(items), Value::from(order));
                let text =
                    format!("The order in patch list:\n{items}\n doesn't match $setElementOrder list:\n{order}\n");
                return Err(bad(text));
            }
        }
    }
    Ok(())
}

fn delete_from_list(original: &mut Object, field: &str, doomed: &Value) -> Result<()> {
    let doomed = doomed.as_array().ok_or_else(|| bad("invalid patch format of primitive list"))?;
    if let Some(Value::Array(items)) = original.get_mut(field) {
        items.retain(|item| !doomed.contains(item));
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, strategy: Strategy) -> Result<Vec<Value>> {
    let Strategy::List { key, item } = strategy else {
        return merge_set(original, patch);
    };
    let server = original.clone();
    let (mut merged, patch) = list_directives(original, patch, key)?;
    for value in patch.iter().cloned() {
        let id = merge_key(&value, key)?.clone();
        let Value::Object(value) = value else { return Err(bad("invalid patch format of primitive list")) };
        match merged.iter_mut().find(|m| m.get(key) == Some(&id)) {
            Some(Value::Object(old)) => {
                let old_map = std::mem::take(old);
                *old = merge_map(old_map, value, item)?;
            }
            _ => merged.extend(without_directives(Value::Object(value))),
        }
    }
    Ok(in_order(merged, &patch, &server, Some(key)))
}

fn merge_set(original: Vec<Value>, patch: Vec<Value>) -> Result<Vec<Value>> {
    if patch.iter().any(|v| v.is_object() || v.is_array()) {
        return Err(bad("invalid patch format of primitive list"));
    }
    let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
    for value in original.iter().chain(&patch) {
        if !merged.contains(value) {
            merged.push(value.clone());
        }
    }
    Ok(in_order(merged, &patch, &original, None))
}

/// Carries out `$patch` items and returns what is left of the original and the patch.
fn list_directives(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        match item.get(PATCH).map(|d| d.as_str().unwrap_or_default().to_owned()).as_deref() {
            None => plain.push(item),
            Some("delete") => {
                let id = merge_key(&item, key)?;
                original.retain(|o| o.get(key) != Some(id));
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(bad("merging lists cannot yet be specified in the patch")),
            Some(other) => return Err(bad(format!("unknown patch type: {other} in map: {item}"))),
        }
    }
    if replace {
        original.clear();
    }
    Ok((original, plain))
}

/// A directive as Go prints it.
fn shown(directive: &Value) -> String {
    directive.as_str().map_or_else(|| directive.to_string(), str::to_owned)
}

fn merge_key<'a>(item: &'a Value, key: &str) -> Result<&'a Value> {
    item.get(key).ok_or_else(|| bad(format!("map: {item} does not contain declared merge key: {key}")))
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some() && a.get(key) == b.get(key),
        None => a == b,
    }
}

/// Weaves items named by `order`, in that order, with the others, which keep the server's order.
fn in_order(merged: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|o| same(item, o, key));
    let (mut ordered, others): (Vec<_>, Vec<_>) = merged.into_iter().partition(|item| place(order, item).is_some());
    ordered.sort_by_key(|item| place(order, item));
    let mut out = Vec::with_capacity(ordered.len() + others.len());
    let mut others = others.into_iter().peekable();
    let mut ordered = ordered.into_iter().peekable();
    while let (Some(left), Some(right)) = (others.peek(), ordered.peek()) {
        let left_first = match (place(server, left), place(server, right)) {
            (Some(l), Some(r)) => l < r,
            _ => false,
        };
        out.extend(if left_first { others.next() } else { ordered.next() });
    }
    out.extend(others);
    out.extend(ordered);
    out
}

/// A value that meets nothing to merge with: directives and nulls vanish. None for an item that is to be deleted.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.get(PATCH).and_then(Value::as_str) == Some("delete") {
                return None;
            }
            let clean = map
                .into_iter()
                .filter(|(key, value)| !value.is_null() && !key.starts_with(DELETE_FROM) && !is_directive(key))
                .filter_map(|(key, value)| Some((key, without_directives(value)?)))
                .collect();
            Some(Value::Object(clean))
        }
        Value::Array(items) => {
            let items = items.into_iter().filter(|item| !is_list_directive(item)).filter_map(without_directives);
            Some(Value::Array(items.collect()))
        }
        other => Some(other),
    }
}

/// Is this an item that only says what becomes of the list, or of another item?
fn is_list_directive(item: &Value) -> bool {
    matches!(item.get(PATCH).and_then(Value::as_str), Some("delete" | "replace"))
}

fn is_directive(key: &str) -> bool {
    key == PATCH || key == RETAIN_KEYS || key.starts_with(SET_ORDER)
}

#[cfg(test)]
mod tests;
