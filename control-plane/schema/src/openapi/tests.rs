use std::collections::HashSet;

use skep_api::resource::built_in;

use super::*;

fn documents() -> Documents {
    Documents::new(built_in(), "v1.35.0")
}

fn v3(path: &str) -> Value {
    serde_json::from_slice(&documents().v3(path).unwrap().unwrap()).unwrap()
}

fn references<'a>(value: &'a Value, found: &mut HashSet<&'a str>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.insert(reference);
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn assert_references_resolve(document: &Value) {
    let mut found = HashSet::new();
    references(document, &mut found);
    assert!(found.len() > 5);
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
    }
}

#[test]
fn every_v3_document_is_json_whose_references_resolve() {
    let documents = documents();
    let index: Value = serde_json::from_slice(&documents.index()).unwrap();
    let paths = index["paths"].as_object().unwrap();
    assert!(paths.contains_key("api/v1") && paths.contains_key("apis/apps/v1"));
    for (path, entry) in paths {
        let document = v3(path);
        assert_references_resolve(&document);
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert_eq!(url, format!("/openapi/v3/{path}?hash={}", documents.hash(path).unwrap()));
    }
    assert_eq!(documents.v3("apis/nothing/v1").unwrap(), None);
}

#[test]
fn the_v2_document_is_json_whose_references_resolve() {
    let document: Value = serde_json::from_slice(&documents().v2_json().unwrap()).unwrap();
    assert_references_resolve(&document);
    let containers = &document["definitions"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["items"], json!({"$ref": "#/definitions/io.k8s.api.core.v1.Container"}));
}

#[test]
fn operation_ids_are_unique() {
    let document: Value = serde_json::from_slice(&documents().v2_json().unwrap()).unwrap();
    let mut ids = HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{method} {path}: {id}");
        }
    }
    for id in [
        "listCoreV1NamespacedPod",
        "listCoreV1PodForAllNamespaces",
        "replaceAppsV1NamespacedDeploymentStatus",
        "readAppsV1NamespacedDeploymentScale",
        "deleteCoreV1CollectionNamespacedPod",
        "createCoreV1NamespacedPodEviction",
        "readCoreV1NamespacedPodLog",
        "getCoordinationV1APIResources",
        "watchCoreV1NodeList",
        "patchCoreV1Node",
    ] {
        assert!(ids.contains(id), "{id}");
    }
}

#[test]
fn schemas_carry_what_clients_look_for() {
    let document = v3("api/v1");
    let schemas = &document["components"]["schemas"];
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert!(containers["description"].as_str().unwrap().starts_with("List of containers belonging to the pod."));
    let protocol = &schemas["io.k8s.api.core.v1.ServicePort"]["properties"]["protocol"];
    assert_eq!(protocol["default"], "TCP");
    assert_eq!(schemas["io.k8s.api.core.v1.ObjectReference"]["x-kubernetes-map-type"], "atomic");

    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Pod");
    assert!(patch["requestBody"]["content"]["application/apply-patch+yaml"].is_object());
    let names: Vec<_> = patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
}

#[test]
fn every_description_is_that_of_its_field() {
    // One field from the start, the middle and the end of a package, and of a small package.
    let core = v3("api/v1");
    let properties = |name: &str, field: &str| {
        let value = &core["components"]["schemas"][name]["properties"][field]["description"];
        value.as_str().unwrap_or_else(|| panic!("{name} {field}")).to_owned()
    };
    assert!(properties("io.k8s.api.core.v1.Affinity", "nodeAffinity").starts_with("Describes node affinity"));
    assert!(properties("io.k8s.api.core.v1.ServiceSpec", "type").starts_with("type determines how the Service"));
    assert!(properties("io.k8s.api.core.v1.WindowsSecurityContextOptions", "runAsUserName").contains("UserName"));
    assert!(
        properties("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers").starts_with("Must be empty before")
    );
}

#[test]
fn a_hash_changes_with_its_own_resources_only() {
    let (all, fewer) = (documents(), Documents::new(built_in().iter().filter(|r| r.plural != "pods"), "v1.35.0"));
    assert_ne!(all.hash("api/v1"), fewer.hash("api/v1"));
    assert_eq!(all.hash("apis/apps/v1"), fewer.hash("apis/apps/v1"));
    assert_ne!(all.v2_hash(), fewer.v2_hash());
    assert_eq!(all.hash("api/v2"), None);
}

/// Reads messages field by field: the wire format itself must be sound at every level we wrote.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = if tag & 7 == 2 { varint(&mut message) as usize } else { 1 };
        let (value, rest) = message.split_at(length);
        found.push((tag >> 3, value));
        message = rest;
    }
    found
}

fn get(message: &[u8], number: u64) -> &[u8] {
    fields(message).into_iter().find(|(n, _)| *n == number).map(|(_, value)| value).unwrap()
}

#[test]
fn the_protobuf_document_holds_all_definitions() {
    let bytes = documents().v2_protobuf().unwrap();
    let json: Value = serde_json::from_slice(&documents().v2_json().unwrap()).unwrap();
    assert_eq!(get(&bytes, 1), b"2.0");
    let definitions = fields(get(&bytes, 9));
    assert_eq!(definitions.len(), json["definitions"].as_object().unwrap().len());
    assert_eq!(fields(get(&bytes, 8)).len(), json["paths"].as_object().unwrap().len());
    let spec = definitions.iter().find(|(_, named)| get(named, 1) == b"io.k8s.api.core.v1.PodSpec").unwrap().1;
    let properties = fields(get(get(spec, 2), 25));
    let containers = properties.iter().find(|(_, named)| get(named, 1) == b"containers").unwrap().1;
    let extensions: Vec<_> = fields(get(containers, 2))
        .into_iter()
        .filter(|(number, _)| *number == 31)
        .map(|(_, named)| (get(named, 1).to_vec(), get(get(named, 2), 2).to_vec()))
        .collect();
    assert!(extensions.contains(&(b"x-kubernetes-patch-merge-key".to_vec(), b"\"name\"\n".to_vec())));
}
