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

/// A document as another API server has it: a kind of its own, one all have, and one that means something else.
fn another(group: &str, description: &str) -> Value {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let reference = |name: &str| json!({"$ref": format!("#/definitions/{name}")});
    let kind = |kind: &str| json!([{"group": group, "version": "v1", "kind": kind}]);
    let options = format!("{META}.DeleteOptions");
    let mut ours: Value = serde_json::from_slice(&documents().v2_json().unwrap()).unwrap();
    let mut options_definition = ours["definitions"][&options].take();
    options_definition["x-kubernetes-group-version-kind"] = kind("DeleteOptions");
    json!({
        "swagger": "2.0",
        "paths": {
            format!("/apis/{group}/v1/flunders"): {
                "parameters": [{"$ref": "#/parameters/pretty-1"}],
                "post": {
                    "parameters": [{"name": "body", "in": "body", "schema": reference("Flunder")}],
                    "responses": {"200": {"description": "OK", "schema": reference("Flunder")}},
                },
                "delete": {
                    "parameters": [{"name": "body", "in": "body", "schema": reference(&options)}],
                    "responses": {"200": {"description": "OK"}},
                },
            },
            "/apis/other/v1/": {"get": {"responses": {"200": {"schema": reference("Unwanted")}}}},
        },
        "definitions": {
            "Flunder": {"description": description, "properties": {"metadata": reference(&format!("{META}.Time"))},
                        "x-kubernetes-group-version-kind": kind("Flunder")},
            format!("{META}.Time"): {"type": "string", "description": "another time"},
            options: options_definition,
            format!("{META}.Preconditions"): ours["definitions"][format!("{META}.Preconditions")].take(),
            "Unwanted": {"type": "object"},
        },
        "parameters": {"pretty-1": {"name": "pretty", "in": "query", "type": "string"}},
    })
}

#[test]
fn what_other_servers_serve_is_merged() {
    const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
    let foreign = |group: &str, description: &str| {
        let document = another(group, description);
        (Arc::new(Foreign::of(document, &format!("/apis/{group}/v1/"))), description.to_owned())
    };
    let documents = documents().with_foreign([foreign("a.example", "first"), foreign("b.example", "second")]);
    let merged: Value = serde_json::from_slice(&documents.v2_json().unwrap()).unwrap();
    assert_references_resolve(&merged);
    let path = &merged["paths"]["/apis/a.example/v1/flunders"];
    assert_eq!(path["parameters"][0]["name"], "pretty", "shared parameters are put in place");
    assert_eq!(path["post"]["parameters"][0]["schema"]["$ref"], "#/definitions/Flunder");
    let other = &merged["paths"]["/apis/b.example/v1/flunders"];
    assert_eq!(other["post"]["parameters"][0]["schema"]["$ref"], "#/definitions/Flunder_v2");
    let definitions = &merged["definitions"];
    assert_eq!(definitions["Flunder_v2"]["description"], "second");
    let time = format!("{META}.Time");
    assert_ne!(definitions[&time]["description"], "another time", "ours stays ours");
    assert_eq!(definitions["Flunder"]["properties"]["metadata"]["$ref"], format!("#/definitions/{time}_v2"));
    assert_eq!(definitions.get(format!("{time}_v3")), None, "what both have is there once");
    assert_eq!(definitions.get("Unwanted"), None);
    assert_eq!(merged["paths"].get("/apis/other/v1/"), None);
    let kinds = definitions[format!("{META}.DeleteOptions")]["x-kubernetes-group-version-kind"].as_array().unwrap();
    for group in ["apps", "a.example", "b.example"] {
        assert!(kinds.iter().any(|kind| kind["group"] == group), "{group}");
    }
    assert!(
        merged["paths"]["/api/v1/pods"].is_null()
            || merged["paths"]["/api/v1/pods"]["get"]["responses"]["200"]["schema"]["$ref"] != "#/definitions/Unwanted"
    );

    let bytes = documents.v2_protobuf().unwrap();
    assert_eq!(fields(get(&bytes, 9)).len(), definitions.as_object().unwrap().len());
    assert_eq!(fields(get(&bytes, 8)).len(), merged["paths"].as_object().unwrap().len());
    let own = self::documents();
    assert_ne!(documents.v2_hash(), own.v2_hash());
    assert_eq!(documents.index_hash(), own.index_hash());
}

#[test]
fn what_is_no_document_adds_nothing() {
    for document in [Value::Null, json!([]), json!({"paths": 1}), json!({"paths": {"/apis/g/v1/x": 1}})] {
        assert!(Foreign::of(document, "/apis/g/v1/").is_empty());
    }
}
