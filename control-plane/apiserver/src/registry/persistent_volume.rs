//! PersistentVolumes.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_storage::SelectableField;

use super::cell;
use super::checks::{canonical, or, text};
use super::persistent_volume_claim::{
    short_modes, validate_access_modes, validate_class, validate_mode, validate_size,
};
use super::strategy::{Column, Context, Strategy};
use super::table_info::info;

/// The strategy of volumes.
#[derive(Debug)]
pub(crate) struct PersistentVolumes;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Capacity", "string", "capacity is the description of the persistent volume's resources and capacity."),
    Column::new("Access Modes", "string", "accessModes contains all ways the volume can be mounted."),
    Column::new(
        "Reclaim Policy",
        "string",
        "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim.",
    ),
    Column::new(
        "Status",
        "string",
        "phase indicates if a volume is available, bound to a claim, or released by a claim.",
    ),
    Column::new(
        "Claim",
        "string",
        "claimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim.",
    ),
    Column::new("StorageClass", "string", "StorageClass of the pv"),
    Column::new("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv"),
    Column::new(
        "Reason",
        "string",
        "reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display \
         in the CLI.",
    ),
    Column::AGE,
    Column::wide(
        "VolumeMode",
        "string",
        "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block \
         state.",
    ),
];

impl Strategy for PersistentVolumes {
    type Object = PersistentVolume;

    fn info(&self) -> &'static ResourceInfo {
        info("", "persistentvolumes")
    }

    fn prefix(&self) -> &'static str {
        "/registry/persistentvolumes/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![SelectableField::at("name", vec!["metadata".into(), "name".into()])]
    }

    fn default(&self, volume: &mut PersistentVolume) {
        or(&mut volume.status.get_or_insert_default().phase, "Pending");
        let spec = volume.spec.get_or_insert_default();
        or(&mut spec.persistent_volume_reclaim_policy, "Retain");
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        canonical(&mut spec.capacity);
        if let Some(host_path) = &mut spec.host_path {
            host_path.type_.get_or_insert_default();
        }
        if let Some(disk) = &mut spec.azure_disk {
            or(&mut disk.caching_mode, "ReadWrite");
            or(&mut disk.kind, "Shared");
            or(&mut disk.fs_type, "ext4");
            disk.read_only.get_or_insert(false);
        }
        if let Some(rbd) = &mut spec.rbd {
            or(&mut rbd.pool, "rbd");
            or(&mut rbd.user, "admin");
            or(&mut rbd.keyring, "/etc/ceph/keyring");
        }
        if let Some(iscsi) = &mut spec.iscsi {
            or(&mut iscsi.iscsi_interface, "default");
        }
        if let Some(scale_io) = &mut spec.scale_io {
            or(&mut scale_io.storage_mode, "ThinProvisioned");
            or(&mut scale_io.fs_type, "xfs");
        }
    }

    fn prepare_for_create(&self, ctx: &Context<'_>, volume: &mut PersistentVolume) {
        volume.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            last_phase_transition_time: Some(Time(ctx.now)),
            ..Default::default()
        });
    }

    fn validate(&self, volume: &PersistentVolume) -> Errors {
        let empty = PersistentVolumeSpec::default();
        validate_spec(volume.spec.as_ref().unwrap_or(&empty), &Path::new("spec"))
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, volume: &mut PersistentVolume, old: &PersistentVolume) {
        volume.status.clone_from(&old.status);
    }

    fn validate_update(&self, volume: &PersistentVolume, old: &PersistentVolume) -> Errors {
        let mut errors = Errors::new();
        let empty = PersistentVolumeSpec::default();
        let (new, old) = (volume.spec.as_ref().unwrap_or(&empty), old.spec.as_ref().unwrap_or(&empty));
        if sources(new) != sources(old) {
            let why = "spec.persistentvolumesource is immutable after creation";
            errors.push(Error::forbidden(&Path::new("spec.persistentvolumesource"), why));
        }
        super::checks::immutable(&mut errors, &Path::new("volumeMode"), &new.volume_mode, &old.volume_mode);
        if old.node_affinity.is_some() && new.node_affinity != old.node_affinity {
            let why = "field is immutable, except for updating from beta label to GA";
            errors.push(Error::invalid(&Path::new("nodeAffinity"), &new.node_affinity, why));
        }
        errors
    }

    fn prepare_for_status_update(&self, ctx: &Context<'_>, volume: &mut PersistentVolume, old: &PersistentVolume) {
        volume.spec.clone_from(&old.spec);
        let before = old.status.as_ref();
        let status = volume.status.get_or_insert_default();
        if before.is_none_or(|before| before.phase != status.phase) {
            let unset = status.last_phase_transition_time == before.and_then(|b| b.last_phase_transition_time.clone());
            if unset || status.last_phase_transition_time.is_none() {
                status.last_phase_transition_time = Some(Time(ctx.now));
            }
        } else if status.last_phase_transition_time.is_none() {
            status.last_phase_transition_time = before.and_then(|b| b.last_phase_transition_time.clone());
        }
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, volume: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (volume.spec.clone().unwrap_or_default(), volume.status.clone().unwrap_or_default());
        let phase = if volume.metadata.deletion_timestamp.is_some() { "Terminating" } else { text(&status.phase) };
        let claim = spec.claim_ref.as_ref().map(|c| format!("{}/{}", text(&c.namespace), text(&c.name)));
        vec![
            cell::name(&volume.metadata),
            json!(spec.capacity.as_ref().and_then(|c| c.get("storage")).map_or("0", |q| &q.0)),
            json!(short_modes(&spec.access_modes)),
            cell::text(&spec.persistent_volume_reclaim_policy),
            json!(phase),
            json!(claim.unwrap_or_default()),
            cell::text(&spec.storage_class_name),
            json!(spec.volume_attributes_class_name.as_deref().unwrap_or("<unset>")),
            cell::text(&status.reason),
            cell::age(&volume.metadata, now),
            json!(spec.volume_mode.as_deref().unwrap_or("<unset>")),
        ]
    }
}

