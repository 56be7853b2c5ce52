//! Defaults of a pod spec, as upstream's `SetDefaults_PodSpec` and its kin set them.

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EphemeralContainer, HTTPGetAction, LifecycleHandler, ObjectFieldSelector, PodSpec,
    Probe, ResourceRequirements, Volume,
};

use crate::registry::checks::{canonical, text};

const FILE_MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

/// Sets the defaults that hold for pods and for templates alike.
pub(crate) fn set_defaults(spec: &mut PodSpec) {
    or(&mut spec.dns_policy, "ClusterFirst");
    or(&mut spec.restart_policy, "Always");
    or(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_default();
    same_service_account(spec);
    canonical(&mut spec.overhead);
    requirements(&mut spec.resources);
    spec.volumes.iter_mut().flatten().for_each(volume);
    spec.init_containers.iter_mut().flatten().for_each(container);
    spec.containers.iter_mut().for_each(container);
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral_container);
}

/// `serviceAccount` is an older name of `serviceAccountName`; both are always said.
pub(crate) fn same_service_account(spec: &mut PodSpec) {
    if text(&spec.service_account_name).is_empty() {
        spec.service_account_name = spec.service_account.take();
    }
    spec.service_account.clone_from(&spec.service_account_name);
}

fn or(field: &mut Option<String>, value: &str) {
    if text(field).is_empty() {
        *field = Some(value.to_owned());
    }
}

/// `Always` for the tag `latest`, and for an image with neither tag nor digest.
fn pull_policy(image: &str) -> &'static str {
    let (tagged, digest) = match image.split_once('@') {
        Some((tagged, digest)) => (tagged, Some(digest)),
        None => (image, None),
    };
    let name = tagged.rsplit('/').next().unwrap_or(tagged);
    match (name.split_once(':'), digest) {
        (Some((_, "latest")), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

fn container(c: &mut Container) {
    or(&mut c.image_pull_policy, pull_policy(c.image.as_deref().unwrap_or_default()));
    or(&mut c.termination_message_path, "/dev/termination-log");
    or(&mut c.termination_message_policy, "File");
    for port in c.ports.iter_mut().flatten() {
        or(&mut port.protocol, "TCP");
    }
    // Upstream writes `resources: {}` even when nothing is asked for.
    c.resources.get_or_insert_default();
    requirements(&mut c.resources);
    for env in c.env.iter_mut().flatten() {
        if let Some(field) = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
            field_ref(field);
        }
    }
    for p in [&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe].into_iter().flatten() {
        probe(p);
    }
    if let Some(lifecycle) = &mut c.lifecycle {
        [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten().for_each(handler);
    }
}

fn ephemeral_container(c: &mut EphemeralContainer) {
    or(&mut c.image_pull_policy, pull_policy(c.image.as_deref().unwrap_or_default()));
    or(&mut c.termination_message_path, "/dev/termination-log");
    or(&mut c.termination_message_policy, "File");
    c.resources.get_or_insert_default();
    for env in c.env.iter_mut().flatten() {
        if let Some(field) = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
            field_ref(field);
        }
    }
}

fn requirements(resources: &mut Option<ResourceRequirements>) {
    if let Some(resources) = resources {
        canonical(&mut resources.limits);
        canonical(&mut resources.requests);
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    or(&mut field.api_version, "v1");
}

fn probe(p: &mut Probe) {
    p.timeout_seconds = p.timeout_seconds.filter(|v| *v != 0).or(Some(1));
    p.period_seconds = p.period_seconds.filter(|v| *v != 0).or(Some(10));
    p.success_threshold = p.success_threshold.filter(|v| *v != 0).or(Some(1));
    p.failure_threshold = p.failure_threshold.filter(|v| *v != 0).or(Some(3));
    if let Some(get) = &mut p.http_get {
        http_get(get);
    }
    if let Some(grpc) = &mut p.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn handler(h: &mut LifecycleHandler) {
    if let Some(get) = &mut h.http_get {
        http_get(get);
    }
}

fn http_get(get: &mut HTTPGetAction) {
    or(&mut get.path, "/");
    or(&mut get.scheme, "HTTP");
}

fn volume(v: &mut Volume) {
    if super::volume::sources(v).is_empty() {
        v.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(secret) = &mut v.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(config_map) = &mut v.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut v.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        downward.items.iter_mut().flatten().filter_map(|i| i.field_ref.as_mut()).for_each(field_ref);
    }
    if let Some(projected) = &mut v.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
            }
            let items = source.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten());
            items.filter_map(|i| i.field_ref.as_mut()).for_each(field_ref);
        }
    }
    if let Some(image) = &mut v.image {
        let policy = pull_policy(image.reference.as_deref().unwrap_or_default());
        or(&mut image.pull_policy, policy);
    }
    if let Some(host_path) = &mut v.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(empty_dir) = &mut v.empty_dir
        && let Some(limit) = &mut empty_dir.size_limit
    {
        skep_api::quantity::canonicalize(limit);
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn the_tag_decides_how_images_are_pulled() {
        for (image, want) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.2", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
        ] {
            assert_eq!(pull_policy(image), want, "{image}");
        }
    }
}
