use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};
use skep_api::field::{Error, Path};

use super::*;

fn spec(value: Value) -> PodSpec {
    let mut spec: PodSpec = serde_json::from_value(value).unwrap();
    set_defaults(&mut spec);
    spec
}

fn problems(value: Value) -> Vec<String> {
    validate_spec(&spec(value), &Path::new("spec")).iter().map(Error::to_string).collect()
}

/// A spec of one container with further fields.
fn with(container: Value) -> Value {
    let mut one = json!({"name": "c", "image": "i:1"});
    one.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({"containers": [one]})
}

#[test]
fn defaults_are_upstreams() {
    let got = serde_json::to_value(spec(json!({
        "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "0.5", "memory": "1024Mi"}},
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "livenessProbe": {"httpGet": {"port": 80}}}],
        "serviceAccount": "robot",
        "volumes": [{"name": "a"}, {"name": "b", "secret": {"secretName": "s"}}],
    })))
    .unwrap();
    assert_eq!(
        got,
        json!({
            "containers": [{
                "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "env": [{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "serviceAccount": "robot", "serviceAccountName": "robot",
            "terminationGracePeriodSeconds": 30,
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s", "defaultMode": 420}}],
        })
    );
}

#[test]
fn a_good_spec_has_no_problems() {
    let good = json!({
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2", "example.com/gpu": 1}},
            "readinessProbe": {"tcpSocket": {"port": "http"}},
            "securityContext": {"runAsUser": 1000}}],
        "initContainers": [{"name": "side", "image": "i", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["x"]}}}],
        "volumes": [{"name": "v", "configMap": {"name": "m"}}],
        "tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
    });
    assert_eq!(problems(good), [""; 0]);
}

#[test]
fn a_pod_needs_containers_with_names_and_images() {
    assert_eq!(problems(json!({"containers": []})), ["spec.containers: Required value"]);
    let found = problems(json!({"containers": [{"name": "", "image": ""}, {"name": "A", "image": " x"}]}));
    assert_eq!(found[0], "spec.containers[0].name: Required value");
    assert_eq!(found[1], "spec.containers[0].image: Required value");
    assert!(found[2].starts_with("spec.containers[1].name: Invalid value: \"A\": a lowercase RFC 1123 label"));
    assert!(found[3].ends_with("must not have leading or trailing whitespace"));
    assert_eq!(
        problems(json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]})),
        ["spec.containers[1].name: Duplicate value: \"a\""]
    );
}

#[test]
fn requests_stay_below_limits() {
    assert_eq!(
        problems(with(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}))),
        ["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"]
    );
    assert_eq!(
        problems(with(json!({"resources": {"limits": {"memory": "-1"}}}))),
        ["spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0"]
    );
}

#[test]
fn mounts_name_volumes_that_exist() {
    assert_eq!(
        problems(with(json!({"volumeMounts": [{"name": "nope", "mountPath": "/x"}]}))),
        ["spec.containers[0].volumeMounts[0].name: Not found: \"nope\""]
    );
    let mut both = with(json!({}));
    both["volumes"] = json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]);
    assert_eq!(problems(both), ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"]);
}

#[test]
fn probes_have_one_handler() {
    assert_eq!(
        problems(with(json!({"livenessProbe": {}}))),
        ["spec.containers[0].livenessProbe: Required value: must specify a handler type"]
    );
    assert_eq!(
        problems(with(
            json!({"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}, "successThreshold": 2}})
        )),
        [
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ]
    );
}

#[test]
fn policies_come_from_fixed_sets() {
    let mut value = with(json!({"imagePullPolicy": "Sometimes"}));
    value["restartPolicy"] = json!("Perhaps");
    value["dnsPolicy"] = json!("None");
    assert_eq!(
        problems(value),
        [
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
            "spec.restartPolicy: Unsupported value: \"Perhaps\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
        ]
    );
}

#[test]
fn tolerations_and_ports_make_sense() {
    let mut value = with(json!({"ports": [{"containerPort": 0}, {"containerPort": 70000, "protocol": "ICMP"}]}));
    value["tolerations"] =
        json!([{"key": "a", "operator": "Exists", "value": "b"}, {"key": "a", "tolerationSeconds": 3}]);
    let found = problems(value);
    for want in [
        "spec.containers[0].ports[0].containerPort: Required value",
        "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        "spec.containers[0].ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        "value must be empty when `operator` is 'Exists'",
        "spec.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
    ] {
        assert!(found.iter().any(|e| e.contains(want)), "{want} in {found:#?}");
    }
}

#[test]
fn environment_values_have_one_source() {
    let found = problems(with(json!({"env": [
        {"name": ""},
        {"name": "A", "valueFrom": {}},
        {"name": "B", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}},
        {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
    ]})));
    assert_eq!(found[0], "spec.containers[0].env[0].name: Required value");
    assert!(found[1].contains("must specify one of: `fieldRef`"));
    assert!(
        found[2]
            .starts_with("spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.nope\"")
    );
    assert!(found[3].ends_with("may not be specified when `value` is not empty"));
    assert_eq!(found.len(), 4);
}
