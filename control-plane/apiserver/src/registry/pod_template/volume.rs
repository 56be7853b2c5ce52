//! Validation of volumes.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{KeyToPath, ProjectedVolumeSource, Volume};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;

use super::env::validate_field_path;
use crate::registry::checks::{self, text};

const DOWNWARD_FIELDS: [&str; 3] = ["metadata.name", "metadata.namespace", "metadata.uid"];

/// The sources a volume names, by field; exactly one is right.
pub(super) fn sources(v: &Volume) -> Vec<&'static str> {
    let all = [
        ("emptyDir", v.empty_dir.is_some()),
        ("hostPath", v.host_path.is_some()),
        ("configMap", v.config_map.is_some()),
        ("secret", v.secret.is_some()),
        ("downwardAPI", v.downward_api.is_some()),
        ("projected", v.projected.is_some()),
        ("persistentVolumeClaim", v.persistent_volume_claim.is_some()),
        ("ephemeral", v.ephemeral.is_some()),
        ("csi", v.csi.is_some()),
        ("image", v.image.is_some()),
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("fc", v.fc.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("rbd", v.rbd.is_some()),
        ("cephfs", v.cephfs.is_some()),
        ("cinder", v.cinder.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("flocker", v.flocker.is_some()),
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
        ("quobyte", v.quobyte.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("storageos", v.storageos.is_some()),
    ];
    all.into_iter().filter(|(_, given)| *given).map(|(field, _)| field).collect()
}

/// Checks volumes and returns the names of the good ones.
pub(super) fn validate<'a>(volumes: &'a [Volume], path: &Path<'_>, errors: &mut Errors) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let before = errors.len();
        if volume.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else {
            checks::name(errors, &path.child("name"), &volume.name, name::dns1123_label);
        }
        if names.contains(volume.name.as_str()) {
            errors.push(Error::duplicate(&path.child("name"), &volume.name));
        }
        validate_source(volume, &path, errors);
        if errors.len() == before {
            names.insert(volume.name.as_str());
        }
    }
    names
}

fn validate_source(volume: &Volume, path: &Path<'_>, errors: &mut Errors) {
    let found = sources(volume);
    if found.is_empty() {
        errors.push(Error::required(path, "must specify a volume type"));
    }
    for extra in found.iter().skip(1) {
        errors.push(Error::forbidden(&path.child(extra), "may not specify more than 1 volume type"));
    }
    if let Some(host) = &volume.host_path {
        validate_host_path(&host.path, text(&host.type_), &path.child("hostPath"), errors);
    }
    if let Some(dir) = &volume.empty_dir
        && let Some(limit) = &dir.size_limit
    {
        checks::quantity(errors, &path.child("emptyDir.sizeLimit"), limit);
    }
    if let Some(source) = &volume.secret {
        let path = path.child("secret");
        if text(&source.secret_name).is_empty() {
            errors.push(Error::required(&path.child("secretName"), ""));
        }
        validate_mode(source.default_mode, &path.child("defaultMode"), errors);
        validate_items(source.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(source) = &volume.config_map {
        let path = path.child("configMap");
        if source.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        }
        validate_mode(source.default_mode, &path.child("defaultMode"), errors);
        validate_items(source.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(claim) = &volume.persistent_volume_claim
        && claim.claim_name.is_empty()
    {
        errors.push(Error::required(&path.child("persistentVolumeClaim.claimName"), ""));
    }
    if let Some(source) = &volume.downward_api {
        let path = path.child("downwardAPI");
        validate_mode(source.default_mode, &path.child("defaultMode"), errors);
        for item in source.items.iter().flatten() {
            validate_downward(item, &path, errors);
        }
    }
    if let Some(source) = &volume.projected {
        validate_projected(source, &path.child("projected"), errors);
    }
}

fn validate_host_path(host_path: &str, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    if host_path.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    } else if host_path.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(&path.child("path"), host_path, "must not contain '..'"));
    }
    let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if !kinds.contains(&kind) {
        errors.push(Error::not_supported(&path.child("type"), kind, &kinds));
    }
}

