//! PodSecurity: the Pod Security Standards a namespace's labels ask for (KEP-2579).
//!
//! Pods that violate the enforced level are refused; pods and pod templates that violate the level to warn of bring a
//! warning. There are no exemptions, and without labels everything is allowed, as in upstream's default configuration.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use skep_api::{field, status::StatusError};

use super::{Admission, Attributes, Operation};
use crate::registry::object::Object;

mod checks;

const LABEL: &str = "pod-security.kubernetes.io/";
/// The minor version whose rules `latest` stands for.
const LATEST: u32 = 35;
/// How many pods of a namespace are looked at when its level changes (upstream: 3000, in a second).
const PODS_CHECKED: usize = 3000;

/// How much a pod may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// The rules of a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Version {
    #[default]
    Latest,
    Minor(u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    level: Level,
    version: Version,
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Version::Latest => write!(f, "{level}:latest"),
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Policy {
    enforce: Rules,
    warn: Rules,
}

/// Reads a namespace's labels. What cannot be read falls back to the strictest (a level to enforce) or to nothing.
fn policy(labels: Option<&BTreeMap<String, String>>) -> (Policy, field::Errors) {
    let mut errors = field::Errors::new();
    let mut policy = Policy::default();
    let Some(labels) = labels else { return (policy, errors) };
    // Nearly every namespace has none of them.
    if !labels.keys().any(|key| key.starts_with(LABEL)) {
        return (policy, errors);
    }
    let mut rules = |mode: &str, enforced: bool| {
        let mut rules = Rules::default();
        let path = field::Path::new("metadata.labels");
        let key = format!("{LABEL}{mode}");
        if let Some(level) = labels.get(&key) {
            rules.level = match level.as_str() {
                "privileged" => Level::Privileged,
                "baseline" => Level::Baseline,
                "restricted" => Level::Restricted,
                other => {
                    let why = "must be one of privileged, baseline, restricted";
                    errors.push(field::Error::invalid(&path.key(&key), other, why));
                    if enforced { Level::Restricted } else { Level::Privileged }
                }
            };
        }
        let key = format!("{LABEL}{mode}-version");
        if let Some(version) = labels.get(&key) {
            let minor = version.strip_prefix("v1.").and_then(|minor| minor.parse().ok());
            rules.version = match (version.as_str(), minor) {
                ("latest", _) => Version::Latest,
                (_, Some(minor)) => Version::Minor(minor),
                (other, None) => {
                    let why = "must be \"latest\" or \"v1.x\"";
                    errors.push(field::Error::invalid(&path.key(&key), other, why));
                    Version::Latest
                }
            };
        }
        rules
    };
    policy.enforce = rules("enforce", true);
    rules("audit", false);
    policy.warn = rules("warn", false);
    // Who enforces should be told before: without a level to warn of, the enforced one is warned of, too.
    if !labels.contains_key(&format!("{LABEL}warn")) && policy.enforce.level > policy.warn.level {
        policy.warn = policy.enforce;
    }
    (policy, errors)
}

/// What a pod does beyond `rules`, as errors name it; none if it keeps to them.
fn violations(rules: Rules, meta: &ObjectMeta, spec: &PodSpec) -> Option<String> {
    if rules.level == Level::Privileged {
        return None;
    }
    let minor = match rules.version {
        Version::Latest => LATEST,
        Version::Minor(minor) => minor.min(LATEST),
    };
    let found = checks::run(rules.level, minor, meta, spec);
    (!found.is_empty()).then(|| found.join(", "))
}

impl Admission {
    /// Judges pods and what makes pods.
    pub(super) fn pod_security(&self, attributes: &Attributes<'_>, object: &dyn Object) -> Result<(), StatusError> {
        let (Some(namespace), Some(namespaces)) = (attributes.scope.namespace, &self.namespaces) else { return Ok(()) };
        let Some(namespace) = namespaces.get(&format!("/registry/namespaces/{namespace}")) else { return Ok(()) };
        if !namespace.labels().iter().any(|(key, _)| key.starts_with(LABEL)) {
            return Ok(());
        }
        let labels = namespace.labels().iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let (policy, _) = policy(Some(&labels));
        if let Some(pod) = object.as_any().downcast_ref::<Pod>() {
            return judge_pod(attributes, object, pod, policy);
        }
        if let Some(template) = template(object)
            && let Some(spec) = &template.spec
        {
            let empty = ObjectMeta::default();
            warn(attributes, policy, template.metadata.as_ref().unwrap_or(&empty), spec);
        }
        Ok(())
    }

    /// Checks the labels of a namespace, and warns of pods that its new level would not let pass.
    pub(super) fn pod_security_labels(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
    ) -> Result<(), StatusError> {
        let (new, errors) = policy(object.meta().labels.as_ref());
        let (old, old_errors) = match attributes.old {
            Some(old) => policy(old.meta().labels.as_ref()),
            None => (Policy::default(), field::Errors::new()),
        };
        if !errors.is_empty() && (attributes.operation == Operation::Create || errors != old_errors) {
            return Err(StatusError::invalid("", "Namespace", object.name(), &errors));
        }
        let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
        if attributes.operation == Operation::Create || new.enforce.level == Level::Privileged || relaxed {
            return Ok(());
        }
        self.warn_of_pods(attributes, object.name(), new.enforce);
        Ok(())
    }

    fn warn_of_pods(&self, attributes: &Attributes<'_>, namespace: &str, rules: Rules) {
        let Some(pods) = &self.pods else { return };
        let snapshot = pods.snapshot();
        let prefix = format!("/registry/pods/{namespace}/");
        // Pods that violate the same rules are named together.
        let mut by_violation: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for cached in snapshot.range(&prefix, "").take(PODS_CHECKED) {
            let Ok(pod) = serde_json::from_slice::<Pod>(cached.json()) else { continue };
            let Some(spec) = &pod.spec else { continue };
            // The reasons are enough here.
            let Some(found) = violations(rules, &pod.metadata, spec).map(|found| checks::reasons(&found)) else {
                continue;
            };
            by_violation.entry(found).or_default().push(cached.name().to_owned());
        }
        if by_violation.is_empty() {
            return;
        }
        let text = rules.to_string();
        attributes.scope.warn(format!(
            "existing pods in namespace {} violate the new PodSecurity enforce level {}",
            field::quote(namespace),
            field::quote(&text)
        ));
        let mut lines: Vec<String> = by_violation
            .into_iter()
            .map(|(found, pods)| match pods.as_slice() {
                [one] => format!("{one}: {found}"),
                [one, _] => format!("{one} (and 1 other pod): {found}"),
                [one, others @ ..] => format!("{one} (and {} other pods): {found}", others.len()),
                [] => found,
            })
            .collect();
        lines.sort();
        for line in lines {
            attributes.scope.warn(line);
        }
    }
}

fn judge_pod(attributes: &Attributes<'_>, object: &dyn Object, pod: &Pod, policy: Policy) -> Result<(), StatusError> {
    if !matches!(attributes.subresource, "" | "ephemeralcontainers" | "resize") {
        return Ok(());
    }
    let Some(spec) = &pod.spec else { return Ok(()) };
    if attributes.operation == Operation::Update
        && let Some(old) = attributes.old.and_then(|old| old.as_any().downcast_ref::<Pod>())
        && !is_significant(pod, old)
    {
        return Ok(());
    }
    if let Some(found) = violations(policy.enforce, &pod.metadata, spec) {
        let why = format!("violates PodSecurity {}: {found}", field::quote(&policy.enforce.to_string()));
        return Err(attributes.forbidden(object, why));
    }
    warn(attributes, policy, &pod.metadata, spec);
    Ok(())
}

fn warn(attributes: &Attributes<'_>, policy: Policy, meta: &ObjectMeta, spec: &PodSpec) {
    if let Some(found) = violations(policy.warn, meta, spec) {
        let rules = policy.warn.to_string();
        attributes.scope.warn(format!("would violate PodSecurity {}: {found}", field::quote(&rules)));
    }
}

/// Of what an update may change, only this bears on security.
fn is_significant(pod: &Pod, old: &Pod) -> bool {
    let (Some(spec), Some(before)) = (&pod.spec, &old.spec) else { return true };
    let apparmor = |meta: &ObjectMeta| {
        let all = meta.annotations.clone().unwrap_or_default();
        all.into_iter().filter(|(key, _)| key.starts_with(checks::APPARMOR)).collect::<Vec<_>>()
    };
    spec.containers.len() != before.containers.len()
        || spec.init_containers.as_ref().map(Vec::len) != before.init_containers.as_ref().map(Vec::len)
        || spec.ephemeral_containers != before.ephemeral_containers
        || apparmor(&pod.metadata) != apparmor(&old.metadata)
}

fn template(object: &dyn Object) -> Option<&PodTemplateSpec> {
    let any = object.as_any();
    if let Some(o) = any.downcast_ref::<Deployment>() {
        o.spec.as_ref().map(|spec| &spec.template)
    } else if let Some(o) = any.downcast_ref::<ReplicaSet>() {
        o.spec.as_ref()?.template.as_ref()
    } else if let Some(o) = any.downcast_ref::<StatefulSet>() {
        o.spec.as_ref().map(|spec| &spec.template)
    } else if let Some(o) = any.downcast_ref::<DaemonSet>() {
        o.spec.as_ref().map(|spec| &spec.template)
    } else if let Some(o) = any.downcast_ref::<Job>() {
        o.spec.as_ref().map(|spec| &spec.template)
    } else if let Some(o) = any.downcast_ref::<CronJob>() {
        o.spec.as_ref()?.job_template.spec.as_ref().map(|spec| &spec.template)
    } else if let Some(o) = any.downcast_ref::<ReplicationController>() {
        o.spec.as_ref()?.template.as_ref()
    } else if let Some(o) = any.downcast_ref::<PodTemplate>() {
        o.template.as_ref()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(level: Level, spec: Value) -> String {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let rules = Rules { level, version: Version::Latest };
        violations(rules, &ObjectMeta::default(), &spec).unwrap_or_default()
    }

    #[test]
    fn a_plain_pod_is_baseline_but_not_restricted() {
        let spec = json!({"containers": [{"name": "c"}]});
        assert_eq!(found(Level::Baseline, spec.clone()), "");
        assert_eq!(
            found(Level::Restricted, spec),
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
             seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\")"
        );
    }

    #[test]
    fn a_careful_pod_is_restricted() {
        let spec = json!({
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
            }}],
            "volumes": [{"name": "v", "emptyDir": {}}],
        });
        assert_eq!(found(Level::Restricted, spec), "");
    }

    #[test]
    fn what_reaches_for_the_host_is_no_baseline() {
        let spec = json!({
            "hostNetwork": true,
            "hostPID": true,
            "initContainers": [{"name": "i", "securityContext": {"privileged": true}}],
            "containers": [
                {"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}],
                 "securityContext": {"capabilities": {"add": ["NET_ADMIN", "CHOWN", "SYS_ADMIN"]}, "procMount": "Unmasked"}},
                {"name": "b", "securityContext": {"privileged": true, "seccompProfile": {"type": "Unconfined"}}},
            ],
            "volumes": [{"name": "h", "hostPath": {"path": "/"}}],
        });
        assert_eq!(
            found(Level::Baseline, spec),
            "non-default capabilities (container \"a\" must not include \"NET_ADMIN\", \"SYS_ADMIN\" in \
             securityContext.capabilities.add), host namespaces (hostNetwork=true, hostPID=true), \
             hostPath volumes (volume \"h\"), hostPort (container \"a\" uses hostPort 80), \
             privileged (containers \"i\", \"b\" must not set securityContext.privileged=true), \
             procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\"), \
             seccompProfile (container \"b\" must not set securityContext.seccompProfile.type to \"Unconfined\")"
        );
    }

    #[test]
    fn labels_are_checked() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| (format!("{LABEL}{key}"), (*value).to_owned())).collect()
        };
        let (read, errors) = policy(Some(&labels(&[("enforce", "baseline"), ("enforce-version", "v1.30")])));
        assert_eq!((errors.len(), read.enforce.to_string()), (0, "baseline:v1.30".to_owned()));
        assert_eq!(read.warn.level, Level::Baseline);
        let (_, errors) = policy(Some(&labels(&[("enforce", "strict"), ("warn-version", "x")])));
        assert_eq!(
            errors[0].to_string(),
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, \
             baseline, restricted"
        );
        assert_eq!(errors.len(), 2);
    }
}
