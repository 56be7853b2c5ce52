//! CustomResourceDefinitions themselves: defaults, what a caller may set, validation.

mod conversion;
mod schema;
mod selectable;
mod structural;
mod validate;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionCondition,
        CustomResourceDefinitionStatus, CustomResourceDefinitionVersion,
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

pub use validate::{validate, validate_update};

/// The finalizer that keeps a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Fills in what upstream fills in.
pub fn default(crd: &mut CustomResourceDefinition) {
    let names = &mut crd.spec.names;
    if names.singular.as_deref().unwrap_or_default().is_empty() {
        names.singular = Some(names.kind.to_lowercase());
    }
    if names.list_kind.as_deref().unwrap_or_default().is_empty() && !names.kind.is_empty() {
        names.list_kind = Some(format!("{}List", names.kind));
    }
    let conversion = crd.spec.conversion.get_or_insert_with(|| CustomResourceConversion {
        strategy: "None".to_owned(),
        ..CustomResourceConversion::default()
    });
    if let Some(service) = conversion
        .webhook
        .as_mut()
        .and_then(|webhook| webhook.client_config.as_mut())
        .and_then(|client| client.service.as_mut())
    {
        service.port.get_or_insert(443);
    }
    // `false` is what is understood when nothing is said.
    crd.spec.preserve_unknown_fields = crd.spec.preserve_unknown_fields.filter(|preserve| *preserve);
}

/// Prepares a new definition: its status is the server's.
pub fn prepare_for_create(crd: &mut CustomResourceDefinition) {
    crd.status = None;
    note_storage_version(crd);
}

/// Prepares an update of a definition.
pub fn prepare_for_update(crd: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
    crd.status.clone_from(&old.status);
    note_storage_version(crd);
}

/// Prepares an update of the status alone.
pub fn prepare_for_status_update(crd: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
    let resource_version = crd.metadata.resource_version.take();
    let managed_fields = crd.metadata.managed_fields.take();
    crd.spec = old.spec.clone();
    crd.metadata = old.metadata.clone();
    crd.metadata.resource_version = resource_version;
    crd.metadata.managed_fields = managed_fields;
}

/// Adds the storage version to those that objects may be stored in.
fn note_storage_version(crd: &mut CustomResourceDefinition) {
    let Some(storage) = storage_version(crd).map(|version| version.name.clone()) else { return };
    let status = crd.status.get_or_insert_with(CustomResourceDefinitionStatus::default);
    let stored = status.stored_versions.get_or_insert_default();
    if !stored.contains(&storage) {
        stored.push(storage);
    }
}

/// The version objects are written in.
pub fn storage_version(crd: &CustomResourceDefinition) -> Option<&CustomResourceDefinitionVersion> {
    crd.spec.versions.iter().find(|version| version.storage)
}

/// Whether the condition `kind` is true.
pub fn is_true(crd: &CustomResourceDefinition, kind: &str) -> bool {
    condition(crd, kind).is_some_and(|condition| condition.status == "True")
}

/// The condition `kind`.
pub fn condition<'a>(crd: &'a CustomResourceDefinition, kind: &str) -> Option<&'a CustomResourceDefinitionCondition> {
    crd.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Sets a condition. Its time changes with its status only.
pub fn set_condition(
    crd: &mut CustomResourceDefinition,
    (kind, holds, reason, message): (&str, bool, &str, &str),
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let new = CustomResourceDefinitionCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        ..CustomResourceDefinitionCondition::default()
    };
    let all = crd.status.get_or_insert_default().conditions.get_or_insert_default();
    match all.iter_mut().find(|condition| condition.type_ == kind) {
        None => all.push(new),
        Some(old) if old.status == status => {
            *old = CustomResourceDefinitionCondition { last_transition_time: old.last_transition_time.clone(), ..new };
        }
        Some(old) => *old = new,
    }
}

