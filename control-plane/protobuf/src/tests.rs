use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod full;

fn round_trip(object: Value) {
    let (meta, back) = decode(&encode(&object).unwrap()).unwrap();
    assert_eq!(back, object);
    assert_eq!(meta.kind, object["kind"]);
    assert_eq!(meta.api_version, object["apiVersion"]);
}

/// An envelope around bytes.
fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    wire::put_bytes(&mut meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    wire::put_bytes(&mut out, 1, &meta);
    wire::put_bytes(&mut out, 2, raw);
    out
}

#[test]
fn bytes_are_the_ones_a_go_client_writes() {
    // metadata{name: "a"}, data{"k": "v"}
    let raw = b"\x0a\x03\x0a\x01a\x12\x06\x0a\x01k\x12\x01v";
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    let bytes = encode(&object).unwrap();
    let expected = [envelope("v1", "ConfigMap", raw), b"\x1a\0\x22\0".to_vec()].concat();
    assert_eq!(bytes, expected);
    assert_eq!(decode(&bytes).unwrap().1, object);
}

#[test]
fn what_go_leaves_out_is_left_out_and_pointers_stay() {
    // A Service whose type (4) is "", sessionAffinity (7) "", publishNotReadyAddresses (13) false, a port with
    // nodePort (5) 0, targetPort (4) 0, port (3) 0, appProtocol (6) a pointer to "".
    let port = b"\x0a\0\x12\0\x18\0\x22\x06\x08\0\x10\0\x1a\0\x28\0\x32\0";
    let spec = [b"\x0a\x12".as_slice(), port, b"\x22\0\x3a\0\x68\0"].concat();
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 1, b"\x0a\x01a\x12\0\x1a\0\x42\0\x50\0");
    wire::put_bytes(&mut raw, 2, &spec);
    let (_, object) = decode(&envelope("v1", "Service", &raw)).unwrap();
    assert_eq!(
        object,
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "deletionGracePeriodSeconds": 0},
            "spec": {"ports": [{"port": 0, "appProtocol": ""}]}
        })
    );
    // Deployment.spec.replicas (1) and revisionHistoryLimit (6) are pointers, minReadySeconds (5) is not.
    let (_, object) = decode(&envelope("apps/v1", "Deployment", b"\x12\x06\x08\0\x28\0\x30\0")).unwrap();
    assert_eq!(object["spec"], json!({"replicas": 0, "revisionHistoryLimit": 0}));
}

#[test]
fn numbers_may_be_negative_large_or_packed() {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "generation": i64::MAX},
        "spec": {
            "priority": -1, "activeDeadlineSeconds": i64::MIN,
            "securityContext": {"runAsUser": 0, "supplementalGroups": [0, 1, -1]},
        },
    });
    round_trip(object.clone());
    // supplementalGroups (4) packed
    let context = b"\x22\x03\x01\x02\x03";
    let spec = [b"\x72\x05".as_slice(), context].concat();
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 2, &spec);
    let (_, object) = decode(&envelope("v1", "Pod", &raw)).unwrap();
    assert_eq!(object["spec"]["securityContext"]["supplementalGroups"], json!([1, 2, 3]));
}

#[test]
fn times_quantities_and_raw_json_keep_their_form() {
    round_trip(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "a", "creationTimestamp": "2026-01-02T03:04:05Z",
            "managedFields": [{"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {".": {}}}}],
        },
        "spec": {
            "containers": [{
                "name": "c", "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 3},
                "readinessProbe": {"tcpSocket": {"port": 80}},
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}],
            }],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "x", "defaultMode": 0}}],
        },
    }));
    round_trip(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"renewTime": "1969-12-31T23:59:59.123456Z", "leaseDurationSeconds": 0},
    }));
    round_trip(json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "l"}, "revision": 2,
        "data": {"spec": {"template": [1, 2.5, null, "x"]}},
    }));
    round_trip(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "AAH/", "b": ""},
    }));
    round_trip(json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
        "spec": {"user": "u", "extra": {"k": ["a", "b"]}}, "status": {"allowed": false},
    }));
}

#[test]
fn json_schemas_of_custom_resources_survive() {
    round_trip(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "a.b"},
        "spec": {
            "group": "b", "scope": "Namespaced", "names": {"plural": "a", "kind": "A"},
            "versions": [{"name": "v1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "a": {"type": "array", "items": {"type": "integer", "maximum": 3.5, "default": 1}},
                    "b": {"additionalProperties": {"type": "string"}, "enum": ["x", null]},
                    "c": {"additionalProperties": false, "$ref": "", "items": [{"type": "string"}]},
                },
            }}}],
        },
    }));
}

#[test]
fn options_have_the_version_of_any_group() {
    let object = json!({"kind": "DeleteOptions", "apiVersion": "apps/v1", "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"}, "propagationPolicy": "Foreground"});
    round_trip(object);
    round_trip(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404,
        "details": {"name": "x", "causes": [{"reason": "r", "field": "f"}]}}));
}

