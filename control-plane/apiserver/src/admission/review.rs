//! A request as webhooks and expressions see it: `AdmissionRequest` of `admission.k8s.io/v1`.

use serde_json::{Map, Value, json};

use super::{
    Attributes,
    matching::{Match, name_of, namespace_of},
};
use crate::registry::object::Object;

/// All of it but the objects.
pub(super) fn request(attributes: &Attributes<'_>, object: Option<&dyn Object>, matched: &Match) -> Map<String, Value> {
    let asked_kind = attributes.kind();
    let info = attributes.info;
    let asked = (&*info.group, &*info.version);
    let (kind, resource) = match matched {
        Match::As { group, version } => ((group.as_str(), version.as_str(), asked_kind.2), (&**group, &**version)),
        _ => (asked_kind, asked),
    };
    let kind_json =
        |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let resource_json =
        |(group, version): (&str, &str)| json!({"group": group, "version": version, "resource": info.plural});
    let mut out = Map::new();
    out.insert("kind".to_owned(), kind_json(kind));
    out.insert("resource".to_owned(), resource_json(resource));
    let mut text = |key: &str, value: &str| {
        if !value.is_empty() {
            out.insert(key.to_owned(), value.into());
        }
    };
    text("subResource", attributes.subresource);
    text("requestSubResource", attributes.subresource);
    text("name", name_of(attributes, object));
    text("namespace", namespace_of(attributes));
    text("operation", attributes.operation.as_str());
    out.insert("requestKind".to_owned(), kind_json(asked_kind));
    out.insert("requestResource".to_owned(), resource_json(asked));
    out.insert("userInfo".to_owned(), user(attributes));
    out.insert("dryRun".to_owned(), attributes.scope.dry_run.into());
    out.insert("options".to_owned(), attributes.options().unwrap_or(Value::Null));
    out
}

fn user(attributes: &Attributes<'_>) -> Value {
    let user = attributes.scope.user;
    let mut out = Map::new();
    out.insert("username".to_owned(), user.name.as_str().into());
    if !user.uid.is_empty() {
        out.insert("uid".to_owned(), user.uid.as_str().into());
    }
    if !user.groups.is_empty() {
        out.insert("groups".to_owned(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        out.insert("extra".to_owned(), json!(user.extra));
    }
    Value::Object(out)
}
