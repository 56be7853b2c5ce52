//! The roles of the controller manager's controllers, `system:controller:NAME`, each bound to its service account.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule};

use super::{EVENTS, READ, Rule, account, binding_of, cluster_binding, cluster_role, named, policies, rule, user};

const PREFIX: &str = "system:controller:";
/// skep's own: the controllers share the controller manager's identity, as upstream's do without
/// `--use-service-account-credentials`; whoever runs them so must grant it what each of them needs.
const ALL_CONTROLLERS: &str = "skep:controllers";

const CSR: &str = "certificates.k8s.io";
const DISCOVERY: &str = "discovery.k8s.io";
const DRA: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const APPS: &str = "apps extensions";

const CONTROLLERS: &[(&str, &[Rule])] = &[
    (
        "attachdetach-controller",
        &[
            rule("list watch", "", "persistentvolumeclaims persistentvolumes"),
            rule(READ, "", "nodes"),
            rule("patch update", "", "nodes/status"),
            rule("list watch", "", "pods"),
            EVENTS,
            rule("create delete get list watch", STORAGE, "volumeattachments"),
            rule(READ, STORAGE, "csidrivers"),
            rule(READ, STORAGE, "csinodes"),
        ],
    ),
    (
        "clusterrole-aggregation-controller",
        &[rule("escalate get list patch update watch", "rbac.authorization.k8s.io", "clusterroles")],
    ),
    (
        "cronjob-controller",
        &[
            rule("get list update watch", "batch", "cronjobs"),
            rule("create delete get list patch update watch", "batch", "jobs"),
            rule("update", "batch", "cronjobs/status"),
            rule("update", "batch", "cronjobs/finalizers"),
            rule("delete list watch", "", "pods"),
            EVENTS,
        ],
    ),
    (
        "daemon-set-controller",
        &[
            rule(READ, APPS, "daemonsets"),
            rule("update", APPS, "daemonsets/status"),
            rule("update", APPS, "daemonsets/finalizers"),
            rule("list watch", "", "nodes"),
            rule("create delete list patch watch", "", "pods"),
            rule("create", "", "pods/binding"),
            rule("create delete get list patch update watch", "apps", "controllerrevisions"),
            EVENTS,
        ],
    ),
    (
        "deployment-controller",
        &[
            rule("get list update watch", APPS, "deployments"),
            rule("update", APPS, "deployments/status"),
            rule("update", APPS, "deployments/finalizers"),
            rule("create delete get list patch update watch", APPS, "replicasets"),
            rule("get list update watch", "", "pods"),
            EVENTS,
        ],
    ),
    (
        "disruption-controller",
        &[
            rule(READ, APPS, "deployments"),
            rule(READ, APPS, "replicasets"),
            rule(READ, "", "replicationcontrollers"),
            rule(READ, "policy", "poddisruptionbudgets"),
            rule(READ, "apps", "statefulsets"),
            rule("update", "policy", "poddisruptionbudgets/status"),
            rule("patch update", "", "pods/status"),
            rule("get", "*", "*/scale"),
            EVENTS,
        ],
    ),
    (
        "endpoint-controller",
        &[
            rule(READ, "", "pods services"),
            rule("create delete get list update watch", "", "endpoints"),
            rule("create", "", "endpoints/restricted"),
            EVENTS,
        ],
    ),
    (
        "endpointslice-controller",
        &[
            rule(READ, "", "nodes pods services"),
            rule("update", "", "services/finalizers"),
            rule("create delete get list update watch", DISCOVERY, "endpointslices"),
            EVENTS,
        ],
    ),
    (
        "endpointslicemirroring-controller",
        &[
            rule(READ, "", "endpoints services"),
            rule("update", "", "services/finalizers"),
            rule("update", "", "endpoints/finalizers"),
            rule("create delete get list update watch", DISCOVERY, "endpointslices"),
            EVENTS,
        ],
    ),
    (
        "expand-controller",
        &[
            rule("get list patch update watch", "", "persistentvolumes"),
            rule("patch update", "", "persistentvolumeclaims/status"),
            rule(READ, "", "persistentvolumeclaims"),
            EVENTS,
            rule("get", "", "services"),
        ],
    ),
    (
        "ephemeral-volume-controller",
        &[
            rule(READ, "", "pods"),
            rule("update", "", "pods/finalizers"),
            rule("create get list watch", "", "persistentvolumeclaims"),
            EVENTS,
        ],
    ),
    (
        "resource-claim-controller",
        &[
            rule(READ, "", "pods"),
            rule("update", "", "pods/finalizers"),
            rule("create delete get list watch", DRA, "resourceclaims"),
            rule("patch update", DRA, "resourceclaims resourceclaims/status"),
            rule("patch update", "", "pods/status"),
            EVENTS,
        ],
    ),
    ("generic-garbage-collector", &[rule("delete get list patch update watch", "*", "*"), EVENTS]),
    (
        "horizontal-pod-autoscaler",
        &[
            rule(READ, "autoscaling", "horizontalpodautoscalers"),
            rule("update", "autoscaling", "horizontalpodautoscalers/status"),
            rule("get update", "*", "*/scale"),
            rule("list watch", "", "pods"),
            rule("list watch", "metrics.k8s.io", "pods"),
            rule(READ, "custom.metrics.k8s.io", "*"),
            rule(READ, "external.metrics.k8s.io", "*"),
            EVENTS,
        ],
    ),
    (
        "job-controller",
        &[
            rule("get list patch update watch", "batch", "jobs"),
            rule("update", "batch", "jobs/status"),
            rule("update", "batch", "jobs/finalizers"),
            rule("create delete list patch watch", "", "pods"),
            EVENTS,
        ],
    ),
    (
        "namespace-controller",
        &[
            rule("delete get list watch", "", "namespaces"),
            rule("update", "", "namespaces/finalize namespaces/status"),
            rule("delete deletecollection get list watch", "*", "*"),
        ],
    ),
    (
        "node-controller",
        &[
            rule("delete get list patch update watch", "", "nodes"),
            rule("patch update", "", "nodes/status"),
            rule("patch update", "", "pods/status"),
            rule("delete get list watch", "", "pods"),
            EVENTS,
        ],
    ),
    (
        "persistent-volume-binder",
        &[
            rule("create delete get list update watch", "", "persistentvolumes"),
            rule("update", "", "persistentvolumes/status"),
            rule("get list update watch", "", "persistentvolumeclaims"),
            rule("update", "", "persistentvolumeclaims/status"),
            rule("create delete get list watch", "", "pods"),
            rule(READ, STORAGE, "storageclasses"),
            rule("list watch", "", "nodes"),
            EVENTS,
            rule("watch", "", "events"),
            rule("get", "", "services"),
        ],
    ),
    (
        "pod-garbage-collector",
        &[rule("delete list watch", "", "pods"), rule(READ, "", "nodes"), rule("patch", "", "pods/status")],
    ),
    (
        "replicaset-controller",
        &[
            rule("get list update watch", APPS, "replicasets"),
            rule("update", APPS, "replicasets/status"),
            rule("update", APPS, "replicasets/finalizers"),
            rule("create delete list patch watch", "", "pods"),
            EVENTS,
        ],
    ),
    (
        "replication-controller",
        &[
            rule("get list update watch", "", "replicationcontrollers"),
            rule("update", "", "replicationcontrollers/status"),
            rule("update", "", "replicationcontrollers/finalizers"),
            rule("create delete list patch watch", "", "pods"),
            EVENTS,
        ],
    ),
    ("resourcequota-controller", &[rule("list watch", "*", "*"), rule("update", "", "resourcequotas/status"), EVENTS]),
    ("route-controller", &[rule("list watch", "", "nodes"), rule("patch", "", "nodes/status"), EVENTS]),
    ("service-account-controller", &[rule("create", "", "serviceaccounts"), EVENTS]),
    (
        "service-controller",
        &[
            rule(READ, "", "services"),
            rule("patch update", "", "services/status"),
            rule("list watch", "", "nodes"),
            EVENTS,
        ],
    ),
    (
        "service-cidrs-controller",
        &[
            rule("get list patch update watch", NETWORKING, "servicecidrs"),
            rule("patch update", NETWORKING, "servicecidrs/finalizers"),
            rule("patch update", NETWORKING, "servicecidrs/status"),
            rule(READ, NETWORKING, "ipaddresses"),
            EVENTS,
        ],
    ),
    (
        "statefulset-controller",
        &[
            rule("list watch", "", "pods"),
            rule(READ, "apps", "statefulsets"),
            rule("update", "apps", "statefulsets/status"),
            rule("update", "apps", "statefulsets/finalizers"),
            rule("create delete get patch update", "", "pods"),
            rule("create delete get list patch update watch", "apps", "controllerrevisions"),
            rule("create get list watch", "", "persistentvolumeclaims"),
            rule("delete update", "", "persistentvolumeclaims"),
            rule("update", "", "pods/finalizers"),
            EVENTS,
        ],
    ),
    ("ttl-controller", &[rule("list patch update watch", "", "nodes"), EVENTS]),
    (
        "certificate-controller",
        &[
            rule("delete get list watch", CSR, "certificatesigningrequests"),
            rule("update", CSR, "certificatesigningrequests/approval certificatesigningrequests/status"),
            named("approve", CSR, "signers", "kubernetes.io/kube-apiserver-client-kubelet"),
            named(
                "sign",
                CSR,
                "signers",
                "kubernetes.io/kube-apiserver-client kubernetes.io/kube-apiserver-client-kubelet \
                 kubernetes.io/kubelet-serving kubernetes.io/legacy-unknown",
            ),
            rule("create", "authorization.k8s.io", "subjectaccessreviews"),
            EVENTS,
        ],
    ),
    (
        "pvc-protection-controller",
        &[rule("get list update watch", "", "persistentvolumeclaims"), rule(READ, "", "pods"), EVENTS],
    ),
    ("pv-protection-controller", &[rule("get list update watch", "", "persistentvolumes"), EVENTS]),
    (
        "volumeattributesclass-protection-controller",
        &[
            rule(READ, "", "persistentvolumeclaims"),
            rule(READ, "", "persistentvolumes"),
            rule("get list update watch", STORAGE, "volumeattributesclasses"),
            EVENTS,
        ],
    ),
    ("ttl-after-finished-controller", &[rule("delete get list watch", "batch", "jobs"), EVENTS]),
    ("root-ca-cert-publisher", &[rule("create update", "", "configmaps"), EVENTS]),
    (
        "validatingadmissionpolicy-status-controller",
        &[
            rule(READ, ADMISSION, "validatingadmissionpolicies"),
            rule("get patch update", ADMISSION, "validatingadmissionpolicies/status"),
            EVENTS,
        ],
    ),
    (
        "legacy-service-account-token-cleaner",
        &[
            named("get", "", "configmaps", "kube-apiserver-legacy-service-account-token-tracking"),
            rule("delete patch", "", "secrets"),
        ],
    ),
    (
        "selinux-warning-controller",
        &[
            EVENTS,
            rule(READ, "", "persistentvolumes"),
            rule(READ, "", "persistentvolumeclaims"),
            rule(READ, "", "pods"),
            rule(READ, STORAGE, "csidrivers"),
        ],
    ),
];

fn role_name(controller: &str) -> String {
    format!("{PREFIX}{controller}")
}

/// A role for each controller, and one for all of them.
pub(super) fn cluster_roles() -> Vec<ClusterRole> {
    let own = CONTROLLERS.iter().map(|(name, rules)| cluster_role(&role_name(name), &[], policies(rules)));
    own.chain([cluster_role(ALL_CONTROLLERS, &[], all_rules())]).collect()
}

pub(super) fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    let own = CONTROLLERS.iter().map(|(name, _)| cluster_binding(&role_name(name), vec![account(name)]));
    let all = binding_of(ALL_CONTROLLERS, ALL_CONTROLLERS, vec![user("system:kube-controller-manager")]);
    own.chain([all]).collect()
}

/// What any controller may do, the widest first: it decides most requests.
fn all_rules() -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for own in CONTROLLERS.iter().flat_map(|(_, rules)| policies(rules)) {
        if !rules.contains(&own) {
            rules.push(own);
        }
    }
    let is_wide = |rule: &PolicyRule| rule.resources.iter().flatten().any(|resource| resource == "*");
    rules.sort_by_key(|rule| !is_wide(rule));
    rules
}
