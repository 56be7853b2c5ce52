//! PersistentVolumeClaims, and what they share with PersistentVolumes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, TypedLocalObjectReference,
    TypedObjectReference,
};
use serde_json::{Value, json};
use skep_api::Quantity;
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use super::cell;
use super::checks::{self, canonical, or, text};
use super::strategy::{Column, Context, Strategy};
use super::table_info::info;

/// The strategy of claims.
#[derive(Debug)]
pub(crate) struct PersistentVolumeClaims;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Status", "string", "phase represents the current phase of PersistentVolumeClaim."),
    Column::new("Volume", "string", "volumeName is the binding reference to the PersistentVolume backing this claim."),
    Column::new("Capacity", "string", "capacity represents the actual resources of the underlying volume."),
    Column::new(
        "Access Modes",
        "string",
        "accessModes contains the actual access modes the volume backing the PVC has.",
    ),
    Column::new("StorageClass", "string", "StorageClass of the pvc"),
    Column::new("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc"),
    Column::AGE,
    Column::wide("VolumeMode", "string", "volumeMode defines what type of volume is required by the claim."),
];
/// What access modes there are.
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
/// An older way to name the storage class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

impl Strategy for PersistentVolumeClaims {
    type Object = PersistentVolumeClaim;

    fn info(&self) -> &'static ResourceInfo {
        info("", "persistentvolumeclaims")
    }

    fn prefix(&self) -> &'static str {
        "/registry/persistentvolumeclaims/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::at("name", vec!["metadata".into(), "name".into()])]
    }

    fn default(&self, claim: &mut PersistentVolumeClaim) {
        set_defaults(claim);
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, claim: &mut PersistentVolumeClaim) {
        claim.status = Some(PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..Default::default() });
        same_data_source(claim.spec.get_or_insert_default());
    }

    fn validate(&self, claim: &PersistentVolumeClaim) -> Errors {
        let empty = PersistentVolumeClaimSpec::default();
        validate_spec(claim.spec.as_ref().unwrap_or(&empty), &Path::new("spec"))
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, claim: &mut PersistentVolumeClaim, old: &PersistentVolumeClaim) {
        claim.status.clone_from(&old.status);
        same_data_source(claim.spec.get_or_insert_default());
    }

    fn validate_update(&self, claim: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Errors {
        let mut errors = Errors::new();
        let (new_spec, old_spec) = (claim.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        let path = Path::new("spec");
        let bound = old.status.as_ref().is_some_and(|s| text(&s.phase) == "Bound");
        let mut expected = old_spec.clone();
        // Binding sets the volume; the default class may come late.
        if text(&old_spec.volume_name).is_empty() {
            expected.volume_name.clone_from(&new_spec.volume_name);
        }
        if old_spec.storage_class_name.is_none() {
            expected.storage_class_name.clone_from(&new_spec.storage_class_name);
        }
        if bound {
            if let (Some(expected), Some(new)) = (&mut expected.resources, &new_spec.resources) {
                expected.requests.clone_from(&new.requests);
            }
            expected.volume_attributes_class_name.clone_from(&new_spec.volume_attributes_class_name);
        }
        if expected != new_spec {
            let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                       bound claims";
            errors.push(Error::forbidden(&path, why));
        }
        let (new_size, old_size) = (requested(&new_spec), requested(&old_spec));
        let capacity = old
            .status
            .as_ref()
            .and_then(|s| s.capacity.as_ref()?.get("storage").and_then(|q| Quantity::parse(&q.0).ok()));
        if let (Some(new), Some(old)) = (new_size, old_size)
            && new < old
            && capacity.is_none_or(|capacity| new <= capacity)
        {
            let why = "field can not be less than status.capacity";
            errors.push(Error::forbidden(&path.child("resources.requests.storage"), why));
        }
        errors
    }

    fn prepare_for_status_update(
        &self,
        _ctx: &Context<'_>,
        claim: &mut PersistentVolumeClaim,
        old: &PersistentVolumeClaim,
    ) {
        claim.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, claim: &PersistentVolumeClaim, _old: &PersistentVolumeClaim) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("status.capacity");
        for (name, quantity) in claim.status.iter().flat_map(|s| s.capacity.iter().flatten()) {
            checks::quantity(&mut errors, &path.key(name), quantity);
        }
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (claim.spec.clone().unwrap_or_default(), claim.status.clone().unwrap_or_default());
        let phase = if claim.metadata.deletion_timestamp.is_some() { "Terminating" } else { text(&status.phase) };
        let bound = !text(&spec.volume_name).is_empty();
        let capacity = status.capacity.as_ref().and_then(|c| c.get("storage")).map_or("0", |q| &q.0);
        let annotated = claim.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        vec![
            cell::name(&claim.metadata),
            json!(phase),
            cell::text(&spec.volume_name),
            json!(if bound { capacity } else { "" }),
            json!(if bound { short_modes(&status.access_modes) } else { String::new() }),
            json!(annotated.map_or(text(&spec.storage_class_name), String::as_str)),
            json!(spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>")),
            cell::age(&claim.metadata, now),
            json!(spec.volume_mode.as_deref().unwrap_or("<unset>")),
        ]
    }
}

/// The defaults of a claim, or of a StatefulSet's template for one.
pub(crate) fn set_defaults(claim: &mut PersistentVolumeClaim) {
    or(&mut claim.status.get_or_insert_default().phase, "Pending");
    let spec = claim.spec.get_or_insert_default();
    spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    if let Some(resources) = &mut spec.resources {
        canonical(&mut resources.limits);
        canonical(&mut resources.requests);
    }
    if let Some(status) = &mut claim.status {
        canonical(&mut status.capacity);
        canonical(&mut status.allocated_resources);
    }
}

/// `dataSource` and `dataSourceRef` say the same where either can say it.
fn same_data_source(spec: &mut PersistentVolumeClaimSpec) {
    match (&spec.data_source, &spec.data_source_ref) {
        (Some(source), None) => {
            spec.data_source_ref = Some(TypedObjectReference {
                api_group: source.api_group.clone(),
                kind: source.kind.clone(),
                name: source.name.clone(),
                namespace: None,
            });
        }
        (None, Some(source)) if text(&source.namespace).is_empty() => {
            // Only what the older field could ever name is shown in it.
            let older = (text(&source.api_group).is_empty() && source.kind == "PersistentVolumeClaim")
                || (text(&source.api_group) == "snapshot.storage.k8s.io" && source.kind == "VolumeSnapshot");
            if older {
                spec.data_source = Some(TypedLocalObjectReference {
                    api_group: source.api_group.clone(),
                    kind: source.kind.clone(),
                    name: source.name.clone(),
                });
            }
        }
        _ => {}
    }
}

fn requested(spec: &PersistentVolumeClaimSpec) -> Option<Quantity> {
    let quantity = spec.resources.as_ref()?.requests.as_ref()?.get("storage")?;
    Quantity::parse(&quantity.0).ok()
}

fn validate_spec(spec: &PersistentVolumeClaimSpec, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    validate_access_modes(&spec.access_modes, path, &mut errors);
    if let Some(selector) = &spec.selector {
        checks::selector(&mut errors, &path.child("selector"), selector);
    }
    let requests = path.child("resources.requests");
    let at = requests.key("storage");
    match spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get("storage")) {
        None => errors.push(Error::required(&path.child("resources[storage]"), "")),
        Some(quantity) => validate_size(&mut errors, &at, quantity),
    }
    validate_class(&spec.storage_class_name, path, &mut errors);
    validate_mode(&spec.volume_mode, path, &mut errors);
    if let Some(source) = &spec.data_source {
        let path = path.child("dataSource");
        checks::required(&mut errors, &path.child("name"), &source.name);
        checks::required(&mut errors, &path.child("kind"), &source.kind);
        if text(&source.api_group).is_empty() && source.kind != "PersistentVolumeClaim" {
            errors.push(Error::invalid(
                &path,
                &source.kind,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ));
        }
    }
    errors
}

