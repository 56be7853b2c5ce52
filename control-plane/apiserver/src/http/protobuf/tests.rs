use serde_json::json;

use super::*;

/// What kubectl 1.32 sends for `kubectl create configmap a --from-literal=x=y`.
const CONFIG_MAP: &[u8] = &[
    0x6b, 0x38, 0x73, 0x00, 0x0a, 0x0f, 0x0a, 0x02, 0x76, 0x31, 0x12, 0x09, 0x43, 0x6f, 0x6e, 0x66, 0x69, 0x67, 0x4d,
    0x61, 0x70, 0x12, 0x1b, 0x0a, 0x11, 0x0a, 0x01, 0x61, 0x12, 0x00, 0x1a, 0x00, 0x22, 0x00, 0x2a, 0x00, 0x32, 0x00,
    0x38, 0x00, 0x42, 0x00, 0x12, 0x06, 0x0a, 0x01, 0x78, 0x12, 0x01, 0x79, 0x1a, 0x00, 0x22, 0x00,
];

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn bytes(number: u64, value: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

fn int(number: u64, value: i64) -> Vec<u8> {
    [varint(number << 3), varint(value.cast_unsigned())].concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), bytes(1, &meta), bytes(2, raw)].concat()
}

#[test]
fn what_kubectl_sends_is_read() {
    assert_eq!(
        decode(CONFIG_MAP).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}})
    );
}

#[test]
fn every_shape_of_field_is_read() {
    let created = [int(1, 1_700_000_000), int(2, 0)].concat();
    let meta = [bytes(1, b"p"), bytes(8, &created)].concat();
    let limit = [bytes(1, b"cpu"), bytes(2, &bytes(1, b"100m"))].concat();
    let port = [int(1, 0), int(2, 8080), bytes(3, b"")].concat();
    let get = [bytes(1, b"/"), bytes(2, &port)].concat();
    let probe = [bytes(1, &bytes(2, &get)), int(2, 0), int(3, 5)].concat();
    let container = [bytes(1, b"c"), bytes(8, &bytes(1, &limit)), bytes(10, &probe), int(16, 0)].concat();
    let claim = [bytes(1, b"v"), bytes(2, &bytes(6, &bytes(1, b"s")))].concat();
    let spec = [bytes(1, &claim), bytes(2, &container), int(4, 0), int(5, -1), int(21, 0)].concat();
    let raw = [bytes(1, &meta), bytes(2, &spec), bytes(3, b"")].concat();
    assert_eq!(
        decode(&body("v1", "Pod", &raw)).unwrap(),
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "creationTimestamp": "2023-11-14T22:13:20Z"},
            "spec": {
                "volumes": [{"name": "v", "secret": {"secretName": "s"}}],
                "containers": [{
                    "name": "c",
                    "resources": {"limits": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": 8080}, "timeoutSeconds": 5},
                }],
                "terminationGracePeriodSeconds": 0,
                "activeDeadlineSeconds": -1,
                "automountServiceAccountToken": false,
            },
            "status": {},
        })
    );
}

#[test]
fn every_group_finds_its_messages() {
    for (version, kind) in [
        ("apps/v1", "Deployment"),
        ("v1", "DeleteOptions"),
        ("v1", "Binding"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("coordination.k8s.io/v1", "Lease"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("autoscaling/v1", "Scale"),
        ("policy/v1", "Eviction"),
        ("apps/v1", "DeleteOptions"),
    ] {
        assert!(message_name(version, kind).is_some(), "{version} {kind}");
    }
    assert!(decode(&body("v1", "Nonsense", &[])).is_err());
}

#[test]
fn every_message_named_in_the_table_is_in_it() {
    for (name, fields) in &*MESSAGES {
        for field in fields {
            if let Kind::Message(inner) = field.kind {
                assert!(MESSAGES.contains_key(inner), "{name}: {inner}");
            }
        }
    }
}

#[test]
fn no_bytes_make_it_panic() {
    for end in 0..CONFIG_MAP.len() {
        let _ = decode(&CONFIG_MAP[..end]);
    }
    for at in 0..CONFIG_MAP.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut changed = CONFIG_MAP.to_vec();
            changed[at] ^= flip;
            let _ = decode(&changed);
        }
    }
    let mut deep = Vec::new();
    for _ in 0..10_000 {
        deep = bytes(3, &deep);
    }
    let _ = decode(&body("v1", "Pod", &deep));
}
