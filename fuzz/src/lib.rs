//! One function for each parser that faces the network. It takes any bytes; it must not panic, overflow the stack or run
//! for long, and what is parsed must hold what the parser promises.
//!
//! libFuzzer drives them (`cargo +nightly fuzz run --features libfuzzer <function>`); the tests of this crate drive them
//! with mutations of good input, so that they are exercised wherever tests run.
#![forbid(unsafe_code)]

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::Name;
use http::{Method, Uri};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use parking_lot::RwLock;
use serde_json::Value;
use skep_api::continuation::ContinueToken;
use skep_api::field::Path;
use skep_api::patch::{self, json, merge};
use skep_api::request::Query;
use skep_api::selector::{FieldSelector, LabelSelector};
use skep_api::{Quantity, RequestInfo};
use skep_apply::reset::Ignored;
use skep_apply::{Apply, Managed, OneVersion, Set, Type, apply, strategic};
use skep_dns::{Forwarder, Handler, Index, Metrics, Step, Transport, Zone};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target with its name and examples of good input, to begin from.
pub const TARGETS: &[(&str, Target, &[&str])] = &[
    (
        "paths",
        paths,
        &[
            "/api/v1/namespaces/default/pods/p/log?follow=true&container=c",
            "/apis/apps/v1/watch/namespaces/n/deployments?labelSelector=a%3Db&resourceVersion=7&limit=500",
            "/api/v1/nodes?fieldSelector=metadata.name%3Da&continue=abc&timeoutSeconds=5&sendInitialEvents=true",
            "/api/v1/namespaces/n/services/https:s:80/proxy/a/%2e%2e/b?x=y",
            "/openapi/v3/apis/apps/v1?hash=0",
        ],
    ),
    (
        "selectors",
        selectors,
        &[
            "a=b,c!=d,e in (f,g),h notin (i),j,!k",
            "example.com/a==b, c in ()",
            "metadata.name=x,spec.nodeName!=y\\,z",
            "x>1,y<2",
        ],
    ),
    ("quantities", quantities, &["100m", "1.5Gi", "-12e6", "+.5", "9223372036854775807Ei", "1E-9", "0.000000001n"]),
    (
        "patches",
        patches,
        &[
            "{\"a\":{\"b\":[1,{\"c\":null}]}}\n{\"a\":{\"b\":null}}",
            "{\"metadata\":{\"finalizers\":[\"a\",\"b\"]},\"spec\":{\"containers\":[{\"name\":\"x\",\"image\":\"y\"}]}}\n{\"metadata\":{\"$deleteFromPrimitiveList/finalizers\":[\"a\"]},\"spec\":{\"$setElementOrder/containers\":[{\"name\":\"x\"}],\"containers\":[{\"$patch\":\"delete\",\"name\":\"x\"}],\"strategy\":{\"$retainKeys\":[\"type\"]}}}",
            "{\"a\":[1,2],\"b\":\"c\"}\n[{\"op\":\"test\",\"path\":\"/b\",\"value\":\"c\"},{\"op\":\"move\",\"from\":\"/a/0\",\"path\":\"/d~1\"},{\"op\":\"add\",\"path\":\"/a/-\",\"value\":{}},{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/a/0\"}]",
        ],
    ),
    ("protobuf", protobuf, &[]),
    (
        "names",
        names,
        &[
            "\u{1}\u{2}\u{1}\0\0\u{1}\0\0\0\0\0\0\u{3}web\u{2}ns\u{3}svc\u{7}cluster\u{5}local\0\0\u{1}\0\u{1}",
            "\u{1}\u{2}\u{1}\0\0\u{1}\0\0\0\0\0\u{1}\u{5}_http\u{4}_tcp\u{3}web\u{2}ns\u{3}svc\u{7}cluster\u{5}local\0\0\u{21}\0\u{1}\0\0\u{29}\u{4}\0\0\0\0\0\0\0",
            "\u{1}\u{2}\u{1}\0\0\u{1}\0\0\0\0\0\0\u{1}7\u{1}0\u{2}96\u{2}10\u{7}in-addr\u{4}arpa\0\0\u{c}\0\u{1}",
        ],
    ),
    (
        "continue_tokens",
        continue_tokens,
        &[
            "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6Nywic3RhcnQiOiJhL2JcdTAwMDAiLCJyZXN0IjozfQ",
            "{\"v\":\"meta.k8s.io/v1\",\"rv\":7,\"start\":\"default/a\\u0000\",\"rest\":3}",
        ],
    ),
    (
        "crd_schemas",
        crd_schemas,
        &[
            "{\"type\":\"object\",\"required\":[\"a\"],\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^[a-z]+$\",\"default\":\"x\",\"maxLength\":5},\"b\":{\"type\":\"array\",\"x-kubernetes-list-type\":\"map\",\"x-kubernetes-list-map-keys\":[\"k\"],\"items\":{\"type\":\"object\",\"properties\":{\"k\":{\"type\":\"string\"},\"n\":{\"type\":\"number\",\"multipleOf\":0.1}}}},\"c\":{\"x-kubernetes-int-or-string\":true}}}\n{\"a\":\"abc\",\"b\":[{\"k\":\"1\",\"n\":0.3},{\"k\":\"1\"}],\"c\":7,\"d\":null}",
            "{\"x-kubernetes-preserve-unknown-fields\":true,\"anyOf\":[{\"type\":\"integer\"},{\"not\":{\"enum\":[1,\"a\",null]}}],\"nullable\":true}\n{\"e\":[[],{}]}",
            "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\",\"minimum\":1,\"exclusiveMinimum\":true,\"format\":\"int32\"}}\n{\"x\":1,\"y\":99999999999}",
        ],
    ),
    (
        "managed_fields",
        managed_fields,
        &[
            "{\"f:metadata\":{\"f:labels\":{\".\":{},\"f:a\":{}}},\"f:spec\":{\"f:containers\":{\"k:{\\\"name\\\":\\\"x\\\"}\":{\".\":{},\"f:image\":{}}},\"f:args\":{\"i:0\":{},\"v:\\\"x\\\"\":{}}}}",
        ],
    ),
];

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// Two JSON documents, a line each.
fn two(data: &[u8]) -> Option<(Value, Value)> {
    let end = data.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(&data[..end]).ok()?, serde_json::from_slice(&data[end + 1..]).ok()?))
}