/// What the volume is, by the name of its field. There should be one.
fn sources(spec: &PersistentVolumeSpec) -> Vec<(String, Value)> {
    const NOT_SOURCES: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => {
            fields.into_iter().filter(|(name, _)| !NOT_SOURCES.contains(&name.as_str())).collect()
        }
        _ => Vec::new(),
    }
}

fn validate_spec(spec: &PersistentVolumeSpec, path: &Path<'_>) -> Errors {
    let mut errors = Errors::new();
    validate_access_modes(&spec.access_modes, path, &mut errors);
    let at = path.child("capacity");
    match spec.capacity.as_ref().filter(|c| !c.is_empty()) {
        None => errors.push(Error::required(&at, "")),
        Some(capacity) => {
            if capacity.len() > 1 || !capacity.contains_key("storage") {
                errors.push(Error::not_supported(&at, capacity, &["storage"]));
            }
            for (name, quantity) in capacity {
                validate_size(&mut errors, &at.key(name), quantity);
            }
        }
    }
    if let Some(policy) = spec.persistent_volume_reclaim_policy.as_deref() {
        let policies = ["Delete", "Recycle", "Retain"];
        if !policies.contains(&policy) {
            errors.push(Error::not_supported(&path.child("persistentVolumeReclaimPolicy"), policy, &policies));
        }
    }
    let sources = sources(spec);
    if sources.is_empty() {
        errors.push(Error::required(path, "must specify a volume type"));
    }
    for (name, _) in sources.iter().skip(1) {
        errors.push(Error::forbidden(&path.child(name), "may not specify more than 1 volume type"));
    }
    if let Some(host_path) = &spec.host_path {
        let at = path.child("hostPath.path");
        if host_path.path.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if host_path.path.split('/').any(|part| part == "..") {
            errors.push(Error::invalid(&at, &host_path.path, "must not contain '..'"));
        }
        if host_path.path == "/" && text(&spec.persistent_volume_reclaim_policy) == "Recycle" {
            let at = path.child("persistentVolumeReclaimPolicy");
            errors.push(Error::forbidden(&at, "may not be 'recycle' for a hostPath mount of '/'"));
        }
    }
    if let Some(local) = &spec.local {
        if local.path.is_empty() {
            errors.push(Error::required(&path.child("local.path"), ""));
        }
        if spec.node_affinity.is_none() {
            errors.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    if let Some(csi) = &spec.csi {
        for (field, value) in [("driver", &csi.driver), ("volumeHandle", &csi.volume_handle)] {
            super::checks::required(&mut errors, &path.child("csi").child(field), value);
        }
    }
    if let Some(nfs) = &spec.nfs {
        let at = path.child("nfs");
        super::checks::required(&mut errors, &at.child("server"), &nfs.server);
        super::checks::required(&mut errors, &at.child("path"), &nfs.path);
        if !nfs.path.is_empty() && !nfs.path.starts_with('/') {
            errors.push(Error::invalid(&at.child("path"), &nfs.path, "must be an absolute path"));
        }
    }
    if let Some(affinity) = &spec.node_affinity {
        let at = path.child("nodeAffinity.required");
        match &affinity.required {
            None => errors.push(Error::required(&at, "must specify required node constraints")),
            Some(required) if required.node_selector_terms.is_empty() => {
                let why = "must have at least one node selector term";
                errors.push(Error::required(&at.child("nodeSelectorTerms"), why));
            }
            Some(_) => {}
        }
    }
    validate_class(&spec.storage_class_name, path, &mut errors);
    validate_mode(&spec.volume_mode, path, &mut errors);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(spec: Value) -> PersistentVolume {
        let mut volume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).unwrap();
        PersistentVolumes.default(&mut volume);
        volume
    }

    #[test]
    fn a_volume_has_one_source_and_a_size() {
        let good = volume(json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/data"}}));
        assert_eq!(PersistentVolumes.validate(&good), []);
        let texts: Vec<_> = PersistentVolumes.validate(&volume(json!({}))).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.capacity: Required value",
                "spec: Required value: must specify a volume type"
            ]
        );
    }

    #[test]
    fn the_source_stays() {
        let old = volume(json!({"hostPath": {"path": "/a"}}));
        let new = volume(json!({"hostPath": {"path": "/b"}}));
        assert_eq!(
            PersistentVolumes.validate_update(&new, &old)[0].to_string(),
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"
        );
    }
}