fn validate_mode(mode: Option<i32>, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        errors.push(Error::invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

fn validate_items(items: Option<&[KeyToPath]>, path: &Path<'_>, errors: &mut Errors) {
    for (i, item) in items.into_iter().flatten().enumerate() {
        let path = path.index(i);
        if item.key.is_empty() {
            errors.push(Error::required(&path.child("key"), ""));
        }
        if item.path.is_empty() {
            errors.push(Error::required(&path.child("path"), ""));
        } else {
            validate_local_path(&item.path, &path.child("path"), errors);
        }
        validate_mode(item.mode, &path.child("mode"), errors);
    }
}

/// A path that stays below where it starts.
pub(super) fn validate_local_path(target: &str, path: &Path<'_>, errors: &mut Errors) {
    if target.starts_with('/') {
        errors.push(Error::invalid(path, target, "must be a relative path"));
    }
    if target.split('/').any(|part| part == "..") {
        errors.push(Error::invalid(path, target, "must not contain '..'"));
    }
    if target.starts_with("..") && !target.starts_with("../") && target != ".." {
        errors.push(Error::invalid(path, target, "must not start with '..'"));
    }
}

fn validate_downward(item: &k8s_openapi::api::core::v1::DownwardAPIVolumeFile, path: &Path<'_>, errors: &mut Errors) {
    if item.path.is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    validate_local_path(&item.path, &path.child("path"), errors);
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), None) => {
            let whole = ["metadata.labels", "metadata.annotations"];
            if !whole.contains(&field.field_path.as_str()) {
                validate_field_path(&field.field_path, &DOWNWARD_FIELDS, &path.child("fieldRef"), errors);
            }
        }
        (None, Some(resource)) => {
            if text(&resource.container_name).is_empty() {
                errors.push(Error::required(&path.child("resourceFieldRef.containerName"), ""));
            }
        }
        (Some(_), Some(_)) => {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(Error::invalid(path, "resource", why));
        }
        (None, None) => errors.push(Error::required(path, "one of fieldRef and resourceFieldRef is required")),
    }
    validate_mode(item.mode, &path.child("mode"), errors);
}

fn validate_projected(source: &ProjectedVolumeSource, path: &Path<'_>, errors: &mut Errors) {
    validate_mode(source.default_mode, &path.child("defaultMode"), errors);
    let list = path.child("sources");
    for (i, one) in source.sources.iter().flatten().enumerate() {
        let path = list.index(i);
        let given = [
            one.secret.is_some(),
            one.config_map.is_some(),
            one.downward_api.is_some(),
            one.service_account_token.is_some(),
            one.cluster_trust_bundle.is_some(),
            one.pod_certificate.is_some(),
        ];
        if given.into_iter().filter(|g| *g).count() > 1 {
            errors.push(Error::forbidden(&path, "may not specify more than 1 volume type"));
        }
        if let Some(secret) = &one.secret {
            if secret.name.is_empty() {
                errors.push(Error::required(&path.child("secret.name"), ""));
            }
            validate_items(secret.items.as_deref(), &path.child("secret.items"), errors);
        }
        if let Some(map) = &one.config_map {
            if map.name.is_empty() {
                errors.push(Error::required(&path.child("configMap.name"), ""));
            }
            validate_items(map.items.as_deref(), &path.child("configMap.items"), errors);
        }
        for item in one.downward_api.iter().flat_map(|d| d.items.iter().flatten()) {
            validate_downward(item, &path.child("downwardAPI"), errors);
        }
        if let Some(token) = &one.service_account_token {
            let path = path.child("serviceAccountToken");
            if token.expiration_seconds.is_some_and(|s| s < 600) {
                let why = "may not specify a duration less than 10 minutes";
                errors.push(Error::invalid(&path.child("expirationSeconds"), token.expiration_seconds, why));
            }
            if token.path.is_empty() {
                errors.push(Error::required(&path.child("path"), ""));
            } else {
                validate_local_path(&token.path, &path.child("path"), errors);
            }
        }
    }
}