// --- shared with volumes ---

/// A size that must be there and above zero.
pub(crate) fn validate_size(
    errors: &mut Errors,
    path: &Path<'_>,
    quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity,
) {
    match Quantity::parse(&quantity.0) {
        Ok(parsed) if parsed.is_negative() || parsed.is_zero() => {
            errors.push(Error::invalid(path, &quantity.0, "must be greater than zero"));
        }
        Ok(_) => {}
        Err(error) => errors.push(Error::invalid(path, &quantity.0, error.to_string())),
    }
}

pub(crate) fn validate_access_modes(modes: &Option<Vec<String>>, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("accessModes");
    let modes = modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.push(Error::required(&at, "at least 1 access mode is required"));
    }
    for mode in modes {
        if !ACCESS_MODES.contains(&mode.as_str()) {
            errors.push(Error::not_supported(&at, mode, &ACCESS_MODES));
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        errors.push(Error::forbidden(&at, "may not use ReadWriteOncePod with other access modes"));
    }
}

pub(crate) fn validate_class(class: &Option<String>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(class) = class.as_deref().filter(|class| !class.is_empty()) {
        checks::name(errors, &path.child("storageClassName"), class, name::dns1123_subdomain);
    }
}

pub(crate) fn validate_mode(mode: &Option<String>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.as_deref().filter(|mode| !VOLUME_MODES.contains(mode)) {
        errors.push(Error::not_supported(&path.child("volumeMode"), mode, &VOLUME_MODES));
    }
}

/// `RWO,ROX`.
pub(crate) fn short_modes(modes: &Option<Vec<String>>) -> String {
    let names =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |name: &str| modes.iter().flatten().any(|mode| mode == name);
    names.into_iter().filter(|(name, _)| has(name)).map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut claim = serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": spec})).unwrap();
        PersistentVolumeClaims.default(&mut claim);
        claim
    }

    #[test]
    fn a_claim_says_how_much_and_how() {
        let texts: Vec<_> = PersistentVolumeClaims.validate(&claim(json!({}))).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Required value"
            ]
        );
        let good = claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}));
        assert_eq!(PersistentVolumeClaims.validate(&good), []);
        assert_eq!(serde_json::to_value(&good).unwrap()["spec"]["resources"]["requests"]["storage"], "1Gi");
    }

    #[test]
    fn only_a_bound_claim_grows() {
        let spec = |size: &str| json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
        let (mut old, new) = (claim(spec("1Gi")), claim(spec("2Gi")));
        assert!(
            PersistentVolumeClaims.validate_update(&new, &old)[0].to_string().starts_with("spec: Forbidden: spec is")
        );
        old.status.as_mut().unwrap().phase = Some("Bound".to_owned());
        assert_eq!(PersistentVolumeClaims.validate_update(&new, &old), []);
        let smaller = claim(spec("1Mi"));
        assert_eq!(
            PersistentVolumeClaims.validate_update(&smaller, &old)[0].to_string(),
            "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"
        );
    }
}
