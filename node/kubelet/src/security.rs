//! Security contexts in the runtime's words.

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};
use skep_cri::api::{
    Capability, ContainerConfig, Image, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};

use crate::podext::PodExt;
use crate::{Config, Error};

/// Paths of /proc and /sys a container must not see, unless it may see everything.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Security of the sandbox itself: always the runtime's default seccomp profile, as upstream.
pub(crate) fn sandbox(pod: &Pod) -> LinuxSandboxSecurityContext {
    let security = pod.pod_spec().security_context.clone().unwrap_or_default();
    let privileged = pod.all_containers().any(|(_, container)| is_privileged(container));
    let profile =
        |profile_type: ProfileType| SecurityProfile { profile_type: profile_type as i32, ..Default::default() };
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        run_as_user: security.run_as_user.map(|value| Int64Value { value }),
        // A group without a user is refused by the runtime.
        run_as_group: security.run_as_user.and(security.run_as_group).map(|value| Int64Value { value }),
        supplemental_groups: groups(pod),
        privileged,
        seccomp: Some(profile(if privileged { ProfileType::Unconfined } else { ProfileType::RuntimeDefault })),
        ..Default::default()
    }
}

/// Security of a container; `image` tells the user it runs as when nobody says.
pub(crate) fn container(
    pod: &Pod,
    container: &Container,
    config: &Config,
    image: &Image,
) -> Result<LinuxContainerSecurityContext, Error> {
    let of_pod = pod.pod_spec().security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = is_privileged(container);
    let mut user = own.run_as_user.or(of_pod.run_as_user);
    let mut username = String::new();
    if user.is_none() {
        user = image.uid.map(|uid| uid.value);
        username.clone_from(&image.username);
    }
    let must_not_be_root = own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false);
    if must_not_be_root {
        verify_non_root(pod, container, own.run_as_user.or(of_pod.run_as_user), image)?;
    }
    if user.is_some() {
        username.clear();
    }
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() };
    let capabilities = own.capabilities.map(|capabilities| Capability {
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        ..Default::default()
    });
    Ok(LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_group: user
            .is_some()
            .then_some(own.run_as_group.or(of_pod.run_as_group))
            .flatten()
            .map(|value| Int64Value { value }),
        run_as_user: user.map(|value| Int64Value { value }),
        run_as_username: username,
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(pod),
        supplemental_groups_policy: match of_pod.supplemental_groups_policy.as_deref() {
            Some("Strict") => SupplementalGroupsPolicy::Strict as i32,
            _ => SupplementalGroupsPolicy::Merge as i32,
        },
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(if privileged {
            seccomp(None, config)
        } else {
            seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), config)
        }),
        ..Default::default()
    })
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|security| security.privileged).unwrap_or(false)
}

fn verify_non_root(pod: &Pod, container: &Container, user: Option<i64>, image: &Image) -> Result<(), Error> {
    let whose = format!(
        "(pod: {:?}, container: {})",
        format!("{}_{}({})", pod.pod_name(), pod.ns(), pod.uid()),
        container.name
    );
    match (user, image.uid.map(|uid| uid.value), image.username.as_str()) {
        (Some(0), ..) => Err(Error::pod(format!("container's runAsUser breaks non-root policy {whose}"))),
        (Some(_), ..) => Ok(()),
        (None, Some(0), _) => Err(Error::pod(format!("container has runAsNonRoot and image will run as root {whose}"))),
        (None, None, "") => Ok(()),
        (None, None, name) => Err(Error::pod(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whose}"
        ))),
        _ => Ok(()),
    }
}

fn groups(pod: &Pod) -> Vec<i64> {
    let security = pod.pod_spec().security_context.as_ref();
    let mut groups = security.and_then(|security| security.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(security.and_then(|security| security.fs_group));
    groups
}

/// Which namespaces the pod shares, among its containers or with the node.
pub(crate) fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = pod.pod_spec();
    let node_or = |host: Option<bool>, otherwise: NamespaceMode| {
        if host == Some(true) { NamespaceMode::Node as i32 } else { otherwise as i32 }
    };
    let shared = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: node_or(spec.host_network, NamespaceMode::Pod),
        ipc: node_or(spec.host_ipc, NamespaceMode::Pod),
        pid: node_or(spec.host_pid, shared),
        ..Default::default()
    }
}

/// Lets a container see the processes of a running one, whatever the pod shares.
pub(crate) fn share_processes(config: &mut ContainerConfig, target: &str) {
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    let namespaces = security.namespace_options.get_or_insert_default();
    if namespaces.pid == NamespaceMode::Container as i32 {
        namespaces.pid = NamespaceMode::Target as i32;
        target.clone_into(&mut namespaces.target_id);
    }
}

fn seccomp(profile: Option<&SeccompProfile>, config: &Config) -> SecurityProfile {
    let (profile_type, localhost_ref) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|profile| profile.localhost_profile.as_deref()).unwrap_or_default();
            (ProfileType::Localhost, config.seccomp_dir.join(name).to_string_lossy().into_owned())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    SecurityProfile { profile_type: profile_type as i32, localhost_ref }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn built(security: serde_json::Value, image: Image) -> Result<LinuxContainerSecurityContext, Error> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [{"name": "c", "securityContext": security}]}
        }))
        .unwrap();
        container(&pod, &pod.pod_spec().containers[0], &Config::new("n", [127, 0, 0, 1].into(), "/d"), &image)
    }

    #[test]
    fn proc_is_masked_unless_privileged() {
        let plain = built(json!({}), Image::default()).unwrap();
        assert!(plain.readonly_paths.iter().any(|path| path == "/proc/sys"));
        let privileged = built(json!({"privileged": true}), Image::default()).unwrap();
        assert!(privileged.masked_paths.is_empty() && privileged.privileged);
    }

    #[test]
    fn an_image_that_runs_as_root_breaks_run_as_non_root() {
        let root = Image { uid: Some(Int64Value { value: 0 }), ..Default::default() };
        let error = built(json!({"runAsNonRoot": true}), root.clone()).unwrap_err().to_string();
        assert!(error.starts_with("container has runAsNonRoot and image will run as root"), "{error}");
        assert!(built(json!({"runAsNonRoot": true, "runAsUser": 5}), root).is_ok());
    }
}
