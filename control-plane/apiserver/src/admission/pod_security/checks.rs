//! The rules of the Pod Security Standards, with upstream's words for what breaks them.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, EphemeralContainer, Lifecycle, LifecycleHandler, PodSecurityContext,
        PodSpec, Probe, SecurityContext, Volume,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use skep_api::field::quote;

use super::Level;

pub(super) const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "",
];

/// What the rules look at in a container of any kind.
struct Part<'a> {
    name: &'a str,
    security: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    probes: [Option<&'a Probe>; 3],
    lifecycle: Option<&'a Lifecycle>,
}

fn part(container: &Container) -> Part<'_> {
    Part {
        name: &container.name,
        security: container.security_context.as_ref(),
        ports: container.ports.as_deref().unwrap_or_default(),
        probes: [&container.liveness_probe, &container.readiness_probe, &container.startup_probe].map(Option::as_ref),
        lifecycle: container.lifecycle.as_ref(),
    }
}

fn ephemeral_part(container: &EphemeralContainer) -> Part<'_> {
    Part {
        name: &container.name,
        security: container.security_context.as_ref(),
        ports: container.ports.as_deref().unwrap_or_default(),
        probes: [&container.liveness_probe, &container.readiness_probe, &container.startup_probe].map(Option::as_ref),
        lifecycle: container.lifecycle.as_ref(),
    }
}

/// A pod under examination.
struct Subject<'a> {
    spec: &'a PodSpec,
    security: PodSecurityContext,
    parts: Vec<Part<'a>>,
    minor: u32,
}

/// `reason (detail)` of every broken rule, in upstream's order.
pub(super) fn run(level: Level, minor: u32, meta: &ObjectMeta, spec: &PodSpec) -> Vec<String> {
    let parts = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(part)
        .chain(spec.ephemeral_containers.iter().flatten().map(ephemeral_part))
        .collect();
    let pod = Subject { spec, security: spec.security_context.clone().unwrap_or_default(), parts, minor };
    let restricted = level == Level::Restricted;
    let mut found: Vec<Option<String>> = Vec::new();
    found.push(pod.app_armor(meta));
    // Each of these has a stricter sister that says it all.
    let stricter = |since: u32| restricted && minor >= since;
    found.push((!stricter(22)).then(|| pod.capabilities()).flatten());
    found.push(pod.host_namespaces());
    found.push((!restricted).then(|| pod.host_path()).flatten());
    found.push(pod.host_ports());
    found.push(pod.host_probes());
    found.push(pod.privileged());
    found.push(pod.proc_mount());
    found.push(pod.selinux());
    found.push((!stricter(19)).then(|| pod.seccomp()).flatten());
    found.push(pod.sysctls());
    found.push(pod.windows());
    if restricted {
        found.extend([
            pod.privilege_escalation(),
            pod.dropped_capabilities(),
            pod.volumes(),
            pod.non_root(),
            pod.user(),
            (minor >= 19).then(|| pod.required_seccomp()).flatten(),
        ]);
    }
    found.into_iter().flatten().collect()
}

/// Violations without their details: `hostPort, privileged`.
pub(super) fn reasons(violations: &str) -> String {
    let mut out = String::with_capacity(violations.len());
    let mut depth = 0usize;
    for c in violations.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out.replace(" ,", ",").trim_end().to_owned()
}

fn quoted<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    names.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

fn plural<'w>(one: &'w str, many: &'w str, count: usize) -> &'w str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names.iter().copied()))
}

/// Who is to blame: the pod, some of its containers, or both.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(containers(names)),
        (true, false) => Some(format!("pod and {}", containers(names))),
    }
}

