//! ConversionReview: what a conversion webhook is asked, and what it may answer.

use serde_json::{Value, json};

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
/// The text of what is wrong with the answer.
pub fn objects(mut answer: Value, version: &str, uid: &str, to: &str, asked: &[Value]) -> Result<Vec<Value>, String> {
    let own = format!("apiextensions.k8s.io/{version}");
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (kind, api_version) = (text(&answer, "kind"), text(&answer, "apiVersion"));
    if kind != "ConversionReview" || api_version != own {
        return Err(format!("invalid response: expected {own}, Kind=ConversionReview, got {api_version}, Kind={kind}"));
    }
    let mut response = answer["response"].take();
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    let given = text(&response, "uid");
    if version == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let result = &response["result"];
    if text(result, "status") != "Success" {
        let message = text(result, "message");
        return Err(if message.is_empty() { "the webhook did not say why".to_owned() } else { message });
    }
    let Value::Array(mut converted) = response["convertedObjects"].take() else {
        return Err("expected convertedObjects to be a list".to_owned());
    };
    if converted.len() != asked.len() {
        return Err(format!("webhook returned {} objects, expected {}", converted.len(), asked.len()));
    }
    for (i, (new, old)) in converted.iter_mut().zip(asked).enumerate() {
        check(new, old, to).map_err(|why| format!("invalid converted object at index {i}: {why}"))?;
    }
    Ok(converted)
}

/// A conversion changes neither what an object is nor its metadata, but for labels and annotations.
fn check(new: &mut Value, old: &Value, to: &str) -> Result<(), String> {
    if !new.is_object() {
        return Err("is no object".to_owned());
    }
    if new["apiVersion"] != *to {
        return Err(format!("invalid apiVersion: expected={to} got={}", new["apiVersion"]));
    }
    if new["kind"] != old["kind"] {
        return Err(format!("invalid kind: expected={} got={}", old["kind"], new["kind"]));
    }
    for name in ["name", "namespace", "uid"] {
        if new["metadata"].get(name) != old["metadata"].get(name) {
            return Err(format!("must have the same {name}: {} != {}", new["metadata"][name], old["metadata"][name]));
        }
    }
    let mut metadata = old["metadata"].clone();
    for name in ["labels", "annotations"] {
        let changed = new["metadata"].get(name).filter(|value| !value.is_null()).cloned();
        if let Value::Object(metadata) = &mut metadata {
            metadata.remove(name);
            metadata.extend(changed.map(|changed| (name.to_owned(), changed)));
        }
    }
    new["metadata"] = metadata;
    Ok(())
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
        assert_eq!(read(answer(&new, "Failure")).unwrap_err(), "because");
        let mut renamed = new.clone();
        renamed["metadata"]["name"] = "other".into();
        assert!(read(answer(&renamed, "Success")).unwrap_err().contains("must have the same name"));
        assert!(read(answer(&old, "Success")).unwrap_err().contains("invalid apiVersion"));
        assert!(read(json!({"kind": "x"})).is_err() && read(json!([])).is_err());
        assert_eq!(version(&["v9".to_owned(), "v1".to_owned()]), Some("v1"));
    }
}
