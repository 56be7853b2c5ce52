//! What the daemon of a node may write, in upstream's words.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use skep_apiserver::UserInfo;

use crate::support::{TestServer, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn node(name: &str) -> UserInfo {
    UserInfo::authenticated(format!("system:node:{name}"), ["system:nodes".to_owned()])
}

/// A refused request's words.
async fn refused(test: &TestServer, method: Method, uri: &str, body: Value) -> String {
    let (code, body) = test.call_as(&node("n1"), method, uri, body).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{uri}: {body}");
    body["message"].as_str().unwrap().to_owned()
}

async fn allowed(test: &TestServer, method: Method, uri: &str, body: Value) -> Value {
    let (code, body) = test.call_as(&node("n1"), method, uri, body).await;
    assert!(code.is_success(), "{uri}: {code} {body}");
    body
}

fn on(name: &str, node: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["nodeName"] = node.into();
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_writes_the_status_of_its_own_pods_only() {
    let test = TestServer::start().await;
    test.default_account().await;
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        test.create(PODS, on(name, node)).await;
    }
    let (_, mut mine) = test.get(&format!("{PODS}/mine")).await;
    let (_, mut other) = test.get(&format!("{PODS}/other")).await;
    for pod in [&mut mine, &mut other] {
        pod["status"]["phase"] = "Running".into();
    }
    let mine_at = format!("{PODS}/mine/status");
    mine = allowed(&test, Method::PUT, &mine_at, mine).await;
    assert_eq!(mine["status"]["phase"], "Running");
    assert_eq!(
        refused(&test, Method::PUT, &format!("{PODS}/other/status"), other).await,
        "pods \"other\" is forbidden: node \"n1\" can only update pod status for pods with spec.nodeName set to itself"
    );
    let mut labelled = mine.clone();
    labelled["metadata"]["labels"]["app"] = "web".into();
    assert_eq!(
        refused(&test, Method::PUT, &mine_at, labelled).await,
        "pods \"mine\" is forbidden: node \"n1\" cannot update labels through pod status"
    );
    let mut claims = mine;
    claims["status"]["resourceClaimStatuses"] = json!([{"name": "gpu", "resourceClaimName": "gpu-1"}]);
    assert_eq!(
        refused(&test, Method::PUT, &mine_at, claims).await,
        "pods \"mine\" is forbidden: node \"n1\" cannot update resource claim statues"
    );
    // Others are not held to it.
    let (_, mut other) = test.get(&format!("{PODS}/other")).await;
    other["status"]["phase"] = "Running".into();
    assert_eq!(test.call(Method::PUT, &format!("{PODS}/other/status"), other).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_deletes_and_evicts_its_own_pods_only() {
    let test = TestServer::start().await;
    test.default_account().await;
    for (name, node) in [("mine", "n1"), ("mine-too", "n1"), ("other", "n2")] {
        test.create(PODS, on(name, node)).await;
    }
    test.settle().await;
    let now = json!({"gracePeriodSeconds": 0});
    assert_eq!(
        refused(&test, Method::DELETE, &format!("{PODS}/other"), now.clone()).await,
        "pods \"other\" is forbidden: node \"n1\" can only delete pods with spec.nodeName set to itself"
    );
    allowed(&test, Method::DELETE, &format!("{PODS}/mine"), now).await;
    let eviction = |name: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}});
    assert_eq!(
        refused(&test, Method::POST, &format!("{PODS}/other/eviction"), eviction("other")).await,
        "pods \"other\" is forbidden: node n1 can only evict pods with spec.nodeName set to itself"
    );
    allowed(&test, Method::POST, &format!("{PODS}/mine-too/eviction"), eviction("mine-too")).await;
    let missing = test.call_as(&node("n1"), Method::POST, &format!("{PODS}/no/eviction"), eviction("no")).await;
    assert_eq!(missing.0, 404, "{}", missing.1);
    assert_eq!(test.get(&format!("{PODS}/other")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_creates_mirror_pods_of_its_own_only() {
    let test = TestServer::start().await;
    test.default_account().await;
    let own = test.create(NODES, json!({"metadata": {"name": "n1"}})).await;
    test.settle().await;
    let owner =
        json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": own["metadata"]["uid"], "controller": true});
    let mut mirror = on("static", "n1");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "1"});
    mirror["metadata"]["ownerReferences"] = json!([owner]);
    let changed = |pointer: &str, value: Value| {
        let mut pod = mirror.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value;
        pod
    };
    let owned = |key: &str, value: Value| {
        let mut owner = owner.clone();
        owner[key] = value;
        changed("/metadata/ownerReferences", json!([owner]))
    };
    let volume = |source: Value| {
        let mut volume = source;
        volume["name"] = "v".into();
        changed("/spec/volumes", json!([volume]))
    };
    let itself = "node \"n1\" can only create pods with an owner reference set to itself";
    let uid = own["metadata"]["uid"].as_str().unwrap();
    for (pod, why) in [
        (
            changed("/metadata/annotations", Value::Null),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
        ),
        (changed("/spec/nodeName", "n2".into()), "node \"n1\" can only create pods with spec.nodeName set to itself"),
        (changed("/metadata/ownerReferences", Value::Null), itself),
        (owned("kind", "Pod".into()), itself),
        (owned("name", "n2".into()), itself),
        (
            owned("controller", false.into()),
            "node \"n1\" can only create pods with a controller owner reference set to itself",
        ),
        (owned("blockOwnerDeletion", true.into()), "node \"n1\" must not set blockOwnerDeletion on an owner reference"),
        (owned("uid", "elsewhere".into()), &format!("node n1 UID mismatch: expected elsewhere got {uid}")),
        (volume(json!({"secret": {"secretName": "s"}})), "node \"n1\" can not create pods that reference secrets"),
        (
            volume(json!({"projected": {"sources": [{"secret": {"name": "s"}}]}})),
            "node \"n1\" can not create pods that reference secrets",
        ),
        (
            changed("/spec/imagePullSecrets", json!([{"name": "s"}])),
            "node \"n1\" can not create pods that reference secrets",
        ),
        (volume(json!({"configMap": {"name": "m"}})), "node \"n1\" can not create pods that reference configmaps"),
        (
            changed("/spec/containers/0/envFrom", json!([{"configMapRef": {"name": "m"}}])),
            "node \"n1\" can not create pods that reference configmaps",
        ),
        (
            volume(json!({"persistentVolumeClaim": {"claimName": "c"}})),
            "node \"n1\" can not create pods that reference persistentvolumeclaims",
        ),
    ] {
        let message = refused(&test, Method::POST, PODS, pod).await;
        assert_eq!(message, format!("pods \"static\" is forbidden: {why}"));
    }
    allowed(&test, Method::POST, PODS, mirror).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_writes_its_own_node_without_labels_that_steer_work_to_it() {
    let test = TestServer::start().await;
    test.create(NODES, json!({"metadata": {"name": "n2"}})).await;
    let new = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    assert_eq!(
        refused(&test, Method::POST, NODES, new("n3", json!({}))).await,
        "nodes \"n3\" is forbidden: node \"n1\" is not allowed to modify node \"n3\""
    );
    let steering = json!({
        "node-restriction.kubernetes.io/secure": "1", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/os": "linux",
    });
    assert_eq!(
        refused(&test, Method::POST, NODES, new("n1", steering)).await,
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: \
         node-restriction.kubernetes.io/secure, node-role.kubernetes.io/control-plane"
    );
    let labels = json!({
        "kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "a", "x.node.kubernetes.io/y": "1",
        "kubelet.kubernetes.io/z": "1", "example.com/anything": "1", "plain": "1",
    });
    let own = allowed(&test, Method::POST, NODES, new("n1", labels)).await;
    let own_at = format!("{NODES}/n1");
    let mut labelled = own.clone();
    labelled["metadata"]["labels"]["app.k8s.io/x"] = "1".into();
    assert_eq!(
        refused(&test, Method::PUT, &own_at, labelled).await,
        "nodes \"n1\" is forbidden: is not allowed to modify labels: app.k8s.io/x"
    );
    let mut tainted = own.clone();
    tainted["spec"]["taints"] = Value::Null;
    assert_eq!(
        refused(&test, Method::PUT, &own_at, tainted).await,
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify taints"
    );
    let mut reported = own;
    reported["status"]["capacity"] = json!({"cpu": "4"});
    reported["metadata"]["labels"]["example.com/anything"] = "2".into();
    let reported = allowed(&test, Method::PUT, &format!("{own_at}/status"), reported).await;
    assert_eq!(reported["status"]["capacity"]["cpu"], "4");
    let (_, other) = test.get(&format!("{NODES}/n2")).await;
    let message = refused(&test, Method::PUT, &format!("{NODES}/n2/status"), other).await;
    assert!(message.ends_with("node \"n1\" is not allowed to modify node \"n2\""), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_one_lease_and_one_csi_node() {
    let test = TestServer::start().await;
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    assert_eq!(
        refused(&test, Method::POST, LEASES, lease("n2")).await,
        "leases.coordination.k8s.io \"n2\" is forbidden: can only access node lease with the same name as the requesting node"
    );
    allowed(&test, Method::POST, LEASES, lease("n1")).await;
    let csi = |name: &str| json!({"metadata": {"name": name}, "spec": {"drivers": []}});
    let uri = "/apis/storage.k8s.io/v1/csinodes";
    assert_eq!(
        refused(&test, Method::POST, uri, csi("n2")).await,
        "csinodes.storage.k8s.io \"n2\" is forbidden: can only access CSINode with the same name as the requesting node"
    );
    allowed(&test, Method::POST, uri, csi("n1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_tokens_for_its_own_pods_and_what_they_are_for() {
    let test = TestServer::start().await;
    test.default_account().await;
    let mut mine = on("mine", "n1");
    mine["spec"]["volumes"] = json!([
        {"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
        {"name": "c", "csi": {"driver": "csi.example.com"}},
    ]);
    let mine = test.create(PODS, mine).await;
    let other = test.create(PODS, on("other", "n2")).await;
    let driver = json!({
        "metadata": {"name": "csi.example.com"},
        "spec": {"volumeLifecycleModes": ["Ephemeral"], "tokenRequests": [{"audience": "storage"}]},
    });
    test.create("/apis/storage.k8s.io/v1/csidrivers", driver).await;
    test.settle().await;
    let uri = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let bound = |pod: &Value, audiences: Value| {
        let to =
            json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]});
        json!({"spec": {"audiences": audiences, "boundObjectRef": to}})
    };
    let mut without = bound(&mine, json!([]));
    without["spec"]["boundObjectRef"]["uid"] = Value::Null;
    let mut stale = bound(&mine, json!([]));
    stale["spec"]["boundObjectRef"]["uid"] = "old".into();
    let audience = "audience \"bank\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for \
                    this audience";
    for (request, why) in [
        (json!({"spec": {"audiences": []}}), "node requested token not bound to a pod"),
        (without, "node requested token with a pod binding without a uid"),
        (
            stale,
            "the UID in the bound object reference (old) does not match the UID in record. The object might have been \
             deleted and then recreated",
        ),
        (bound(&other, json!([])), "node requested token bound to a pod scheduled on a different node"),
        (bound(&mine, json!(["vault", "storage"])), "node may only request 0 or 1 audiences"),
        (bound(&mine, json!(["bank"])), audience),
    ] {
        let message = refused(&test, Method::POST, uri, request).await;
        assert_eq!(message, format!("serviceaccounts \"default\" is forbidden: {why}"));
    }
    for audiences in [json!([]), json!(["vault"]), json!(["storage"])] {
        let answer = allowed(&test, Method::POST, uri, bound(&mine, audiences)).await;
        assert!(answer["status"]["token"].as_str().is_some_and(|token| !token.is_empty()), "{answer}");
    }
}
