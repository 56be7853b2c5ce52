//! ConversionReview: what a conversion webhook is asked, and what it may answer.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use skep_api::{
    field::{Errors, Path},
    meta,
};

/// What a webhook is sent. `version` is that of the review itself, `v1` or `v1beta1`.
pub fn request(version: &str, uid: &str, to: &str, objects: &[Value]) -> Value {
    json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{version}"),
        "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects},
    })
}

/// The version of reviews to speak: the first of the definition's that is known.
pub fn version(versions: &[String]) -> Option<&str> {
    versions.iter().map(String::as_str).find(|version| ["v1", "v1beta1"].contains(version))
}

/// The objects a webhook answered with, checked as upstream checks them.
///
/// # Errors
/// What is wrong with the answer: upstream's text after `conversion webhook for <type> `.
pub fn objects(answer: Value, version: &str, uid: &str, to: &str, asked: &[Value]) -> Result<Vec<Value>, String> {
    let mut converted = answered(answer, version, uid).map_err(|why| format!("failed: {why}"))?;
    if converted.len() != asked.len() {
        return Err(format!("returned {} objects, expected {}", converted.len(), asked.len()));
    }
    for (i, (new, old)) in converted.iter_mut().zip(asked).enumerate() {
        let invalid = |what: &str, why: String| format!("returned invalid {what} at index {i}: {why}");
        check(new, old, to).map_err(|why| invalid("converted object", why))?;
        new["metadata"] =
            metadata(&new["metadata"], &old["metadata"]).map_err(|why| invalid("metadata in object", why))?;
    }
    Ok(converted)
}

fn text(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What a review carries, if it answers the request `uid`.
fn answered(mut answer: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let own = format!("apiextensions.k8s.io/{version}");
    let (kind, api_version) = (text(&answer, "kind"), text(&answer, "apiVersion"));
    // Of webhooks that speak v1beta1 only the success is demanded.
    if version == "v1" && (kind != "ConversionReview" || api_version != own) {
        let expected = format!("{own}, Kind=ConversionReview");
        return Err(format!("expected webhook response of {expected}, got {api_version}, Kind={kind}"));
    }
    let mut response = answer.get_mut("response").map(Value::take).unwrap_or_default();
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    let given = text(&response, "uid");
    if version == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let result = response.get("result").unwrap_or(&Value::Null);
    let (status, message) = (text(result, "status"), text(result, "message"));
    if status != "Success" {
        let usual = || format!("response.result.status was '{status}', not 'Success'");
        return Err(if message.is_empty() { usual() } else { message });
    }
    match response.get_mut("convertedObjects").map(Value::take) {
        Some(Value::Array(converted)) => Ok(converted),
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(_) => Err("response.convertedObjects is not a list".to_owned()),
    }
}

/// A conversion does not change what an object is.
fn check(new: &Value, old: &Value, to: &str) -> Result<(), String> {
    let (given, kinds) = (text(new, "apiVersion"), (text(old, "kind"), text(new, "kind")));
    if !new.is_object() || given != to {
        return Err(format!("invalid groupVersion (expected {to}, received {given})"));
    }
    if kinds.0 != kinds.1 {
        return Err(format!("invalid kind (expected {}, received {})", kinds.0, kinds.1));
    }
    for (name, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let of = |object: &Value| object.get("metadata").map(|meta| text(meta, name)).unwrap_or_default();
        if of(new) != of(old) {
            return Err(format!("must have the same {shown}: {} != {}", of(old), of(new)));
        }
    }
    Ok(())
}

/// The metadata of a converted object: that of the original but for labels and annotations.
fn metadata(new: &Value, old: &Value) -> Result<Value, String> {
    let Value::Object(new) = new else { return Err("missing metadata in converted object".to_owned()) };
    let mut metadata = old.as_object().cloned().unwrap_or_default();
    for name in ["labels", "annotations"] {
        match new.get(name) {
            None | Some(Value::Null) => _ = metadata.remove(name),
            Some(Value::Object(given)) => {
                strings(name, given)?;
                metadata.insert(name.to_owned(), given.clone().into());
            }
            Some(_) => return Err(format!("invalid metadata.{name} in converted object: must be a map")),
        }
    }
    Ok(metadata.into())
}

/// Labels and annotations have names and texts like any other's.
fn strings(name: &str, given: &Map<String, Value>) -> Result<(), String> {
    let mut map = BTreeMap::new();
    for (key, value) in given {
        let Some(value) = value.as_str() else {
            return Err(format!("metadata.{name}[{key}] must be a string in converted object"));
        };
        map.insert(key.clone(), value.to_owned());
    }
    let (path, mut errors) = (Path::new("metadata"), Errors::new());
    match name {
        "labels" => meta::validate_labels(&map, &path.child("labels"), &mut errors),
        // Upstream's word, too.
        _ => meta::validate_annotations(&map, &path.child("annotation"), &mut errors),
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_keeps_what_an_object_is() {
        let old =
            json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n", "uid": "u", "generation": 3}, "a": 1});
        let new = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "n", "uid": "u", "labels": {"l": "x"}}, "b": 1});
        let answer = |object: &Value, status: &str| {
            json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": {
                "uid": "1", "result": {"status": status, "message": "because"}, "convertedObjects": [object],
            }})
        };
        let read = |answer| objects(answer, "v1", "1", "g/v2", std::slice::from_ref(&old));
        let got = read(answer(&new, "Success")).unwrap();
        assert_eq!(got[0]["metadata"], json!({"name": "n", "uid": "u", "generation": 3, "labels": {"l": "x"}}));
        assert_eq!(got[0]["b"], 1);
        assert_eq!(read(answer(&new, "Failure")).unwrap_err(), "failed: because");
        let mut renamed = new.clone();
        renamed["metadata"]["name"] = "other".into();
        for (object, want) in [
            (&renamed, "must have the same name: n != other"),
            (&old, "invalid groupVersion (expected g/v2, received g/v1)"),
        ] {
            let want = format!("returned invalid converted object at index 0: {want}");
            assert_eq!(read(answer(object, "Success")).unwrap_err(), want);
        }
        let mut labelled = new.clone();
        labelled["metadata"]["labels"]["l"] = "not a label".into();
        let why = read(answer(&labelled, "Success")).unwrap_err();
        assert!(why.starts_with("returned invalid metadata in object at index 0: metadata.labels: "), "{why}");
        let none =
            json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": {"uid": "1"}});
        assert_eq!(read(none).unwrap_err(), "failed: response.result.status was '', not 'Success'");
        assert!(read(json!({"kind": "x"})).is_err() && read(json!([])).is_err());
        assert_eq!(version(&["v9".to_owned(), "v1".to_owned()]), Some("v1"));
    }
}
