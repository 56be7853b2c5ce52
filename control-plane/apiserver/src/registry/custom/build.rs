//! From a definition to the registries of its versions.

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionVersion, JSONSchemaProps,
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use skep_api::resource::{ResourceInfo, Str, Strs, SubresourceInfo};
use skep_crd::{Columns, Rules, Schema, definition};
use skep_storage::{ResourceSchema, SelectableField, Storage};
use tokio_util::sync::CancellationToken;

use super::{
    conversion::{Converter, Sibling, Version},
    shown::Shown,
    strategy::{Coercion, CustomStrategy},
};
use crate::{admission::Admission, registry::generic::Registry};

const VERBS: [&str; 8] = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// Those of a resource whose definition is being deleted.
const LAST_VERBS: [&str; 5] = ["delete", "deletecollection", "get", "list", "watch"];
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];

/// The registries of one definition.
pub(super) struct Built {
    /// Those of the versions served.
    pub(super) served: Vec<Arc<Registry>>,
    /// That of the version stored.
    pub(super) stored: Arc<Registry>,
}

/// What registries are made with.
pub(super) struct Parts<'a> {
    pub(super) storage: &'a Storage,
    pub(super) admission: &'a Arc<Admission>,
    pub(super) converter: Option<Arc<dyn Converter>>,
    pub(super) ended: &'a CancellationToken,
    pub(super) shown: &'a Arc<Shown>,
}

/// Where the objects of a definition are stored.
pub(super) fn prefix(crd: &CustomResourceDefinition) -> String {
    format!("/registry/{}/{}/", crd.spec.group, crd.spec.names.plural)
}

/// Makes the registries of a definition; none if no version is stored.
pub(super) async fn build(
    crd: &CustomResourceDefinition,
    parts: Parts<'_>,
) -> Result<Option<Built>, skep_storage::Error> {
    let Some(storage_version) = definition::storage_version(crd) else { return Ok(None) };
    let mut fields: Vec<SelectableField> = Vec::new();
    for field in crd.spec.versions.iter().flat_map(selectable) {
        if !fields.contains(&field) {
            fields.push(field);
        }
    }
    let prefix = prefix(crd);
    let schema = ResourceSchema::new(prefix.as_str()).with_fields(fields);
    let cache = match parts.storage.resource(&prefix) {
        Some(cache) if cache.schema().fields.names().eq(schema.fields.names()) => cache,
        _ => parts.storage.add_resource(schema).await?,
    };
    let coercions: Vec<Arc<Coercion>> = crd.spec.versions.iter().map(|version| coercion(crd, version)).collect();
    let all = || crd.spec.versions.iter().zip(&coercions);
    let Some((_, storage)) = all().find(|(version, _)| version.storage) else { return Ok(None) };
    let siblings: Arc<[Sibling]> = crd.spec.versions.iter().map(|version| sibling(crd, version)).collect();
    let make = |version: &CustomResourceDefinitionVersion, coercion: &Arc<Coercion>| {
        let names = |name: &str| format!("{}/{name}", crd.spec.group);
        let selectable = selectable(version);
        let conversion = Version {
            served: names(&version.name),
            stored: names(&storage_version.name),
            coercion: Arc::clone(coercion),
            storage: Arc::clone(storage),
            identity: is_identity(crd, version),
            converter: parts.converter.clone(),
            siblings: Arc::clone(&siblings),
            selectable: selectable.iter().map(|field| field.name.to_string()).collect(),
            closed: is_closing(crd),
            deprecation: deprecation(crd, version),
            ended: parts.ended.clone(),
            shown: Arc::clone(parts.shown),
            number: parts.shown.number(),
        };
        let open_api = open_api(version);
        let rules = Rules::new(&coercion.schema, &open_api);
        let strategy = CustomStrategy {
            info: info(crd, version),
            prefix: prefix.clone(),
            coercion: Arc::clone(coercion),
            fields: field_type(&open_api),
            open_api,
            has_status: version.subresources.as_ref().is_some_and(|parts| parts.status.is_some()),
            scale: version.subresources.as_ref().and_then(|parts| parts.scale.clone()),
            columns: Columns::new(version.additional_printer_columns.as_deref().unwrap_or_default()),
            selectable,
            of_metadata: rules.is_some() || coercion.schema.properties.contains_key("metadata"),
            rules,
        };
        Arc::new(Registry {
            strategy: Box::new(strategy),
            version: None,
            conversion: Some(Arc::new(conversion)),
            cache: cache.clone(),
            storage: parts.storage.clone(),
            admission: Arc::clone(parts.admission),
        })
    };
    let served = all().filter(|(version, _)| version.served).map(|(version, coercion)| make(version, coercion));
    Ok(Some(Built { served: served.collect(), stored: make(storage_version, storage) }))
}

