//! Roles and bindings decide.

use http::Method;
use serde_json::{Value, json};
use skep_apiserver::UserInfo;

use crate::support::{TestServer, config_map, pod};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn jane() -> UserInfo {
    UserInfo::authenticated("jane", ["dev".to_owned()])
}

fn role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str, subject: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [subject],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_gives_what_its_role_says_until_it_goes() {
    let test = TestServer::start().await;
    let jane = jane();
    let maps = "/api/v1/namespaces/default/configmaps";
    let (code, body) = test.call_as(&jane, Method::GET, maps, Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(body["reason"], "Forbidden");
    assert_eq!(
        body["message"],
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \
         \"default\""
    );
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "create"]}]);
    test.create(&roles, role("mapper", rules)).await;
    test.create(&bindings, binding("b", "Role", "mapper", json!({"kind": "Group", "name": "dev"}))).await;
    test.settle().await;
    assert_eq!(test.call_as(&jane, Method::GET, maps, Value::Null).await.0, 200);
    assert_eq!(test.call_as(&jane, Method::POST, maps, config_map("a", "1")).await.0, 201);
    assert_eq!(test.call_as(&jane, Method::GET, &format!("{maps}/a"), Value::Null).await.0, 403);
    assert_eq!(test.call_as(&jane, Method::GET, "/api/v1/configmaps", Value::Null).await.0, 403);
    assert_eq!(test.call_as(&jane, Method::GET, "/api/v1/namespaces/kube-system/configmaps", Value::Null).await.0, 403);

    // What is bound cannot be changed, and what is bound to nothing is told.
    let mut other = binding("b", "Role", "other", json!({"kind": "Group", "name": "dev"}));
    let (code, body) = test.call(Method::PUT, &format!("{bindings}/b"), other.clone()).await;
    assert_eq!(code, 422);
    assert!(body["message"].as_str().unwrap().contains("cannot change roleRef"), "{body}");
    other["metadata"]["name"] = "c".into();
    test.create(&bindings, other).await;
    assert_eq!(test.call(Method::DELETE, &format!("{bindings}/b"), Value::Null).await.0, 200);
    test.settle().await;
    let (code, body) = test.call_as(&jane, Method::GET, maps, Value::Null).await;
    assert_eq!(code, 403);
    let message = body["message"].as_str().unwrap();
    assert!(message.ends_with("RBAC: role.rbac.authorization.k8s.io \"other\" not found"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cluster_has_upstreams_roles() {
    let test = TestServer::start().await;
    let (code, admin) = test.get(&format!("{RBAC}/clusterroles/cluster-admin")).await;
    assert_eq!(code, 200);
    assert_eq!(admin["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"], "true");
    assert_eq!(admin["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    for name in ["admin", "edit", "view", "system:node", "system:kube-scheduler", "system:controller:job-controller"] {
        assert_eq!(test.get(&format!("{RBAC}/clusterroles/{name}")).await.0, 200, "{name}");
    }
    let reader = "namespaces/kube-system/rolebindings/extension-apiserver-authentication-reader";
    assert_eq!(test.get(&format!("{RBAC}/{reader}")).await.0, 200);

    // Nobody sees health and version, everybody with a name discovery, components what they need.
    let nobody = UserInfo::anonymous();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(test.call_as(&nobody, Method::GET, path, Value::Null).await.0, 200, "{path}");
    }
    for path in ["/api", "/apis", "/metrics", "/readyz/etcd", "/api/v1/pods", "/"] {
        let (code, body) = test.call_as(&nobody, Method::GET, path, Value::Null).await;
        assert_eq!(code, 403, "{path} {body}");
    }
    let (_, body) = test.call_as(&nobody, Method::GET, "/", Value::Null).await;
    assert_eq!(body["message"], "forbidden: User \"system:anonymous\" cannot get path \"/\"");
    for path in ["/api", "/apis", "/apis/apps/v1", "/openapi/v3", "/version"] {
        assert_eq!(test.call_as(&jane(), Method::GET, path, Value::Null).await.0, 200, "{path}");
    }
    let scheduler = UserInfo::component("system:kube-scheduler");
    assert_eq!(test.call_as(&scheduler, Method::GET, "/api/v1/pods", Value::Null).await.0, 200);
    assert_eq!(test.call_as(&scheduler, Method::GET, "/api/v1/secrets", Value::Null).await.0, 403);
    let manager = UserInfo::component("system:kube-controller-manager");
    assert_eq!(test.call_as(&manager, Method::GET, "/api/v1/secrets", Value::Null).await.0, 200);
    let monitor = UserInfo::authenticated("m", ["system:monitoring".to_owned()]);
    assert_eq!(test.call_as(&monitor, Method::GET, "/metrics", Value::Null).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_away_more_than_he_has() {
    let test = TestServer::start().await;
    let jane = jane();
    // Jane may write roles and bindings, and read pods.
    let rules = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["create", "get", "update"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let mut writer = role("writer", rules);
    writer["kind"] = "ClusterRole".into();
    test.create(&format!("{RBAC}/clusterroles"), writer).await;
    let subject = json!({"kind": "User", "name": "jane"});
    test.create(&format!("{RBAC}/clusterrolebindings"), binding("w", "ClusterRole", "writer", subject.clone())).await;
    test.settle().await;

    let roles = format!("{RBAC}/namespaces/default/roles");
    let own = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["a"]}]);
    assert_eq!(test.call_as(&jane, Method::POST, &roles, role("own", own)).await.0, 201);
    let more = json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "delete"]}]);
    let (code, body) = test.call_as(&jane, Method::POST, &roles, role("more", more.clone())).await;
    assert_eq!(code, 403);
    assert_eq!(
        body["message"],
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"dev\" \"system:authenticated\"]) \
         is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
    );
    let (code, _) = test.call_as(&jane, Method::PUT, &format!("{roles}/own"), role("own", more)).await;
    assert_eq!(code, 403, "nor by an update");

    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let bind = |name: &str, role: &str| binding(name, "ClusterRole", role, subject.clone());
    let (code, body) = test.call_as(&jane, Method::POST, &bindings, bind("all", "cluster-admin")).await;
    assert_eq!(code, 403, "{body}");
    let (code, body) = test.call_as(&jane, Method::POST, &bindings, bind("none", "nonesuch")).await;
    assert_eq!((code.as_u16(), &body["reason"]), (404, &json!("NotFound")));
    assert_eq!(test.call_as(&jane, Method::POST, &bindings, bind("mine", "writer")).await.0, 201);

    // The verb `bind` lifts that for one role, `escalate` for the rules of roles.
    let rules = json!([
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"],
         "resourceNames": ["view"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["escalate"]}]);
    let mut binder = role("binder", rules);
    binder["kind"] = "ClusterRole".into();
    test.create(&format!("{RBAC}/clusterroles"), binder).await;
    test.create(&format!("{RBAC}/clusterrolebindings"), bind("binder", "binder")).await;
    test.settle().await;
    assert_eq!(test.call_as(&jane, Method::POST, &bindings, bind("view", "view")).await.0, 201);
    assert_eq!(test.call_as(&jane, Method::POST, &bindings, bind("admin", "cluster-admin")).await.0, 403);
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    assert_eq!(test.call_as(&jane, Method::POST, &roles, role("all", all)).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_what_its_pods_use() {
    let test = TestServer::start().await;
    test.default_account().await;
    let node = UserInfo::authenticated("system:node:n1", ["system:nodes".to_owned()]);
    let get = async |uri: &str| test.call_as(&node, Method::GET, uri, Value::Null).await;
    for (name, on) in [("mine", "n1"), ("other", "n2")] {
        test.create("/api/v1/namespaces/default/configmaps", config_map(name, "1")).await;
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = on.into();
        pod["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": name}}]);
        test.create("/api/v1/namespaces/default/pods", pod).await;
    }
    test.settle().await;
    for _ in 0..2 {
        assert_eq!(get("/api/v1/namespaces/default/configmaps/mine").await.0, 200);
    }
    assert_eq!(get("/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dmine").await.0, 200);
    let (code, body) = get("/api/v1/namespaces/default/configmaps/other").await;
    assert_eq!(code, 403);
    let message = body["message"].as_str().unwrap();
    assert!(message.ends_with(": no relationship found between node 'n1' and this object"), "{message}");
    assert_eq!(get("/api/v1/namespaces/default/configmaps").await.0, 403);
    assert_eq!(get("/api/v1/namespaces/default/serviceaccounts/default").await.0, 200);
    assert_eq!(get("/api/v1/namespaces/kube-system/serviceaccounts/default").await.0, 403);
    assert_eq!(get("/api/v1/pods").await.0, 200);
    assert_eq!(get("/apis/discovery.k8s.io/v1/endpointslices").await.0, 200);
    // The pod's end is the end of the right.
    let gone = "/api/v1/namespaces/default/pods/mine?gracePeriodSeconds=0";
    assert_eq!(test.call(Method::DELETE, gone, Value::Null).await.0, 200);
    test.settle().await;
    assert_eq!(get("/api/v1/namespaces/default/configmaps/mine").await.0, 403);
}
