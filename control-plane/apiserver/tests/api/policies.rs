//! ValidatingAdmissionPolicies judge what is written.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::{TestServer, config_map};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
const BINDINGS: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A policy about ConfigMaps.
fn policy(name: &str, change: Value) -> Value {
    let mut spec = json!({
        "matchConstraints": {"resourceRules": [{
            "operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
        }]},
    });
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

fn binding(policy: &str, change: Value) -> Value {
    let mut spec = json!({"policyName": policy, "validationActions": ["Deny"]});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": format!("{policy}-binding")}, "spec": spec})
}

/// Creates a policy and its binding, and waits until both hold: a second policy, created after them, refuses a probe.
async fn establish(test: &TestServer, policies: Vec<(Value, Value)>) {
    let probe = policy("probe", json!({"validations": [{"expression": "object.metadata.name != 'probe'"}]}));
    let all = policies.into_iter().chain([(probe, binding("probe", json!({})))]);
    let (made, bound): (Vec<_>, Vec<_>) = all.unzip();
    for (uri, objects) in [(POLICIES, made), (BINDINGS, bound)] {
        for object in objects {
            let (code, body) = test.call(Method::POST, uri, object).await;
            assert_eq!(code, 201, "{body}");
        }
    }
    for _ in 0..500 {
        let (code, _) = test.call(Method::POST, &format!("{MAPS}?dryRun=All"), config_map("probe", "1")).await;
        if code == 422 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the policies never hold");
}

async fn create(test: &TestServer, name: &str, value: &str) -> (StatusCode, Value) {
    test.call(Method::POST, MAPS, config_map(name, value)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_denies_with_upstreams_words_and_its_own_messages() {
    let test = TestServer::start().await;
    establish(&test, vec![
        (
            policy("demo", json!({
                "variables": [
                    {"name": "value", "expression": "object.data.key"},
                    {"name": "long", "expression": "size(variables.value) > 3"},
                ],
                "matchConditions": [{"name": "not-free", "expression": "!object.metadata.name.startsWith('free')"}],
                "validations": [
                    {"expression": "!variables.long"},
                    {"expression": "variables.value != 'no'", "message": "no is no value", "reason": "Forbidden"},
                    {"expression": "variables.value != 'ask'", "messageExpression": "'the value is ' + variables.value + ' for ' + request.userInfo.username"},
                ],
            })),
            binding("demo", json!({})),
        ),
        (
            policy("warns", json!({"validations": [{"expression": "object.metadata.name != 'warned'"}]})),
            binding("warns", json!({"validationActions": ["Warn", "Audit"]})),
        ),
    ])
    .await;
    let (code, body) = create(&test, "a", "longer").await;
    assert_eq!((code.as_u16(), &body["reason"]), (422, &json!("Invalid")));
    let why = "ValidatingAdmissionPolicy 'demo' with binding 'demo-binding' denied request: failed expression: !variables.long";
    assert_eq!(body["message"], format!("configmaps \"a\" is forbidden: {why}"));
    assert_eq!(body["details"]["causes"], json!([{"message": why}]));
    let (code, body) = create(&test, "a", "no").await;
    assert_eq!((code.as_u16(), &body["reason"]), (403, &json!("Forbidden")));
    assert!(body["message"].as_str().unwrap().ends_with("denied request: no is no value"));
    let (_, body) = create(&test, "a", "ask").await;
    assert!(body["message"].as_str().unwrap().ends_with("denied request: the value is ask for admin"), "{body}");
    assert_eq!(create(&test, "free-1", "longer").await.0, 201, "a condition spares it");
    assert_eq!(create(&test, "a", "ok").await.0, 201);
    let (code, _) =
        test.raw(Method::PATCH, &format!("{MAPS}/a"), "application/merge-patch+json", r#"{"data":{"key":"no"}}"#).await;
    assert_eq!(code, 403, "updates are judged too");

    let request = Request::post(MAPS).header("content-type", "application/json");
    let body = Full::new(Bytes::from(config_map("warned", "1").to_string()));
    let response = test.send(request.body(body).unwrap()).await;
    assert_eq!(response.status(), 201);
    let warning = response.headers()["warning"].to_str().unwrap();
    assert!(warning.contains("Validation failed for ValidatingAdmissionPolicy 'warns' with binding 'warns-binding': failed expression: object.metadata.name != 'warned'"), "{warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_come_from_where_the_binding_says() {
    let test = TestServer::start().await;
    let (code, _) = create(&test, "limits", "3").await;
    assert_eq!(code, 201);
    let kind = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let validations = json!([{"expression": "size(object.data.key) <= int(params.data.key)"}]);
    let with = |name: &str| policy(name, json!({"paramKind": kind, "validations": validations}));
    let only = |name: &str| json!({"objectSelector": {"matchLabels": {"case": name}}});
    establish(
        &test,
        vec![
            (
                with("named"),
                binding(
                    "named",
                    json!({"matchResources": only("named"),
            "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}}),
                ),
            ),
            (
                with("missing"),
                binding(
                    "missing",
                    json!({"matchResources": only("missing"),
            "paramRef": {"name": "nobody", "parameterNotFoundAction": "Deny"}}),
                ),
            ),
            (
                with("allowed"),
                binding(
                    "allowed",
                    json!({"matchResources": only("allowed"),
            "paramRef": {"name": "nobody", "parameterNotFoundAction": "Allow"}}),
                ),
            ),
        ],
    )
    .await;
    let post = async |case: &str, value: &str| {
        let mut map = config_map("x", value);
        map["metadata"]["labels"] = json!({"case": case});
        test.call(Method::POST, &format!("{MAPS}?dryRun=All"), map).await
    };
    assert_eq!(post("named", "123").await.0, 201);
    assert_eq!(post("named", "1234").await.0, 422);
    let (code, body) = post("missing", "1").await;
    assert_eq!(code, 422);
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .contains("no params found for policy binding with `Deny` parameterNotFoundAction"),
        "{body}"
    );
    assert_eq!(post("allowed", "12345").await.0, 201);
    assert_eq!(post("none", "12345").await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_fails_or_passes_as_the_policy_says() {
    let test = TestServer::start().await;
    let labelled = |name: &str| json!({"matchResources": {"objectSelector": {"matchLabels": {"case": name}}}});
    let with = |name: &str, failure: &str, expression: &str| {
        (
            policy(name, json!({"failurePolicy": failure, "validations": [{"expression": expression}]})),
            binding(name, labelled(name)),
        )
    };
    let endless = "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20].exists(a, request.userInfo.groups.exists(g, object.metadata.labels.exists(k, object.data.key.matches('(a|b|c|d|e|f|g|h)*x' + string(a)))))";
    establish(&test, vec![
        with("fail", "Fail", "object.data.nothing == 'x'"),
        with("ignore", "Ignore", "object.data.nothing == 'x'"),
        with("endless", "Fail", endless),
        with("authorizer", "Fail", "authorizer.group('').resource('secrets').namespace('default').check('get').allowed() && !authorizer.serviceAccount('default', 'x').group('').resource('secrets').check('get').allowed()"),
        with("namespace", "Fail", "namespaceObject.metadata.name == 'default' && oldObject == null && request.operation == 'CREATE'"),
    ])
    .await;
    let post = async |case: &str, value: String| {
        let mut map = config_map("x", &value);
        map["metadata"]["labels"] = json!({"case": case});
        test.call(Method::POST, &format!("{MAPS}?dryRun=All"), map).await
    };
    let (code, body) = post("fail", "1".to_owned()).await;
    assert_eq!(code, 422);
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .ends_with("expression 'object.data.nothing == 'x'' resulted in error: no such key: nothing"),
        "{body}"
    );
    assert_eq!(post("ignore", "1".to_owned()).await.0, 201);
    let (code, body) = post("endless", "a".repeat(500_000)).await;
    assert_eq!(code, 422);
    assert!(body["message"].as_str().unwrap().contains("cost limit exceeded"), "{body}");
    for case in ["authorizer", "namespace"] {
        let (code, body) = post(case, "1".to_owned()).await;
        assert_eq!(code, 201, "{case}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_policies_are_refused_and_policies_are_not_judged_by_policies() {
    let test = TestServer::start().await;
    for (spec, expected) in [
        (
            json!({"validations": [{"expression": "object.a =="}]}),
            "spec.validations[0].expression: Invalid value: \"object.a ==\": compilation failed: ERROR: <input>:1:12: Syntax error: mismatched input '<EOF>'",
        ),
        (
            json!({"validations": [{"expression": "'text'"}]}),
            "spec.validations[0].expression: Invalid value: \"'text'\": must evaluate to bool",
        ),
        (
            json!({"validations": [{"expression": "params.x == 1"}]}),
            "undeclared reference to 'params' (in container '')",
        ),
        (json!({"validations": [{"expression": "variables.x == 1"}]}), "undefined field 'x'"),
        (json!({"validations": [{"expression": "request.nobody == 1"}]}), "undefined field 'nobody'"),
        (json!({"validations": [{"expression": "true", "messageExpression": "1"}]}), "must evaluate to string"),
        (
            json!({"validations": [{"expression": "true"}], "variables": [{"name": "1x", "expression": "1"}]}),
            "name is not a valid CEL identifier",
        ),
        (json!({"auditAnnotations": [{"key": "a", "valueExpression": "1"}]}), "must evaluate to string or null_type"),
    ] {
        let (code, body) = test.call(Method::POST, POLICIES, policy("faulty", spec)).await;
        assert_eq!(code, 422, "{body}");
        let message = body["message"].as_str().unwrap();
        assert!(message.contains(expected), "expected {expected}\ngot {message}");
    }
    let everything = json!({
        "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]},
        "validations": [{"expression": "false"}],
    });
    establish(&test, vec![(policy("everything", everything), binding("everything", json!({})))]).await;
    assert_eq!(create(&test, "x", "1").await.0, 422);
    let (code, _) = test.call(Method::DELETE, &format!("{BINDINGS}/everything-binding"), Value::Null).await;
    assert_eq!(code, 200, "or a mistake could never be undone");
}