impl<'a> Subject<'a> {
    fn names(&self, bad: impl Fn(&Part<'a>) -> bool) -> Vec<&'a str> {
        self.parts.iter().filter(|part| bad(part)).map(|part| part.name).collect()
    }

    fn names_by(&self, bad: impl Fn(&SecurityContext) -> bool) -> Vec<&'a str> {
        self.names(|part| part.security.is_some_and(&bad))
    }

    /// Windows knows none of it (since 1.25).
    fn on_windows(&self) -> bool {
        self.minor >= 25 && self.spec.os.as_ref().is_some_and(|os| os.name == "windows")
    }

    /// Root of a user namespace is nobody on the node (since 1.34).
    fn own_users(&self) -> bool {
        self.minor >= 34 && self.spec.host_users == Some(false)
    }

    // --- baseline ---

    fn app_armor(&self, meta: &ObjectMeta) -> Option<String> {
        let mut bad = Vec::new();
        let allowed =
            |profile: &str| profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/");
        let annotations = meta.annotations.iter().flatten();
        for (key, profile) in annotations.filter(|(key, profile)| key.starts_with(APPARMOR) && !allowed(profile)) {
            bad.push(format!("{key}={}", quote(profile)));
        }
        let allowed = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
        let mut kinds = BTreeSet::new();
        let pod = self.security.app_armor_profile.as_ref().filter(|profile| !allowed(&profile.type_));
        kinds.extend(pod.map(|profile| profile.type_.clone()));
        let names = self
            .names_by(|security| security.app_armor_profile.as_ref().is_some_and(|profile| !allowed(&profile.type_)));
        for part in &self.parts {
            let profile = part.security.and_then(|security| security.app_armor_profile.as_ref());
            kinds.extend(profile.map(|profile| profile.type_.clone()).filter(|kind| !allowed(kind)));
        }
        if let Some(setters) = setters(pod.is_some(), &names) {
            let kinds = quoted(kinds.iter().map(String::as_str));
            bad.push(format!("{setters} must not set AppArmor profile type to {kinds}"));
        }
        let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", bad.len());
        (!bad.is_empty()).then(|| format!("{reason} ({})", bad.join(", ")))
    }

    fn capabilities(&self) -> Option<String> {
        self.added(|capability| CAPABILITIES.contains(&capability))
            .map(|detail| format!("non-default capabilities ({detail})"))
    }

    fn added(&self, allowed: impl Fn(&str) -> bool) -> Option<String> {
        let mut bad = BTreeSet::new();
        let added = |capabilities: &'_ Capabilities| capabilities.add.clone().unwrap_or_default();
        let names = self.names_by(|security| {
            security.capabilities.as_ref().is_some_and(|c| added(c).iter().any(|capability| !allowed(capability)))
        });
        for capabilities in self.parts.iter().filter_map(|part| part.security?.capabilities.as_ref()) {
            bad.extend(added(capabilities).into_iter().filter(|capability| !allowed(capability)));
        }
        (!names.is_empty()).then(|| {
            let bad = quoted(bad.iter().map(String::as_str));
            format!("{} must not include {bad} in securityContext.capabilities.add", containers(&names))
        })
    }

    fn host_namespaces(&self) -> Option<String> {
        let spec = self.spec;
        let flags = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
        let set: Vec<String> =
            flags.iter().filter(|(_, on)| *on == Some(true)).map(|(name, _)| format!("{name}=true")).collect();
        (!set.is_empty()).then(|| format!("host namespaces ({})", set.join(", ")))
    }

    fn host_path(&self) -> Option<String> {
        let volumes = self.spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
        let names: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
        let list = quoted(names.iter().copied());
        (!names.is_empty()).then(|| format!("hostPath volumes ({} {list})", plural("volume", "volumes", names.len())))
    }

    fn host_ports(&self) -> Option<String> {
        let used = |part: &Part<'a>| -> Vec<String> {
            let ports = part.ports.iter().filter_map(|port| port.host_port).filter(|port| *port != 0);
            ports.map(|port| port.to_string()).collect()
        };
        let names = self.names(|part| !used(part).is_empty());
        let ports: BTreeSet<String> = self.parts.iter().flat_map(used).collect();
        (!names.is_empty()).then(|| {
            format!(
                "hostPort ({} {} {} {})",
                containers(&names),
                plural("uses", "use", names.len()),
                plural("hostPort", "hostPorts", ports.len()),
                ports.into_iter().collect::<Vec<_>>().join(", ")
            )
        })
    }

