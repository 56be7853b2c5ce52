//! The server's own admission checks.

use futures::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{TestServer, config_map, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

async fn create(server: &TestServer, uri: &str, body: Value) -> Value {
    let (code, answer) = server.call(Method::POST, uri, body).await;
    assert_eq!(code, StatusCode::CREATED, "{answer}");
    answer
}

async fn refused(server: &TestServer, uri: &str, body: Value) -> String {
    let (code, answer) = server.call(Method::POST, uri, body).await;
    assert_eq!(code, StatusCode::FORBIDDEN, "{answer}");
    answer["message"].as_str().unwrap().to_owned()
}

/// A quota as the quota controller has seen it.
async fn quota(server: &TestServer, name: &str, spec: Value) {
    let quota = json!({"metadata": {"name": name}, "spec": spec});
    let mut quota = create(server, QUOTAS, quota).await;
    let hard = quota["spec"]["hard"].clone();
    let used =
        hard.as_object().unwrap().keys().map(|name| (name.clone(), json!("0"))).collect::<serde_json::Map<_, _>>();
    quota["status"] = json!({"hard": hard, "used": used});
    let (code, answer) = server.call(Method::PUT, &format!("{QUOTAS}/{name}/status"), quota).await;
    assert_eq!(code, 200, "{answer}");
    seen(server, &format!("{QUOTAS}/{name}")).await;
}

/// Checks read what the server has seen; a read waits for it.
async fn seen(server: &TestServer, uri: &str) {
    assert_eq!(server.get(uri).await.0, 200);
}

async fn used(server: &TestServer, name: &str) -> Value {
    server.get(&format!("{QUOTAS}/{name}")).await.1["status"]["used"].clone()
}

#[tokio::test]
async fn of_32_concurrent_creations_a_quota_of_10_lets_10_pass() {
    let server = TestServer::start().await;
    quota(&server, "q", json!({"hard": {"count/configmaps": "10"}})).await;
    let created = join_all((0..32).map(|i| {
        let server = &server;
        async move {
            let (code, answer) = server
                .call(Method::POST, "/api/v1/namespaces/default/configmaps", config_map(&format!("c{i}"), "v"))
                .await;
            if code != StatusCode::CREATED {
                assert_eq!(
                    answer["message"],
                    format!(
                        "configmaps \"c{i}\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: \
                         count/configmaps=10, limited: count/configmaps=10"
                    )
                );
            }
            code == StatusCode::CREATED
        }
    }))
    .await;
    assert_eq!(created.iter().filter(|created| **created).count(), 10);
    assert_eq!(used(&server, "q").await, json!({"count/configmaps": "10"}));
    let (_, list) = server.get("/api/v1/namespaces/default/configmaps").await;
    assert_eq!(list["items"].as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn quotas_measure_pods_and_choose_them_by_scope() {
    let server = TestServer::start().await;
    server.default_account().await;
    let urgent = json!({"metadata": {"name": "urgent"}, "value": 7, "preemptionPolicy": "Never"});
    create(&server, "/apis/scheduling.k8s.io/v1/priorityclasses", urgent).await;
    let selector =
        json!({"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["urgent"]}]});
    quota(&server, "urgent", json!({"hard": {"pods": "1"}, "scopeSelector": selector})).await;
    quota(&server, "cpu", json!({"hard": {"requests.cpu": "1"}, "scopes": ["NotTerminating"]})).await;

    let text = refused(&server, PODS, pod("a")).await;
    assert_eq!(text, "pods \"a\" is forbidden: failed quota: cpu: must specify requests.cpu for: main");
    let mut sized = pod("a");
    sized["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "600m"}});
    create(&server, PODS, sized.clone()).await;
    sized["metadata"]["name"] = json!("b");
    let text = refused(&server, PODS, sized.clone()).await;
    assert_eq!(
        text,
        "pods \"b\" is forbidden: exceeded quota: cpu, requested: requests.cpu=600m, used: requests.cpu=600m, limited: \
         requests.cpu=1"
    );
    sized["spec"]["activeDeadlineSeconds"] = json!(60);
    sized["spec"]["priorityClassName"] = json!("urgent");
    let (code, _) = server.call(Method::POST, &format!("{PODS}?dryRun=All"), sized.clone()).await;
    assert_eq!((code.as_u16(), used(&server, "urgent").await), (201, json!({"pods": "0"})));
    let created = create(&server, PODS, sized.clone()).await;
    assert_eq!((&created["spec"]["priority"], &created["spec"]["preemptionPolicy"]), (&json!(7), &json!("Never")));
    assert_eq!(
        (used(&server, "urgent").await, used(&server, "cpu").await),
        (json!({"pods": "1"}), json!({"requests.cpu": "600m"}))
    );
}

#[tokio::test]
async fn a_quota_nobody_counted_yet_lets_nothing_pass() {
    let server = TestServer::start().await;
    let spec = json!({"metadata": {"name": "q"}, "spec": {"hard": {"services": "5", "services.nodeports": "2"}}});
    let mut quota = create(&server, QUOTAS, spec).await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, ports: &[i32]| {
        let ports: Vec<_> = ports.iter().map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": ports}})
    };
    create(&server, services, service("early", &[80])).await;
    quota["status"] = json!({"hard": {"services": "5", "services.nodeports": "2"}});
    server.call(Method::PUT, &format!("{QUOTAS}/q/status"), quota.clone()).await;
    seen(&server, &format!("{QUOTAS}/q")).await;
    let text = refused(&server, services, service("a", &[80])).await;
    assert_eq!(
        text,
        "services \"a\" is forbidden: status unknown for quota: q, resources: services,services.nodeports"
    );
    quota["metadata"]["resourceVersion"] = json!(null);
    quota["status"]["used"] = json!({"services": "0", "services.nodeports": "0"});
    server.call(Method::PUT, &format!("{QUOTAS}/q/status"), quota).await;
    let mut created = create(&server, services, service("a", &[80])).await;
    // A change of what it has is charged, too.
    let ports = json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}, {"name": "c", "port": 3}]);
    created["spec"]["ports"] = ports;
    let (code, answer) = server.call(Method::PUT, &format!("{services}/a"), created).await;
    assert_eq!(code, 403);
    assert!(answer["message"].as_str().unwrap().contains(
        "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2"
    ));
}

#[tokio::test]
async fn limit_ranges_fill_in_and_forbid() {
    let server = TestServer::start().await;
    server.default_account().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "200m"}, "max": {"cpu": "1"}},
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}},
    ]}});
    create(&server, "/api/v1/namespaces/default/limitranges", range).await;
    seen(&server, "/api/v1/namespaces/default/limitranges/r").await;
    let created = create(&server, PODS, pod("a")).await;
    assert_eq!(
        created["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "200m"}, "limits": {"cpu": "500m"}})
    );
    assert_eq!(
        created["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container main; cpu limit for container main"
    );
    assert_eq!(created["status"]["qosClass"], "Burstable");
    let mut greedy = pod("b");
    greedy["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let text = refused(&server, PODS, greedy).await;
    assert_eq!(text, "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
    let claim = json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}},
    }});
    let text = refused(&server, "/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    assert_eq!(
        text,
        "persistentvolumeclaims \"c\" is forbidden: minimum storage usage per PersistentVolumeClaim is 1Gi, but request \
         is 1Mi"
    );
}

