use super::*;
use crate::schema::SelectableField;
use proptest::prelude::*;
use serde_json::Value;

fn fields() -> FieldExtractor {
    FieldExtractor::new([
        SelectableField::new("spec.nodeName"),
        SelectableField::new("spec.hostNetwork").or_default("false"),
        SelectableField::new("status.phase"),
        SelectableField::at("source", vec!["source".into(), "component".into()]).or_path("reportingComponent"),
    ])
}

fn object(json: &str) -> Object {
    Object::parse("/registry/pods/default/web".into(), "/registry/pods/".len(), json.as_bytes(), (42, 7), &fields())
        .unwrap()
}

#[test]
fn the_resource_version_becomes_metadatas_first_member() {
    let o = object(r#"{"kind":"Pod","metadata":{"name":"web"},"spec":{}}"#);
    assert_eq!(o.json(), &r#"{"kind":"Pod","metadata":{"resourceVersion":"42","name":"web"},"spec":{}}"#);
    assert_eq!(o.json_at(1234), r#"{"kind":"Pod","metadata":{"resourceVersion":"1234","name":"web"},"spec":{}}"#);
    assert_eq!((o.namespace(), o.name(), o.mod_revision(), o.create_revision()), (Some("default"), "web", 42, 7));
    let gone = o.deleted_at(100_000);
    assert_eq!(gone.json(), &r#"{"kind":"Pod","metadata":{"resourceVersion":"100000","name":"web"},"spec":{}}"#);
    assert_eq!(gone.json_at(5), o.json_at(5));
}

#[test]
fn an_empty_metadata_gets_no_comma() {
    for (stored, want) in [
        (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"42"}}"#),
        (r#"{"metadata": { } }"#, r#"{"metadata": {"resourceVersion":"42" } }"#),
    ] {
        assert_eq!(object(stored).json(), want);
    }
}

#[test]
fn a_resource_version_that_is_there_is_replaced_wherever_it_stands() {
    let o = object(r#"{"metadata":{"name":"a","resourceVersion" : "7" ,"uid":"u"}}"#);
    assert_eq!(o.json(), &r#"{"metadata":{"name":"a","resourceVersion" : "42" ,"uid":"u"}}"#);
    assert_eq!(o.uid(), "u");
    assert_eq!(object(r#"{"metadata":{"resourceVersion":null}}"#).json(), r#"{"metadata":{"resourceVersion":"42"}}"#);
}

#[test]
fn escaped_keys_are_seen_through() {
    let o = object(r#"{"\u006detadata":{"n\u0061me":"a"}}"#);
    assert_eq!(o.json(), &r#"{"\u006detadata":{"resourceVersion":"42","n\u0061me":"a"}}"#);
    let o = object(r#"{"metadata":{"resource\u0056ersion":"1"}}"#);
    assert_eq!(o.json(), &r#"{"metadata":{"resource\u0056ersion":"42"}}"#);
}

#[test]
fn labels_and_selectable_fields_fall_out_of_the_parse() {
    let o = object(
        r#"{"spec":{"containers":[{"nodeName":"no"}],"nodeName":"n1","hostNetwork":true},"status":[],"reportingComponent":"r",
            "metadata":{"labels":{"app":"w\u0065b","tier":""},"uid":"u-1","annotations":{"labels":"no"}}}"#,
    );
    assert_eq!(o.labels().iter().collect::<Vec<_>>(), [("app", "web"), ("tier", "")]);
    assert_eq!((o.label("app"), o.label("none")), (Some("web"), None));
    assert_eq!(o.field("spec.nodeName"), Some("n1"));
    assert_eq!(o.field("spec.hostNetwork"), Some("true"));
    assert_eq!(o.field("status.phase"), Some(""));
    assert_eq!(o.field("source"), Some("r"));
    assert_eq!(o.field("metadata.namespace"), Some("default"));
    assert_eq!(o.field("spec.unknown"), None);
    let o = object(r#"{"reportingComponent":"r","source":{"component":"c"},"metadata":{"labels":null}}"#);
    assert_eq!((o.field("source"), o.field("spec.hostNetwork")), (Some("c"), Some("false")));
    assert!(o.labels().is_empty());
}

#[test]
fn what_is_no_object_is_refused_not_guessed_at() {
    for bad in [
        "k8s\0\n\x12",
        "",
        "null",
        "[]",
        "{}",
        r#"{"metadata":null}"#,
        r#"{"metadata":{}"#,
        r#"{"metadata":{}} x"#,
        r#"{"metadata":{},"metadata":{}}"#,
        r#"{"metadata":{"resourceVersion":"1","resourceVersion":"2"}}"#,
    ] {
        let parsed = Object::parse("/registry/a/b".into(), 12, bad.as_bytes(), (1, 1), &fields());
        assert!(parsed.is_err(), "{bad}");
    }
    assert!(response_bytes(b"{}", 1).is_err());
    assert!(response_bytes(b"k8s\0", 1).is_err());
}

#[test]
fn response_bytes_stop_reading_after_metadata() {
    let bytes = response_bytes(br#"{"metadata":{"name":"a"},"spec":{"#, 9).unwrap();
    assert_eq!(bytes, r#"{"metadata":{"resourceVersion":"9","name":"a"},"spec":{"#);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z/.\\-]{0,8}", any::<String>(), Just("metadata".into()), Just("resourceVersion".into())]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(text(), inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Writes JSON in an odd layout: members in any order, whitespace anywhere, characters escaped at will.
fn write(value: &Value, odd: &mut impl FnMut() -> u8, out: &mut String) {
    let space = |odd: &mut dyn FnMut() -> u8, out: &mut String| out.push_str(["", "", " ", "\n\t"][odd() as usize % 4]);
    let string = |s: &str, odd: &mut dyn FnMut() -> u8, out: &mut String| {
        out.push('"');
        for c in s.chars() {
            if odd().is_multiple_of(8) || c < ' ' || c == '"' || c == '\\' {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                out.push(c);
            }
        }
        out.push('"');
    };
    space(odd, out);
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|_| odd());
            out.push('{');
            for (i, (key, value)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                space(odd, out);
                string(key, odd, out);
                space(odd, out);
                out.push(':');
                write(value, odd, out);
            }
            space(odd, out);
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, odd, out);
            }
            out.push(']');
        }
        Value::String(s) => string(s, odd, out),
        other => out.push_str(&other.to_string()),
    }
    space(odd, out);
}

proptest! {
    #[test]
    fn splicing_changes_the_resource_version_and_nothing_else(
        outer in prop::collection::hash_map(text(), value(), 0..4),
        metadata in prop::collection::hash_map(text(), value(), 0..4),
        labels in prop::collection::hash_map(text(), text(), 0..3),
        with_labels: bool,
        oddities in prop::collection::vec(any::<u8>(), 1..64),
        revision in 1..i64::MAX,
    ) {
        let mut metadata: serde_json::Map<_, _> = metadata.into_iter().collect();
        metadata.remove("labels");
        if with_labels {
            metadata.insert("labels".into(), labels.iter().map(|(k, v)| (k.clone(), Value::from(v.clone()))).collect());
        }
        let mut want: serde_json::Map<_, _> = outer.into_iter().collect();
        want.insert("metadata".into(), metadata.into());
        let mut want = Value::Object(want);
        let mut at = 0;
        let mut stored = String::new();
        write(&want, &mut || { at += 1; oddities[at % oddities.len()] }, &mut stored);

        let o = Object::parse("/registry/x/y".into(), 12, stored.as_bytes(), (revision, 1), &fields()).unwrap();
        want["metadata"]["resourceVersion"] = revision.to_string().into();
        prop_assert_eq!(&serde_json::from_slice::<Value>(o.json()).unwrap(), &want);
        prop_assert_eq!(&response_bytes(stored.as_bytes(), revision).unwrap(), o.json());
        want["metadata"]["resourceVersion"] = "3".into();
        prop_assert_eq!(&serde_json::from_slice::<Value>(&o.json_at(3)).unwrap(), &want);
        if with_labels {
            prop_assert_eq!(o.labels().iter().count(), labels.len());
            for (k, v) in &labels {
                prop_assert_eq!(o.label(k), Some(v.as_str()));
            }
        }
    }
}
