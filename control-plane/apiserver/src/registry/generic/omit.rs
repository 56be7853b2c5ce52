//! Empty lists and maps that upstream's types leave out (`omitempty`): what a client sends as `env: []` is as if it had not
//! been sent, to owners of fields, defaults and validation, too.

use serde_json::Value;
use skep_schema::{Shape, Type};

/// Fields that are written though they are empty and not required: type and field.
const WRITTEN: &[(&str, &str)] = &[
    ("io.k8s.api.rbac.v1.Role", "rules"),
    ("io.k8s.api.rbac.v1.ClusterRole", "rules"),
    ("io.k8s.api.discovery.v1.EndpointSlice", "ports"),
    ("io.k8s.api.storage.v1.CSINodeDriver", "topologyKeys"),
    ("io.k8s.api.core.v1.ContainerImage", "names"),
    ("io.k8s.api.autoscaling.v2.HorizontalPodAutoscalerStatus", "currentMetrics"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", "conditions"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", "storedVersions"),
];

/// Whether there may be an empty list or object in a JSON document, besides those of sets of owned fields. Says yes where
/// it cannot tell; costs one pass and no memory.
pub(super) fn may_be_in(json: &[u8]) -> bool {
    let closes = |at: usize, close: u8| json[at + 1..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&close);
    (0..json.len()).any(|at| match json[at] {
        b'[' => closes(at, b']'),
        b'{' => closes(at, b'}') && !is_owned_field(&json[..at]),
        _ => false,
    })
}

/// Whether what stands before a value is the name of a member as sets of owned fields have it.
fn is_owned_field(before: &[u8]) -> bool {
    let Some(name) = before.trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end) else { return false };
    let Some(name) = name.strip_suffix(b"\"") else { return false };
    // A name may hold escaped quotes; its beginning is all that matters.
    let mut start = name.len();
    while start > 0 && (name[start - 1] != b'"' || (start > 1 && name[start - 2] == b'\\')) {
        start -= 1;
    }
    let name = &name[start..];
    name == b"." || [b"f:", b"k:", b"v:", b"i:"].iter().any(|mark| name.starts_with(*mark))
}

/// The same of a value.
pub(super) fn are_in(value: &Value) -> bool {
    match value {
        Value::Object(members) => {
            members.is_empty() || members.iter().any(|(name, value)| name != "managedFields" && are_in(value))
        }
        Value::Array(items) => items.is_empty() || items.iter().any(are_in),
        _ => false,
    }
}

/// Takes the empty lists and maps out of an object that upstream's type leaves out.
pub(super) fn omit(of: Type, object: &mut Value) {
    if let Value::Object(members) = object {
        members.retain(|name, value| !is_left_out(of, name, value));
        for (name, value) in members.iter_mut().filter(|(name, _)| *name != "managedFields") {
            if let Some(field) = of.field(name) {
                below(field.shape(), value);
            }
        }
    }
}

fn is_left_out(of: Type, name: &str, value: &Value) -> bool {
    let empty = match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => return false,
    };
    let omitted = |field: skep_schema::Field| {
        matches!(field.shape(), Shape::List(_) | Shape::Map(_))
            && !field.is_required()
            && !WRITTEN.contains(&(of.name(), name))
    };
    empty && of.field(name).is_some_and(omitted)
}

/// Looks below a value of some shape.
fn below(shape: Shape, value: &mut Value) {
    match (shape.resolved(), value) {
        (Shape::Ref(of), value @ Value::Object(_)) => omit(of, value),
        (Shape::List(item), Value::Array(items)) => items.iter_mut().for_each(|value| below(item.shape(), value)),
        (Shape::Map(item), Value::Object(members)) => {
            members.values_mut().for_each(|value| below(item.shape(), value));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn omitted(kind: (&str, &str, &str), mut object: Value) -> Value {
        omit(Type::of(kind.0, kind.1, kind.2).unwrap(), &mut object);
        object
    }

    #[test]
    fn what_upstream_omits_goes_and_what_it_writes_stays() {
        let pod = json!({
            "metadata": {"labels": {}, "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {
                "nodeSelector": {}, "tolerations": [], "securityContext": {},
                "volumes": [{"name": "a", "emptyDir": {}}],
                "containers": [{"name": "a", "env": [], "resources": {"limits": {}}, "command": [""]}],
                "initContainers": [],
            },
        });
        let left = json!({
            "metadata": {"managedFields": [{"fieldsV1": {"f:spec": {}}}]},
            "spec": {
                "securityContext": {},
                "volumes": [{"name": "a", "emptyDir": {}}],
                "containers": [{"name": "a", "resources": {}, "command": [""]}],
            },
        });
        assert_eq!(omitted(("", "v1", "Pod"), pod), left);
        // Required lists, and lists upstream writes.
        let role = json!({"rules": [{"verbs": [], "resources": []}]});
        assert_eq!(omitted(("rbac.authorization.k8s.io", "v1", "Role"), role), json!({"rules": [{"verbs": []}]}));
        let role = json!({"rules": []});
        assert_eq!(omitted(("rbac.authorization.k8s.io", "v1", "Role"), role.clone()), role);
        // A subresource is there by being named; values of any type are nobody's business.
        let version = json!({"spec": {"versions": [{
            "name": "v1", "subresources": {"status": {}}, "additionalPrinterColumns": [],
            "schema": {"openAPIV3Schema": {"required": [], "properties": {"a": {}, "required": {"enum": []}}, "default": {"x": []}}},
        }]}});
        let left = json!({"spec": {"versions": [{
            "name": "v1", "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"properties": {"a": {}, "required": {}}, "default": {"x": []}}},
        }]}});
        assert_eq!(omitted(("apiextensions.k8s.io", "v1", "CustomResourceDefinition"), version), left);
        let quota = json!({"apiVersion": 1, "data": "not a map", "metadata": []});
        assert_eq!(omitted(("", "v1", "ConfigMap"), quota.clone()), quota);
    }

    #[test]
    fn only_what_may_be_empty_is_looked_into() {
        for (json, expected) in [
            (r#"{"env":[]}"#, true),
            ("{\"env\": [ \n ]}", true),
            (r#"{"labels":{ }}"#, true),
            (r#"{"env":[1],"a":{"b":1}}"#, false),
            (r#"{"f:spec":{"f:a" : {},"k:{\"name\":\"x\"}":{".":{}},"v:1":{}}}"#, false),
            ("{}", true),
            ("[", false),
            ("", false),
        ] {
            assert_eq!(may_be_in(json.as_bytes()), expected, "{json}");
        }
        assert!(are_in(&json!({"a": [{"b": {}}]})));
        assert!(!are_in(&json!({"a": [1], "managedFields": [{"fieldsV1": {}}]})));
    }
}
