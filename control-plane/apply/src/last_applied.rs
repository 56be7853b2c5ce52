//! From kubectl's client-side apply to server-side apply and back: the annotation that holds what kubectl applied last.

use serde_json::{Map, Value};

use crate::{apply::Apply, compare::compare, error::Conflict, field_set::field_set, set::Set};

/// Holds the configuration kubectl applied last.
pub const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations of an object may not be larger together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What the annotation of an object says; none if there is none or it is empty.
pub fn annotation(object: &Value) -> Option<&str> {
    let annotations = object.get("metadata")?.get("annotations")?;
    annotations.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// The conflicts that are none of kubectl's own making: fields it applied from the client before, and that are still as it
/// applied them, it may take over.
pub(crate) fn forbidden(request: &Apply<'_>, conflicts: Vec<Conflict>) -> Vec<Conflict> {
    let Some(allowed) = allowed(request) else { return conflicts };
    conflicts.into_iter().filter(|conflict| !allowed.has(&conflict.path.0)).collect()
}

fn allowed(request: &Apply<'_>) -> Option<Set> {
    let live = request.live?;
    let last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if last.get("apiVersion")?.as_str()? != request.api_version {
        return None;
    }
    let change = compare(request.of, &last, live);
    let set = field_set(request.of, &last);
    Some(set.difference(&change.modified).difference(&change.added).difference(&change.removed))
}

/// Makes the annotation say what was applied, for those who still apply from the client.
pub(crate) fn annotate(object: &mut Value, config: &Value) {
    let mut config = config.clone();
    remove(&mut config);
    let text = format!("{config}\n");
    let total = |object: &Value| {
        let annotations = object.get("metadata").and_then(|meta| meta.get("annotations")).and_then(Value::as_object);
        annotations
            .into_iter()
            .flatten()
            .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
            .sum::<usize>()
    };
    let before = total(object) - annotation(object).map_or(0, str::len);
    if before + text.len() > MAX_ANNOTATIONS {
        remove(object);
    } else {
        set(object, &text);
    }
}

fn remove(object: &mut Value) {
    let annotations = object.get_mut("metadata").and_then(|meta| meta.get_mut("annotations"));
    if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
}

fn set(object: &mut Value, text: &str) {
    let place = |value: &mut Value, name: &str| -> Option<()> {
        let fields = value.as_object_mut()?;
        let inner = fields.entry(name).or_insert(Value::Null);
        if inner.is_null() {
            *inner = Value::Object(Map::new());
        }
        Some(())
    };
    let Some(()) = place(object, "metadata") else { return };
    let Some(()) = object.get_mut("metadata").and_then(|meta| place(meta, "annotations")) else { return };
    if let Some(Value::Object(annotations)) = object.get_mut("metadata").and_then(|meta| meta.get_mut("annotations")) {
        annotations.insert(ANNOTATION.to_owned(), Value::from(text));
    }
}
