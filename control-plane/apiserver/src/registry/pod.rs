//! Pods.

mod part;
mod qos;
mod table;
#[cfg(test)]
mod tests;
mod update;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodIP, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use skep_api::field::{Error, Errors, Path};
use skep_api::options::DeleteOptions;
use skep_api::{name, resource::ResourceInfo};
use skep_storage::SelectableField;

use super::checks::{self, text};
use super::pod_template;
use super::strategy::{Column, Context, Grace, Strategy};
use super::table_info::info;

/// The strategy of pods.
#[derive(Debug)]
pub(crate) struct Pods;

impl Strategy for Pods {
    type Object = Pod;

    fn info(&self) -> &'static ResourceInfo {
        info("", "pods")
    }

    fn prefix(&self) -> &'static str {
        "/registry/pods/"
    }

    fn selectable_fields(&self) -> Vec<SelectableField> {
        vec![
            SelectableField::new("spec.nodeName"),
            SelectableField::new("spec.restartPolicy"),
            SelectableField::new("spec.schedulerName"),
            SelectableField::new("spec.serviceAccountName"),
            SelectableField::new("spec.hostNetwork").or_default("false"),
            SelectableField::new("status.phase"),
            SelectableField::new("status.podIP"),
            SelectableField::new("status.nominatedNodeName"),
        ]
    }

    fn default(&self, pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        pod_template::set_defaults(spec);
        spec.enable_service_links.get_or_insert(true);
        let host_network = spec.host_network == Some(true);
        let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
        containers.for_each(|container| container_defaults(container, host_network));
        if let Some(status) = &mut pod.status {
            same_addresses(status);
        }
    }

    fn prepare_for_create(&self, ctx: &Context<'_>, pod: &mut Pod) {
        let spec = pod.spec.get_or_insert_default();
        if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
            spec.termination_grace_period_seconds = Some(1);
        }
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos::class(spec).to_owned()),
            conditions: gated(spec, ctx.now),
            ..PodStatus::default()
        });
    }

    fn validate(&self, pod: &Pod) -> Errors {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        pod_template::validate_spec(spec, &path)
    }

    fn validate_create(&self, pod: &Pod) -> Errors {
        let mut errors = Errors::new();
        let list = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref());
        if list.is_some_and(|list| !list.is_empty()) {
            let path = Path::new("spec.ephemeralContainers");
            errors.push(Error::forbidden(&path, "cannot be set on create"));
        }
        errors
    }

    fn prepare_for_part_update(&self, name: &str, _ctx: &Context<'_>, pod: &mut Pod, old: &Pod) {
        part::prepare(name, pod, old);
    }

    fn validate_part_update(&self, name: &str, pod: &Pod, old: &Pod) -> Errors {
        part::validate(name, pod, old)
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, pod: &mut Pod, old: &Pod) {
        pod.status.clone_from(&old.status);
    }

    fn validate_update(&self, pod: &Pod, old: &Pod) -> Errors {
        update::validate(pod, old)
    }

    fn bumps_generation(&self, pod: &Pod, old: &Pod) -> bool {
        pod.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, pod: &mut Pod, old: &Pod) {
        pod.spec.clone_from(&old.spec);
        // Old kubelets sent owners back mangled; upstream never takes them from a status update.
        pod.metadata.owner_references.clone_from(&old.metadata.owner_references);
        let class = old.status.as_ref().and_then(|s| s.qos_class.clone());
        let status = pod.status.get_or_insert_default();
        if class.is_some() {
            status.qos_class = class;
        }
    }

    fn validate_status_update(&self, pod: &Pod, _old: &Pod) -> Errors {
        let mut errors = Errors::new();
        let Some(status) = &pod.status else { return errors };
        let path = Path::new("status");
        let nominated = text(&status.nominated_node_name);
        if !nominated.is_empty() {
            checks::name(&mut errors, &path.child("nominatedNodeName"), nominated, name::dns1123_subdomain);
        }
        let list = path.child("podIPs");
        for (i, ip) in status.pod_ips.iter().flatten().enumerate() {
            checks::name(&mut errors, &list.index(i), &ip.ip, name::ip);
        }
        if !checks::one_of_each_family(status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok())) {
            errors.push(Error::invalid(&list, &status.pod_ips, "may specify no more than one IP for each IP family"));
        }
        let list = path.child("conditions");
        for (i, condition) in status.conditions.iter().flatten().enumerate() {
            let at = list.index(i);
            checks::one_of(&mut errors, &at.child("status"), &condition.status, &["False", "True", "Unknown"]);
        }
        errors
    }

    fn grace_period(&self, pod: &Pod, options: &DeleteOptions) -> Grace {
        let spec = pod.spec.as_ref();
        let finished = matches!(phase(pod), "Failed" | "Succeeded");
        let unscheduled = spec.is_none_or(|s| text(&s.node_name).is_empty());
        if finished || unscheduled {
            return Grace::Immediate;
        }
        let own = spec.and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        match options.grace_period_seconds.unwrap_or(own) {
            0 => Grace::Immediate,
            seconds if seconds < 0 => Grace::Seconds(1),
            seconds => Grace::Seconds(seconds),
        }
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn row(&self, pod: &Pod, now: Timestamp) -> Vec<Value> {
        table::row(pod, now)
    }
}

/// The phase of a pod, empty while it has none.
fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().map_or("", |s| text(&s.phase))
}

/// What holds for the containers of pods, but not of templates: requests follow limits, host ports follow ports.
fn container_defaults(container: &mut Container, host_network: bool) {
    if host_network {
        for port in container.ports.iter_mut().flatten() {
            port.host_port = port.host_port.filter(|p| *p != 0).or(Some(port.container_port));
        }
    }
    let Some(resources) = &mut container.resources else { return };
    if let Some(limits) = resources.limits.as_ref().filter(|limits| !limits.is_empty()) {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

/// `podIP` is the first of `podIPs`, whichever of the two was sent.
fn same_addresses(status: &mut PodStatus) {
    if let Some(first) = status.pod_ips.as_ref().and_then(|ips| ips.first()) {
        status.pod_ip = Some(first.ip.clone());
    } else if !text(&status.pod_ip).is_empty() {
        status.pod_ips = status.pod_ip.clone().map(|ip| vec![PodIP { ip }]);
    }
}

/// A pod with scheduling gates says at once why it is not scheduled.
fn gated(spec: &PodSpec, now: Timestamp) -> Option<Vec<PodCondition>> {
    spec.scheduling_gates.as_ref().filter(|gates| !gates.is_empty())?;
    Some(vec![PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    }])
}
