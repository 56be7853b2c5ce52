//! Rules of definitions in CEL (`x-kubernetes-validations`), told in upstream's words.

use http::Method;
use serde_json::{Value, json};

use crate::{custom::CRDS, support::TestServer};

const NAME: &str = "gauges.example.com";
const GAUGES: &str = "/apis/example.com/v1/namespaces/default/gauges";

fn definition(spec: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": NAME},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"kind": "Gauge", "plural": "gauges"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": spec,
                    "status": {
                        "type": "object", "properties": {"level": {"type": "integer"}},
                        "x-kubernetes-validations": [{"rule": "self.level >= 0", "message": "level below zero"}],
                    },
                }}},
            }],
        },
    })
}

fn gauge(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Gauge", "metadata": {"name": "a"}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_break_a_rule_are_refused() {
    let server = TestServer::start().await;
    let spec = json!({
        "type": "object",
        "properties": {
            "min": {"type": "integer"},
            "max": {"type": "integer"},
            "unit": {"type": "string", "maxLength": 20, "x-kubernetes-validations": [
                {"rule": "self == oldSelf", "message": "the unit is fixed"},
            ]},
            "note": {"type": "string", "maxLength": 100},
        },
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max"},
            {"rule": "self.max <= 1000", "message": "static",
             "messageExpression": "'max is %d, but not more than 1000 is allowed'.format([self.max])"},
            {"rule": "!has(self.note) || self.note != 'x'", "reason": "FieldValueForbidden", "fieldPath": ".note",
             "message": "no crosses"},
            {"rule": "!has(oldSelf.note) || has(self.note)", "message": "a note stays"},
        ],
    });
    server.define(&definition(&spec)).await;
    for (spec, message) in [
        (json!({"min": 3, "max": 2}), "spec: Invalid value: \"object\": failed rule: self.min <= self.max"),
        (
            json!({"min": 3, "max": 2000}),
            "spec: Invalid value: \"object\": max is 2000, but not more than 1000 is allowed",
        ),
        (json!({"min": 1, "max": 2, "note": "x"}), "spec.note: Forbidden: no crosses"),
        (
            json!({"min": 1}),
            "[spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max, \
             spec: Invalid value: \"object\": no such key: max evaluating rule: static]",
        ),
    ] {
        let (code, body) = server.post(GAUGES, gauge(spec)).await;
        let want = format!("Gauge.example.com \"a\" is invalid: {message}");
        assert_eq!((code.as_u16(), body["message"].as_str().unwrap()), (422, want.as_str()));
        assert_eq!(body["reason"], "Invalid");
    }

    server.create(GAUGES, gauge(json!({"min": 1, "max": 2, "unit": "m", "note": "n"}))).await;
    let uri = format!("{GAUGES}/a");
    for (change, message) in [
        (json!({"spec": {"unit": "km"}}), "spec.unit: Invalid value: \"string\": the unit is fixed"),
        (json!({"spec": {"note": null}}), "spec: Invalid value: \"object\": a note stays"),
    ] {
        let (code, body) = server.patch("merge-patch", &uri, change).await;
        let want = format!("Gauge.example.com \"a\" is invalid: {message}");
        assert_eq!((code.as_u16(), body["message"].as_str().unwrap()), (422, want.as_str()));
    }
    let (code, body) = server.patch("merge-patch", &uri, json!({"spec": {"min": 2}})).await;
    assert_eq!((code.as_u16(), &body["spec"]["min"]), (200, &json!(2)), "{body}");
    let (code, body) = server.patch("merge-patch", &format!("{uri}/status"), json!({"status": {"level": -1}})).await;
    assert_eq!(
        (code.as_u16(), body["message"].as_str().unwrap()),
        (422, "Gauge.example.com \"a\" is invalid: status: Invalid value: \"object\": level below zero")
    );
    let (code, body) = server.patch("merge-patch", &format!("{uri}/status"), json!({"status": {"level": 1}})).await;
    assert_eq!(code, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_cannot_be_or_cost_too_much_are_refused_with_their_definition() {
    const AT: &str = "spec.validation.openAPIV3Schema.properties[spec]";
    const HINT: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, \
                        and strings are declared)";
    let server = TestServer::start().await;
    let tags = |max: Option<u64>, rule: Value| {
        let mut spec = json!({"type": "object", "properties": {
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 16}, "x-kubernetes-validations": [rule]},
        }});
        if let Some(max) = max {
            spec["properties"]["tags"]["maxItems"] = max.into();
        }
        spec
    };
    let dear = json!({"rule": "self.all(x, self.all(y, x != y))"});
    let refused = async |spec: Value| {
        let (code, body) = server.call(Method::POST, CRDS, definition(&spec)).await;
        assert_eq!(code, 422, "{body}");
        body["details"]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cause| format!("{}: {}", cause["field"].as_str().unwrap(), cause["message"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    let rule = format!("{AT}.properties[tags].x-kubernetes-validations[0].rule");
    assert_eq!(
        refused(tags(None, dear.clone())).await,
        [
            format!("{rule}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {HINT}"),
            format!(
                "{rule}: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            ),
            format!(
                "spec.validation.openAPIV3Schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {HINT}"
            ),
        ]
    );
    let at = format!("{AT}.x-kubernetes-validations[0]");
    let of_rule = |rule: Value| json!({"type": "object", "properties": {"n": {"type": "integer"}}, "x-kubernetes-validations": [rule]});
    for (rule, want) in [
        (
            json!({"rule": "self.n > 0", "reason": "Whim"}),
            format!(
                "{at}.reason: Unsupported value: \"Whim\": supported values: \"FieldValueDuplicate\", \
                     \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
            ),
        ),
        (
            json!({"rule": "self.n > 0", "fieldPath": ".m"}),
            format!("{at}.fieldPath: Invalid value: \".m\": fieldPath must be a valid path"),
        ),
        (
            json!({"rule": "self.n > 0", "messageExpression": " "}),
            format!("{at}.messageExpression: Required value: messageExpression must be non-empty if specified"),
        ),
        (
            json!({"rule": "self.n > 0", "optionalOldSelf": true}),
            format!("{at}.optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"),
        ),
    ] {
        assert_eq!(refused(of_rule(rule)).await, [want]);
    }
    for rule in [json!({"rule": "self.m > 0"}), json!({"rule": "self.n > 0", "messageExpression": "self.n"})] {
        let told = refused(of_rule(rule)).await;
        assert!(told.len() == 1 && told[0].contains("compilation failed: "), "{told:?}");
    }
    let (code, body) =
        server.call(Method::POST, &format!("{CRDS}?dryRun=All"), definition(&tags(Some(100), dear))).await;
    assert_eq!(code, 201, "with a bound it costs little: {body}");
}