/// Request paths and queries.
pub fn paths(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let _ = Query::parse(text);
    let Ok(uri) = text.parse::<Uri>() else { return };
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        if let Ok(info) = RequestInfo::parse(&method, &uri) {
            let names = [info.namespace.as_deref(), info.name.as_deref()];
            let clean = |name: &str| !name.contains(['/', '\0']) && name != "." && name != "..";
            assert!(names.into_iter().flatten().all(clean), "{info:?}");
        }
    }
}

/// Label and field selectors; what is printed means the same.
pub fn selectors(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        let again = LabelSelector::parse(&selector.to_string());
        assert!(again.is_ok_and(|again| again == selector), "{text:?} is printed as {selector}");
        let _ = selector.matches(|key| (key.len() > 2).then_some("a"));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        let again = FieldSelector::parse(&selector.to_string());
        assert!(again.is_ok_and(|again| again.terms() == selector.terms()), "{text:?} is printed as {selector}");
        let _ = selector.matches(|field| (field.len() > 2).then_some("a"));
    }
}

/// Quantities; their canonical form is the same amount, and canonical.
pub fn quantities(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(quantity) = Quantity::parse(text) else { return };
    let canonical = quantity.to_string();
    let again = Quantity::parse(&canonical);
    assert!(
        again.as_ref().is_ok_and(|again| again.to_string() == canonical),
        "{text:?}: {canonical} becomes {again:?}"
    );
    let _ = (quantity.value(), quantity.milli_value(), quantity.is_zero(), quantity.rounded_to_millis());
}

/// Server-side apply of `config` upon `live`; applied once more, it changes nothing.
fn applied(of: Type<'_>, live: &Value, config: &Value) {
    let request = Apply {
        of,
        api_version: "v1",
        kind: "Pod",
        live: Some(live),
        config,
        manager: "fuzz",
        subresource: "",
        force: true,
        ignored: Ignored::NOTHING,
        versions: &OneVersion,
        now: Timestamp::UNIX_EPOCH,
    };
    let mut managed = Managed::default();
    if let Ok(Some(object)) = apply(&request, &mut managed) {
        let again = apply(&Apply { live: Some(&object), ..request }, &mut managed);
        assert!(matches!(&again, Ok(None)), "{config} upon {live} gives {object}, and then {again:?}");
    }
}

