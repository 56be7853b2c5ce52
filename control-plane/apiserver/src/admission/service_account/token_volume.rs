//! The volume through which a pod reaches the API: its account's token, the cluster's authority and the namespace's name.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, PodSpec,
    ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

use crate::subresource::token::POD_SECONDS;

/// Where every client library looks.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const PREFIX: &str = "kube-api-access-";
const ROOT_CA: &str = "kube-root-ca.crt";

/// Gives the volume to every container that has nothing there yet.
pub(super) fn mount(spec: &mut PodSpec) {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let there = volumes.iter().find(|volume| volume.name.starts_with(PREFIX)).map(|volume| volume.name.clone());
    let name = there.clone().unwrap_or_else(|| skep_api::meta::generate_name(PREFIX));
    let mut needed = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let mounts = container.volume_mounts.get_or_insert_default();
        if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
            continue;
        }
        needed = true;
        mounts.push(VolumeMount {
            name: name.clone(),
            read_only: Some(true),
            mount_path: MOUNT_PATH.to_owned(),
            ..VolumeMount::default()
        });
    }
    if needed && there.is_none() {
        spec.volumes.get_or_insert_default().push(volume(name));
    }
}

fn volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        path: "token".to_owned(),
        expiration_seconds: Some(POD_SECONDS),
        audience: None,
    };
    let authority = ConfigMapProjection {
        name: ROOT_CA.to_owned(),
        items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
        optional: None,
    };
    let namespace = DownwardAPIProjection {
        items: Some(vec![DownwardAPIVolumeFile {
            path: "namespace".to_owned(),
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.namespace".to_owned(),
            }),
            ..DownwardAPIVolumeFile::default()
        }]),
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(authority), ..VolumeProjection::default() },
        VolumeProjection { downward_api: Some(namespace), ..VolumeProjection::default() },
    ];
    let projected = ProjectedVolumeSource { default_mode: Some(0o644), sources: Some(sources) };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_get_the_volume_unless_they_have_something_there() {
        let mut spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "i", "image": "x"}],
            "containers": [
                {"name": "a", "image": "x"},
                {"name": "b", "image": "x", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
        }))
        .unwrap();
        mount(&mut spec);
        let volumes = spec.volumes.clone().unwrap();
        assert_eq!(volumes.len(), 1);
        assert!(volumes[0].name.starts_with(PREFIX) && volumes[0].name.len() == PREFIX.len() + 5);
        let mounted = |at: usize| spec.containers[at].volume_mounts.as_ref().unwrap()[0].name.clone();
        assert_eq!((mounted(0), mounted(1)), (volumes[0].name.clone(), "own".to_owned()));
        assert_eq!(spec.init_containers.as_ref().unwrap()[0].volume_mounts.as_ref().unwrap().len(), 1);
        // Once more changes nothing.
        let before = spec.clone();
        mount(&mut spec);
        assert_eq!(spec, before);
    }

    #[test]
    fn nobody_in_need_means_no_volume() {
        let mut spec: PodSpec = serde_json::from_value(json!({
            "containers": [{"name": "b", "image": "x", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]}],
        }))
        .unwrap();
        mount(&mut spec);
        assert!(spec.volumes.is_none());
    }
}