    /// Since 1.34 the kubelet may not be sent to other hosts.
    fn host_probes(&self) -> Option<String> {
        if self.minor < 34 {
            return None;
        }
        let hosts = |part: &Part<'a>| -> Vec<String> {
            let mut hosts: Vec<&String> = Vec::new();
            for probe in part.probes.iter().flatten() {
                hosts.extend(probe.http_get.as_ref().and_then(|get| get.host.as_ref()));
                hosts.extend(probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()));
            }
            let handlers = part.lifecycle.iter().flat_map(|lifecycle| [&lifecycle.post_start, &lifecycle.pre_stop]);
            for handler in handlers.filter_map(|handler: &'a Option<LifecycleHandler>| handler.as_ref()) {
                hosts.extend(handler.http_get.as_ref().and_then(|get| get.host.as_ref()));
                hosts.extend(handler.tcp_socket.as_ref().and_then(|socket| socket.host.as_ref()));
            }
            hosts.into_iter().filter(|host| !host.is_empty()).cloned().collect()
        };
        let names = self.names(|part| !hosts(part).is_empty());
        let all: BTreeSet<String> = self.parts.iter().flat_map(hosts).collect();
        (!names.is_empty()).then(|| {
            format!(
                "probe or lifecycle host ({} {} probe or lifecycle {} {})",
                containers(&names),
                plural("uses", "use", names.len()),
                plural("host", "hosts", all.len()),
                quoted(all.iter().map(String::as_str))
            )
        })
    }

    fn privileged(&self) -> Option<String> {
        let names = self.names_by(|security| security.privileged == Some(true));
        (!names.is_empty())
            .then(|| format!("privileged ({} must not set securityContext.privileged=true)", containers(&names)))
    }

    fn proc_mount(&self) -> Option<String> {
        if self.own_users() {
            return None;
        }
        let bad = |security: &SecurityContext| security.proc_mount.as_ref().is_some_and(|mount| mount != "Default");
        let names = self.names_by(bad);
        let mounts: BTreeSet<&str> = self
            .parts
            .iter()
            .filter_map(|part| part.security.filter(|security| bad(security))?.proc_mount.as_deref())
            .collect();
        (!names.is_empty()).then(|| {
            format!("procMount ({} must not set securityContext.procMount to {})", containers(&names), quoted(mounts))
        })
    }

    fn selinux(&self) -> Option<String> {
        let mut kinds = BTreeSet::new();
        let (mut user, mut role) = (false, false);
        let mut bad = |options: Option<&k8s_openapi::api::core::v1::SELinuxOptions>| {
            let Some(options) = options else { return false };
            let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
            let kind = options.type_.clone().unwrap_or_default();
            let forbidden = !matches!(
                kind.as_str(),
                "" | "container_t" | "container_init_t" | "container_kvm_t" | "container_engine_t"
            );
            if forbidden {
                kinds.insert(kind);
            }
            user |= given(&options.user);
            role |= given(&options.role);
            forbidden || given(&options.user) || given(&options.role)
        };
        let pod = bad(self.security.se_linux_options.as_ref());
        let mut names = Vec::new();
        for part in &self.parts {
            if bad(part.security.and_then(|security| security.se_linux_options.as_ref())) {
                names.push(part.name);
            }
        }
        let setters = setters(pod, &names)?;
        let mut data = Vec::new();
        if !kinds.is_empty() {
            let list = quoted(kinds.iter().map(String::as_str));
            data.push(format!("{} {list}", plural("type", "types", kinds.len())));
        }
        data.extend(user.then(|| "user may not be set".to_owned()));
        data.extend(role.then(|| "role may not be set".to_owned()));
        Some(format!("seLinuxOptions ({setters} set forbidden securityContext.seLinuxOptions: {})", data.join("; ")))
    }

    fn seccomp(&self) -> Option<String> {
        if self.minor < 19 {
            return None;
        }
        self.bad_seccomp()
    }

    /// Profiles that are set, to something that is none.
    fn bad_seccomp(&self) -> Option<String> {
        let allowed = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
        let mut kinds = BTreeSet::new();
        let pod = self.security.seccomp_profile.as_ref().filter(|profile| !allowed(&profile.type_));
        kinds.extend(pod.map(|profile| profile.type_.clone()));
        let names =
            self.names_by(|security| security.seccomp_profile.as_ref().is_some_and(|profile| !allowed(&profile.type_)));
        for part in &self.parts {
            let profile = part.security.and_then(|security| security.seccomp_profile.as_ref());
            kinds.extend(profile.map(|profile| profile.type_.clone()).filter(|kind| !allowed(kind)));
        }
        let setters = setters(pod.is_some(), &names)?;
        let kinds = quoted(kinds.iter().map(String::as_str));
        Some(format!("seccompProfile ({setters} must not set securityContext.seccompProfile.type to {kinds})"))
    }

    fn sysctls(&self) -> Option<String> {
        let allowed = |name: &str| match name {
            "kernel.shm_rmid_forced"
            | "net.ipv4.ip_local_port_range"
            | "net.ipv4.tcp_syncookies"
            | "net.ipv4.ping_group_range"
            | "net.ipv4.ip_unprivileged_port_start" => true,
            "net.ipv4.ip_local_reserved_ports" => self.minor >= 27,
            "net.ipv4.tcp_keepalive_time"
            | "net.ipv4.tcp_fin_timeout"
            | "net.ipv4.tcp_keepalive_intvl"
            | "net.ipv4.tcp_keepalive_probes" => self.minor >= 29,
            "net.ipv4.tcp_rmem" | "net.ipv4.tcp_wmem" => self.minor >= 32,
            _ => false,
        };
        let sysctls = self.security.sysctls.iter().flatten().map(|sysctl| sysctl.name.as_str());
        let bad: Vec<&str> = sysctls.filter(|name| !allowed(name)).collect();
        (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
    }

    fn windows(&self) -> Option<String> {
        let pod = self.security.windows_options.as_ref().is_some_and(|options| options.host_process == Some(true));
        let names = self.names_by(|security| {
            security.windows_options.as_ref().is_some_and(|options| options.host_process == Some(true))
        });
        let setters = setters(pod, &names)?;
        Some(format!("hostProcess ({setters} must not set securityContext.windowsOptions.hostProcess=true)"))
    }

    // --- restricted ---

    fn privilege_escalation(&self) -> Option<String> {
        if self.minor < 8 || self.on_windows() {
            return None;
        }
        let names =
            self.names(|part| part.security.and_then(|security| security.allow_privilege_escalation) != Some(false));
        (!names.is_empty()).then(|| {
            format!(
                "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)",
                containers(&names)
            )
        })
    }

    fn dropped_capabilities(&self) -> Option<String> {
        if self.minor < 22 || self.on_windows() {
            return None;
        }
        let names = self.names(|part| {
            let dropped = part.security.and_then(|security| security.capabilities.as_ref()?.drop.as_ref());
            !dropped.is_some_and(|dropped| dropped.iter().any(|capability| capability == "ALL"))
        });
        let mut details = Vec::new();
        if !names.is_empty() {
            details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&names)));
        }
        details.extend(self.added(|capability| capability == "NET_BIND_SERVICE"));
        (!details.is_empty()).then(|| format!("unrestricted capabilities ({})", details.join("; ")))
    }

    fn volumes(&self) -> Option<String> {
        let mut names = Vec::new();
        let mut kinds = BTreeSet::new();
        for volume in self.spec.volumes.iter().flatten() {
            if let Some(kind) = restricted_volume(volume) {
                names.push(volume.name.as_str());
                kinds.insert(kind);
            }
        }
        (!names.is_empty()).then(|| {
            format!(
                "restricted volume types ({} {} {} restricted volume {} {})",
                plural("volume", "volumes", names.len()),
                quoted(names.iter().copied()),
                plural("uses", "use", names.len()),
                plural("type", "types", kinds.len()),
                quoted(kinds.iter().map(String::as_str))
            )
        })
    }

    fn non_root(&self) -> Option<String> {
        if self.own_users() {
            return None;
        }
        let names = self.names_by(|security| security.run_as_non_root == Some(false));
        if let Some(setters) = setters(self.security.run_as_non_root == Some(false), &names) {
            return Some(format!("runAsNonRoot != true ({setters} must not set securityContext.runAsNonRoot=false)"));
        }
        if self.security.run_as_non_root == Some(true) {
            return None;
        }
        let names = self.names(|part| part.security.and_then(|security| security.run_as_non_root).is_none());
        (!names.is_empty()).then(|| {
            format!("runAsNonRoot != true (pod or {} must set securityContext.runAsNonRoot=true)", containers(&names))
        })
    }

    fn user(&self) -> Option<String> {
        if self.minor < 23 || self.own_users() {
            return None;
        }
        let names = self.names_by(|security| security.run_as_user == Some(0));
        let setters = setters(self.security.run_as_user == Some(0), &names)?;
        Some(format!("runAsUser=0 ({setters} must not set runAsUser=0)"))
    }

    fn required_seccomp(&self) -> Option<String> {
        if self.on_windows() {
            return None;
        }
        if let Some(bad) = self.bad_seccomp() {
            return Some(bad);
        }
        if self.security.seccomp_profile.is_some() {
            return None;
        }
        let names = self.names(|part| part.security.and_then(|security| security.seccomp_profile.as_ref()).is_none());
        (!names.is_empty()).then(|| {
            format!(
                "seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
                 \"Localhost\")",
                containers(&names)
            )
        })
    }
}

/// The type of a volume that restricted pods may not have.
fn restricted_volume(volume: &Volume) -> Option<String> {
    let allowed = volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some();
    if allowed {
        return None;
    }
    // The one member beside the name says what it is.
    let members = serde_json::to_value(volume).ok()?;
    let kind = members.as_object()?.keys().find(|key| *key != "name").cloned();
    Some(kind.unwrap_or_else(|| "unknown".to_owned()))
}