/// JSON, merge, strategic merge patches and server-side apply: a document, and a patch in the next line.
pub fn patches(data: &[u8]) {
    if let Some(end) = data.iter().position(|byte| *byte == b'\n') {
        let _ = patch::parse(&data[end + 1..]);
    }
    let Some((document, change)) = two(data) else { return };
    if let Ok(merged) = merge::apply(document.clone(), &change) {
        // A merge patch says what shall be, so saying it twice changes nothing.
        assert_eq!(merge::apply(merged.clone(), &change).ok(), Some(merged));
    }
    let _ = json::apply(document.clone(), &change);
    for (group, kind) in [("", "Pod"), ("apps", "Deployment"), ("", "Service"), ("example.com", "Unknown")] {
        let of = Type::of_kind(group, "v1", kind);
        let _ = strategic::merge(of, document.clone(), &change);
        applied(of, &document, &change);
    }
}

/// Objects in protobuf; what is decoded can be encoded, and comes back.
pub fn protobuf(data: &[u8]) {
    let Ok((meta, object)) = skep_protobuf::decode(data) else { return };
    if let Ok(bytes) = skep_protobuf::encode(&object) {
        let again = skep_protobuf::decode(&bytes);
        assert!(again.is_ok(), "{meta:?} {object} is encoded as {bytes:?}, and that is {again:?}");
    }
}

/// Schemas of custom resources, with an object in the next line.
pub fn crd_schemas(data: &[u8]) {
    let Some((schema, mut object)) = two(data) else { return };
    let Ok(props) = serde_json::from_value::<JSONSchemaProps>(schema) else { return };
    let schema = skep_crd::Schema::new(&props);
    let mut dropped = Vec::new();
    skep_crd::prune::prune(&mut object, &schema, &mut dropped);
    let once = object.clone();
    skep_crd::prune::prune(&mut object, &schema, &mut dropped);
    assert_eq!(once, object, "pruned twice");
    skep_crd::default::default(&mut object, &schema);
    let path = Path::new("");
    let mut errors = skep_crd::validate(&object, &schema, &path);
    skep_crd::list_type::validate(&object, &schema, &path, &mut errors);
    skep_crd::embedded::validate(&object, &schema, &path, &mut errors);
}

/// Continue tokens; what is read is written the same, and stays within the list's scope.
pub fn continue_tokens(data: &[u8]) {
    let Some(text) = text(data) else { return };
    // Mutations of the text rarely stay base64, so the same bytes are tried as what is inside, too.
    for text in [text.to_owned(), URL_SAFE_NO_PAD.encode(text)] {
        let Ok(token) = ContinueToken::decode(&text) else { continue };
        assert!(!token.start.starts_with('/') && !token.start.split('/').any(|part| part == ".."), "{token:?}");
        assert!(token.revision > 0 || token.revision == -1, "{token:?}");
        let again = ContinueToken::decode(&token.encode());
        assert!(again.as_ref().is_ok_and(|again| *again == token), "{token:?} comes back as {again:?}");
    }
}

/// The field sets of managed fields; what is written means the same.
pub fn managed_fields(data: &[u8]) {
    let Ok(value) = serde_json::from_slice(data) else { return };
    if let Ok(set) = Set::from_fields_v1(&value) {
        let again = Set::from_fields_v1(&set.to_fields_v1());
        assert!(again.is_ok_and(|again| again.paths() == set.paths()), "{value} is written as {}", set.to_fields_v1());
    }
}

/// DNS questions: no answer is larger than what the peer takes, and each is one to this question.
pub fn names(data: &[u8]) {
    static HANDLER: LazyLock<Option<Handler>> = LazyLock::new(|| {
        let domain = Name::from_ascii("cluster.local").ok()?;
        let zone = Zone::new(domain, vec!["10.96.0.0/12".parse().ok()?], vec![[10, 96, 0, 10].into()]).ok()?;
        let mut index = Index::default();
        let service = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ns", "name": "web"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]},
        }));
        index.apply_service(&service.ok()?);
        index.complete();
        let index = Arc::new(RwLock::new(index));
        Some(Handler::new(zone, index, Forwarder::new(Vec::new()), Metrics::default()))
    });
    let Some(handler) = &*HANDLER else { panic!("the example is wrong") };
    for (transport, most) in [(Transport::Udp, 1232), (Transport::Tcp, usize::from(u16::MAX))] {
        if let Step::Reply(reply) = handler.begin(data, transport) {
            assert!(reply.len() <= most, "{} bytes", reply.len());
            assert_eq!(reply[..2], data[..2]);
            assert!(
                Message::from_vec(&reply).is_ok_and(|message| message.metadata.message_type == MessageType::Response)
            );
        }
    }
}