/// Marks a definition whose deletion begins: its objects have to go first.
pub fn prepare_for_deletion(crd: &mut CustomResourceDefinition) {
    let finalizers = crd.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == CLEANUP_FINALIZER) {
        finalizers.push(CLEANUP_FINALIZER.to_owned());
    }
    let now = crd.metadata.deletion_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(crd, ("Terminating", true, "InstanceDeletionPending", message), now);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use skep_api::field::Error;

    use super::*;

    fn crd(change: impl FnOnce(&mut Value)) -> CustomResourceDefinition {
        let mut value = json!({
            "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {
                "group": "stable.example.com",
                "names": {"kind": "CronTab", "plural": "crontabs"},
                "scope": "Namespaced",
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}},
                }],
            },
        });
        change(&mut value);
        value["apiVersion"] = "apiextensions.k8s.io/v1".into();
        value["kind"] = "CustomResourceDefinition".into();
        let mut crd = serde_json::from_value(value).unwrap();
        default(&mut crd);
        prepare_for_create(&mut crd);
        crd
    }

    fn complaints(change: impl FnOnce(&mut Value)) -> Vec<String> {
        validate(&crd(change)).iter().map(Error::to_string).collect()
    }

    #[test]
    fn names_and_conversion_are_filled_in() {
        let crd = crd(|_| {});
        assert_eq!(crd.spec.names.singular.as_deref(), Some("crontab"));
        assert_eq!(crd.spec.names.list_kind.as_deref(), Some("CronTabList"));
        assert_eq!(crd.spec.conversion.as_ref().unwrap().strategy, "None");
        assert_eq!(crd.status.as_ref().unwrap().stored_versions.as_deref(), Some(&["v1".to_owned()][..]));
        assert_eq!(validate(&crd), []);
    }

    #[test]
    fn bad_definitions_are_refused_in_upstreams_words() {
        const SCHEMA: &str = "spec.validation.openAPIV3Schema";
        let at = |path: &str, value: Value| {
            let path = path.to_owned();
            complaints(move |crd| *crd.pointer_mut(&path).unwrap() = value)
        };
        let schema = |value: Value| at("/spec/versions/0/schema/openAPIV3Schema", value);
        let spec = |value: Value| schema(json!({"type": "object", "properties": {"spec": value}}));
        for (got, want) in [
            (
                at("/metadata/name", "x".into()),
                "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group".to_owned(),
            ),
            (
                at("/spec/scope", "x".into()),
                "spec.scope: Unsupported value: \"x\": supported values: \"Cluster\", \"Namespaced\"".to_owned(),
            ),
            (
                spec(json!({})),
                format!(
                    "{SCHEMA}.properties[spec].type: Required value: must not be empty for specified object fields"
                ),
            ),
            (
                spec(json!({"type": "array"})),
                format!("{SCHEMA}.properties[spec].items: Required value: must be specified"),
            ),
            (
                spec(json!({"type": "array", "items": {}})),
                format!(
                    "{SCHEMA}.properties[spec].items.type: Required value: must not be empty for specified array items"
                ),
            ),
            (
                schema(json!({"type": "string"})),
                format!("{SCHEMA}.type: Invalid value: \"string\": must be object at the root"),
            ),
            (
                spec(json!({"type": "object", "$ref": "x"})),
                format!("{SCHEMA}.properties[spec].$ref: Forbidden: $ref is not supported"),
            ),
            (
                spec(json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true})),
                format!(
                    "{SCHEMA}.properties[spec].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
                ),
            ),
            (
                spec(
                    json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
                ),
                format!(
                    "{SCHEMA}.properties[spec].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive"
                ),
            ),
            (
                spec(json!({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"})),
                format!(
                    "{SCHEMA}.properties[spec].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map"
                ),
            ),
            (
                spec(json!({"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]})),
                format!(
                    "{SCHEMA}.properties[spec].properties[a]: Required value: because it is defined in {SCHEMA}.properties[spec].anyOf[0].properties[a]"
                ),
            ),
            (
                spec(json!({"type": "string", "anyOf": [{"type": "string"}]})),
                format!("{SCHEMA}.properties[spec].anyOf[0].type: Forbidden: must be empty to be structural"),
            ),
            (
                spec(json!({"type": "integer", "default": "a"})),
                format!(
                    "{SCHEMA}.properties[spec].default: Invalid value: \"string\": {SCHEMA}.properties[spec].default in body must be of type integer: \"string\""
                ),
            ),
            (
                spec(json!({"type": "object", "default": {"a": 1}})),
                format!("{SCHEMA}.properties[spec].default: Invalid value: {{\"a\":1}}: must not have unknown fields"),
            ),
            (
                spec(json!({"type": "object", "x-kubernetes-validations": [{"rule": " "}]})),
                format!(
                    "{SCHEMA}.properties[spec].x-kubernetes-validations[0].rule: Required value: rule is not specified"
                ),
            ),
        ] {
            assert_eq!(got, [want]);
        }
        let two = complaints(|crd| {
            let mut second = crd["spec"]["versions"][0].clone();
            second["name"] = "v2".into();
            crd["spec"]["versions"].as_array_mut().unwrap().push(second);
        });
        assert_eq!(two.len(), 2, "{two:?}");
        assert!(two[0].ends_with("must have exactly one version marked as storage version"), "{two:?}");
    }

    #[test]
    fn good_definitions_are_accepted() {
        for spec in [
            json!({"x-kubernetes-int-or-string": true}),
            json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}),
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            json!({"x-kubernetes-preserve-unknown-fields": true}),
            json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
            json!({"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
                   "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
            json!({"type": "object", "default": {}, "properties": {"a": {"type": "integer", "default": 1}}}),
        ] {
            let got = complaints(|crd| {
                crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec.clone();
            });
            assert_eq!(got, [""; 0], "{spec}");
        }
    }

    #[test]
    fn what_objects_are_stored_under_may_not_change() {
        let mut old = crd(|_| {});
        set_condition(&mut old, ("Established", true, "x", "y"), Timestamp::UNIX_EPOCH);
        old.metadata.resource_version = Some("1".to_owned());
        let mut new = old.clone();
        new.spec.scope = "Cluster".to_owned();
        new.spec.names.kind = "Other".to_owned();
        let texts: Vec<String> = validate_update(&new, &old).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.scope: Invalid value: \"Cluster\": field is immutable",
                "spec.names.kind: Invalid value: \"Other\": field is immutable"
            ]
        );
    }
}