/// Whether its objects are being deleted.
pub(super) fn is_closing(crd: &CustomResourceDefinition) -> bool {
    crd.metadata.deletion_timestamp.is_some()
}

fn props(version: &CustomResourceDefinitionVersion) -> Option<&JSONSchemaProps> {
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

/// The schema as the definition writes it; null if there is none.
fn open_api(version: &CustomResourceDefinitionVersion) -> Value {
    props(version).and_then(|props| serde_json::to_value(props).ok()).unwrap_or_default()
}

fn field_type(open_api: &Value) -> skep_apply::Custom {
    skep_apply::Custom::of_resource(open_api.is_object().then_some(open_api))
}

fn sibling(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Sibling {
    let api_version = format!("{}/{}", crd.spec.group, version.name);
    Sibling { api_version, fields: field_type(&open_api(version)) }
}

fn coercion(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Arc<Coercion> {
    let schema = props(version).map(Schema::new).unwrap_or_default();
    let preserve = crd.spec.preserve_unknown_fields == Some(true);
    Arc::new(Coercion { schema, preserve })
}

/// Whether whatever is stored is shown as it is: there was never another version nor another schema.
fn is_identity(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> bool {
    let stored = crd.status.as_ref().and_then(|status| status.stored_versions.as_deref()).unwrap_or_default();
    version.storage && crd.metadata.generation == Some(1) && stored == [version.name.clone()]
}

fn deprecation(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Option<String> {
    if version.deprecated != Some(true) {
        return None;
    }
    let usual = || format!("{}/{} {} is deprecated", crd.spec.group, version.name, crd.spec.names.kind);
    Some(version.deprecation_warning.clone().unwrap_or_else(usual))
}

fn selectable(version: &CustomResourceDefinitionVersion) -> Vec<SelectableField> {
    let fields = version.selectable_fields.iter().flatten();
    let paths = fields.filter_map(|field| field.json_path.strip_prefix('.'));
    paths
        .map(|path| SelectableField::at(path.to_owned(), path.split('.').map(|name| name.to_owned().into()).collect()))
        .collect()
}

fn info(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> ResourceInfo {
    let accepted = crd.status.as_ref().and_then(|status| status.accepted_names.clone());
    let names: CustomResourceDefinitionNames = accepted.unwrap_or_else(|| crd.spec.names.clone());
    let list = |texts: Option<Vec<String>>| -> Strs { texts.unwrap_or_default().into_iter().map(Str::Owned).collect() };
    let fixed = |texts: &[&'static str]| -> Strs { texts.iter().copied().map(Str::Borrowed).collect() };
    let mut subresources = Vec::new();
    if let Some(parts) = &version.subresources {
        let own = SubresourceInfo {
            name: "status".into(),
            group: "".into(),
            version: "".into(),
            kind: names.kind.clone().into(),
            verbs: fixed(&PART_VERBS),
        };
        if parts.scale.is_some() {
            subresources.push(SubresourceInfo {
                name: "scale".into(),
                group: "autoscaling".into(),
                version: "v1".into(),
                kind: "Scale".into(),
                ..own.clone()
            });
        }
        if parts.status.is_some() {
            subresources.push(own);
        }
    }
    ResourceInfo {
        group: crd.spec.group.clone().into(),
        version: version.name.clone().into(),
        kind: names.kind.clone().into(),
        list_kind: names.list_kind.unwrap_or_default().into(),
        plural: crd.spec.names.plural.clone().into(),
        singular: names.singular.unwrap_or_default().into(),
        short_names: list(names.short_names),
        categories: list(names.categories),
        namespaced: crd.spec.scope == "Namespaced",
        verbs: if is_closing(crd) { fixed(&LAST_VERBS) } else { fixed(&VERBS) },
        subresources: subresources.into(),
    }
}

/// A fingerprint of what a definition asks for. Its generation says less: deletion raises it, too.
fn specification(crd: &CustomResourceDefinition) -> String {
    let json = serde_json::to_vec(&crd.spec).unwrap_or_default();
    Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a definition's registries depend on: while this stays, they stay.
pub(super) fn key(crd: &CustomResourceDefinition) -> Value {
    let status = crd.status.as_ref();
    serde_json::json!([
        crd.metadata.uid,
        specification(crd),
        is_closing(crd),
        status.and_then(|status| status.accepted_names.as_ref()),
        status.and_then(|status| status.stored_versions.as_ref()),
    ])
}