#[tokio::test]
async fn priority_comes_from_the_class() {
    let server = TestServer::start().await;
    server.default_account().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let mut unknown = pod("a");
    unknown["spec"]["priorityClassName"] = json!("nope");
    let text = refused(&server, PODS, unknown).await;
    assert_eq!(text, "pods \"a\" is forbidden: no PriorityClass with name nope was found");
    let plain = create(&server, PODS, pod("plain")).await;
    assert_eq!(
        (&plain["spec"]["priority"], &plain["spec"]["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
    assert_eq!(plain["spec"]["tolerations"].as_array().unwrap().len(), 2);
    create(&server, classes, json!({"metadata": {"name": "usual"}, "value": 3, "globalDefault": true})).await;
    seen(&server, &format!("{classes}/usual")).await;
    let text =
        refused(&server, classes, json!({"metadata": {"name": "other"}, "value": 4, "globalDefault": true})).await;
    assert!(text.ends_with("PriorityClass usual is already marked as default. Only one default can exist"), "{text}");
    let mut chosen = pod("chosen");
    chosen["spec"]["priority"] = json!(9);
    let text = refused(&server, PODS, chosen).await;
    assert_eq!(
        text,
        "pods \"chosen\" is forbidden: the integer value of priority (9) must not be provided in pod spec; priority \
         admission controller computed 3 from the given PriorityClass name"
    );
    let mut usual = create(&server, PODS, pod("usual")).await;
    assert_eq!((&usual["spec"]["priority"], &usual["spec"]["priorityClassName"]), (&json!(3), &json!("usual")));
    // An update that leaves it out keeps it.
    usual["spec"].as_object_mut().unwrap().remove("priority");
    let (code, answer) = server.call(Method::PUT, &format!("{PODS}/usual"), usual).await;
    assert_eq!((code.as_u16(), &answer["spec"]["priority"]), (200, &json!(3)), "{answer}");
}

#[tokio::test]
async fn runtime_classes_give_overhead_and_place() {
    let server = TestServer::start().await;
    server.default_account().await;
    let mut sandboxed = pod("a");
    sandboxed["spec"]["runtimeClassName"] = json!("box");
    let text = refused(&server, PODS, sandboxed.clone()).await;
    assert_eq!(text, "pods \"a\" is forbidden: pod rejected: RuntimeClass \"box\" not found");
    let class = json!({
        "metadata": {"name": "box"}, "handler": "box", "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"box": "yes"}, "tolerations": [{"key": "box", "operator": "Exists"}]},
    });
    create(&server, "/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let created = create(&server, PODS, sandboxed).await;
    assert_eq!(created["spec"]["overhead"], json!({"cpu": "250m"}));
    assert_eq!(created["spec"]["nodeSelector"], json!({"box": "yes"}));
    assert_eq!(created["spec"]["tolerations"].as_array().unwrap().len(), 3);
    let mut heavy = pod("b");
    heavy["spec"]["overhead"] = json!({"cpu": "1"});
    let text = refused(&server, PODS, heavy).await;
    assert!(
        text.ends_with("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        "{text}"
    );
}

#[tokio::test]
async fn classes_finalizers_and_taints_are_filled_in() {
    let server = TestServer::start().await;
    let marked = |name: &str, annotation: &str| json!({"name": name, "annotations": {annotation: "true"}});
    let class = json!({
        "metadata": marked("fast", "storageclass.kubernetes.io/is-default-class"), "provisioner": "example.com/x",
    });
    create(&server, "/apis/storage.k8s.io/v1/storageclasses", class).await;
    let class = json!({
        "metadata": marked("front", "ingressclass.kubernetes.io/is-default-class"), "spec": {"controller": "example.com/x"},
    });
    create(&server, "/apis/networking.k8s.io/v1/ingressclasses", class).await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }});
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let mut claim = create(&server, claims, claim).await;
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    claim["status"] = json!({"phase": "Bound"});
    let (_, mut claim) = server.call(Method::PUT, &format!("{claims}/c/status"), claim).await;
    claim["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
    let (code, answer) = server.call(Method::PUT, &format!("{claims}/c"), claim).await;
    assert_eq!(code, 403, "{answer}");
    assert_eq!(
        answer["message"],
        "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass \
         that provisions the pvc must support resize"
    );
    let ingress = json!({"metadata": {"name": "i"}, "spec": {
        "defaultBackend": {"service": {"name": "s", "port": {"number": 80}}},
    }});
    let ingress = create(&server, "/apis/networking.k8s.io/v1/namespaces/default/ingresses", ingress).await;
    assert_eq!(ingress["spec"]["ingressClassName"], "front");
    let node = create(&server, "/api/v1/nodes", json!({"metadata": {"name": "n"}})).await;
    assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
}

#[tokio::test]
async fn pod_security_refuses_and_warns() {
    let server = TestServer::start().await;
    server.default_account().await;
    let uri = "/api/v1/namespaces/default";
    let label = |labels: Value| json!({"metadata": {"labels": labels}}).to_string();
    create(&server, PODS, pod("first")).await;
    seen(&server, &format!("{PODS}/first")).await;
    let patch = |labels: Value| {
        let body = label(labels);
        let request = http::Request::builder()
            .method(Method::PATCH)
            .uri(uri)
            .header("content-type", "application/merge-patch+json")
            .body(http_body_util::Full::new(body.into()))
            .unwrap();
        server.send(request)
    };
    let warnings = |headers: &http::HeaderMap| -> Vec<String> {
        headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let answer = patch(json!({"pod-security.kubernetes.io/enforce": "restrict"})).await;
    assert_eq!(answer.status(), 422);
    let answer = patch(json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(
        warnings(answer.headers()),
        [
            "299 - \"existing pods in namespace \\\"default\\\" violate the new PodSecurity enforce level \
             \\\"restricted:latest\\\"\"",
            "299 - \"first: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, \
             seccompProfile\"",
        ]
    );
    seen(&server, uri).await;
    let text = refused(&server, PODS, pod("second")).await;
    assert!(
        text.starts_with(
            "pods \"second\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false \
             (container \"main\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities"
        ),
        "{text}"
    );
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod("x")["spec"]});
    let deployment =
        json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template}});
    let request = http::Request::builder()
        .method(Method::POST)
        .uri("/apis/apps/v1/namespaces/default/deployments")
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(deployment.to_string().into()))
        .unwrap();
    let answer = server.send(request).await;
    assert_eq!(answer.status(), 201);
    let told = warnings(answer.headers());
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("would violate PodSecurity \\\"restricted:latest\\\": "), "{told:?}");
    // What does not make a pod less secure goes through.
    let patch = json!({"metadata": {"labels": {"new": "label"}}}).to_string();
    let (code, answer) =
        server.raw(Method::PATCH, &format!("{PODS}/first"), "application/merge-patch+json", patch).await;
    assert_eq!(code, 200, "{answer}");
}