#[test]
fn a_watch_event_is_bare_and_its_object_in_an_envelope() {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}});
    let frame = watch_frame("ADDED", object.to_string().as_bytes()).unwrap();
    let inner = encode(&object).unwrap();
    assert_eq!(frame[..4], u32::try_from(frame.len() - 4).unwrap().to_be_bytes());
    assert_eq!(&frame[4..11], b"\x0a\x05ADDED");
    assert!(frame.ends_with(&inner));
    assert_eq!(frame[11], 0x12);
}

#[test]
fn unknown_fields_are_passed_over_and_wrong_wire_types_refused() {
    // 2000: a varint, a group with bytes in it, fixed64, fixed32; then metadata.
    let unknown = b"\x80\x7d\x05\x83\x7d\x0a\x01x\x84\x7d\x81\x7d12345678\x85\x7d1234\x0a\x03\x0a\x01a";
    let (_, object) = decode(&envelope("v1", "ConfigMap", unknown)).unwrap();
    assert_eq!(object["metadata"], json!({"name": "a"}));
    assert!(matches!(
        decode(&envelope("v1", "ConfigMap", b"\x08\x01")),
        Err(Error::WireType { field: "metadata", wire: 0 })
    ));
    assert!(matches!(decode(&envelope("v1", "Pod", b"\x84\x7d")), Err(Error::Tag(4))));
    assert!(matches!(decode(&envelope("v1", "Pod", b"\x83\x7d")), Err(Error::Truncated)));
    assert!(matches!(decode(&envelope("v1", "Pod", b"\x0a\x7f")), Err(Error::Truncated)));
    assert!(matches!(decode(&envelope("v1", "Pod", &[0xff; 11])), Err(Error::Overflow)));
}

#[test]
fn envelopes_must_name_a_known_kind() {
    assert!(matches!(decode(b"{}"), Err(Error::NoPrefix)));
    assert!(matches!(decode(&MAGIC), Err(Error::NoKind)));
    assert!(matches!(decode(&envelope("example.com/v1", "Shirt", b"")), Err(Error::UnknownKind { .. })));
    assert!(matches!(
        encode(&json!({"kind": "Shirt", "apiVersion": "example.com/v1"})),
        Err(Error::UnknownKind { .. })
    ));
    assert!(matches!(encode(&json!([])), Err(Error::NoKind)));
    let zipped = [MAGIC.as_slice(), b"\x1a\x04gzip"].concat();
    assert!(matches!(decode(&zipped), Err(Error::ContentEncoding(_))));
}

#[test]
fn depth_is_bounded_both_ways() {
    // JSON schemas nest: items (JSONSchemaPropsOrArray) of items ...
    let mut schema = json!({"type": "string"});
    for _ in 0..60 {
        schema = json!({"not": schema});
    }
    let crd = |schema: &Value| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {},
            "spec": {"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
    };
    assert!(encode(&crd(&schema)).is_ok());
    let mut nested: Vec<u8> = Vec::new();
    for _ in 0..5000 {
        let mut outer = Vec::new();
        // JSONSchemaProps.not is field 26
        wire::put_bytes(&mut outer, 26, &nested);
        nested = outer;
    }
    for number in [1, 4, 7, 2] {
        let mut outer = Vec::new();
        wire::put_bytes(&mut outer, number, &nested);
        nested = outer;
    }
    assert!(matches!(
        decode(&envelope("apiextensions.k8s.io/v1", "CustomResourceDefinition", &nested)),
        Err(Error::TooDeep)
    ));
    for _ in 0..50 {
        schema = json!({"not": schema});
    }
    assert!(matches!(encode(&crd(&schema)), Err(Error::TooDeep)));
}

#[test]
fn a_bad_value_names_its_field() {
    let bad = |spec: Value| encode(&json!({"apiVersion": "v1", "kind": "Pod", "spec": spec})).unwrap_err().to_string();
    assert_eq!(bad(json!({"containers": {}})), "field \"containers\" must be a list");
    assert_eq!(bad(json!({"nodeName": 1})), "field \"nodeName\" must be a string");
    assert_eq!(bad(json!({"priority": 1i64 << 40})), "field \"priority\" must be a number of 32 bits");
    assert_eq!(bad(json!([])), "field \"spec\" must be an object");
}

fn sample() -> Vec<u8> {
    encode(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "a", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"a": "b"}},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": "i",
            "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
            "livenessProbe": {"httpGet": {"port": "x"}}}]}}},
    }))
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_the_decoder_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in prop::sample::select(vec![("v1", "Pod"), ("apps/v1", "Deployment"), ("v1", "List"),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition"), ("coordination.k8s.io/v1", "Lease")]),
    ) {
        let _ = decode(&bytes);
        let _ = decode(&envelope(kind.0, kind.1, &bytes));
    }

    #[test]
    fn what_a_damaged_message_decodes_to_can_be_encoded(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode(&bytes[..cut.index(bytes.len())]);
        if let Ok((_, object)) = decode(&bytes) {
            let again = decode(&encode(&object).unwrap()).unwrap().1;
            prop_assert_eq!(again, object);
        }
    }

    #[test]
    fn durations_survive(nanos in any::<i64>()) {
        prop_assert_eq!(duration::parse(&duration::format(nanos)), Some(nanos));
    }
}
