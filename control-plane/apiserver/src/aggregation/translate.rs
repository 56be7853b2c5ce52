//! From what an aggregated API server tells of its resources to what aggregated discovery tells.

use serde_json::{Value, json};

/// The resources of an APIResourceList as entries of an APIVersionDiscovery.
pub(crate) fn resources(group: &str, version: &str, list: &Value) -> Vec<Value> {
    let all = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |entry: &Value| entry["name"].as_str().unwrap_or_default().to_owned();
    let kind = |entry: &Value| {
        let own =
            |field: &str, or: &str| entry[field].as_str().filter(|text| !text.is_empty()).unwrap_or(or).to_owned();
        json!({"group": own("group", group), "version": own("version", version), "kind": entry["kind"]})
    };
    let resource = |entry: &Value| {
        let plural = name(entry);
        let below = format!("{plural}/");
        let subresources: Vec<Value> = all
            .iter()
            .filter_map(|sub| {
                let own = name(sub);
                let own = own.strip_prefix(&below)?;
                Some(json!({"subresource": own, "responseKind": kind(sub), "verbs": sub["verbs"]}))
            })
            .collect();
        let mut out = json!({
            "resource": plural,
            "responseKind": kind(entry),
            "scope": if entry["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": entry["singularName"].as_str().unwrap_or_default(),
            "verbs": entry["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if entry[field].as_array().is_some_and(|list| !list.is_empty()) {
                out[field] = entry[field].clone();
            }
        }
        if !subresources.is_empty() {
            out["subresources"] = subresources.into();
        }
        out
    };
    all.iter().filter(|entry| !name(entry).contains('/')).map(resource).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_go_below_their_resource() {
        let list = json!({"resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"],
             "shortNames": ["th"]},
            {"name": "things/scale", "namespaced": true, "kind": "Scale", "group": "autoscaling", "version": "v1",
             "verbs": ["get"]},
        ]});
        let found = resources("a.example", "v1", &list);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["responseKind"], json!({"group": "a.example", "version": "v1", "kind": "Thing"}));
        assert_eq!(found[0]["shortNames"], json!(["th"]));
        let sub = &found[0]["subresources"][0];
        assert_eq!((&sub["subresource"], &sub["responseKind"]["group"]), (&json!("scale"), &json!("autoscaling")));
        assert!(resources("a.example", "v1", &Value::Null).is_empty());
    }
}
