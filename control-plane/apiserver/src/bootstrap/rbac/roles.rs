//! The roles of people and of components, and their bindings.

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};

use super::{
    EVENTS, READ, READ_WRITE, Rule, WRITE, account, aggregated, cluster_binding, cluster_role, group, named,
    namespace_binding, namespace_role, policies, rule, urls, user,
};
use crate::user::{AUTHENTICATED, MASTERS, UNAUTHENTICATED};

const TO_ADMIN: &str = "rbac.authorization.k8s.io/aggregate-to-admin";
const TO_EDIT: &str = "rbac.authorization.k8s.io/aggregate-to-edit";
const TO_VIEW: &str = "rbac.authorization.k8s.io/aggregate-to-view";

const CSR: &str = "certificates.k8s.io";
const LEASES: &str = "coordination.k8s.io";
const DRA: &str = "resource.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const TOKEN_REVIEWS: Rule = rule("create", "authentication.k8s.io", "tokenreviews");
const ACCESS_REVIEWS: Rule = rule("create", "authorization.k8s.io", "subjectaccessreviews");

const AGGREGATE_TO_ADMIN: &[Rule] = &[
    rule("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    rule(READ_WRITE, "rbac.authorization.k8s.io", "rolebindings roles"),
];

const AGGREGATE_TO_EDIT: &[Rule] = &[
    rule(READ, "", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
    rule("impersonate", "", "serviceaccounts"),
    rule(WRITE, "", "pods pods/attach pods/exec pods/portforward pods/proxy"),
    rule("create", "", "pods/eviction"),
    rule(
        WRITE,
        "",
        "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
         serviceaccounts services services/proxy",
    ),
    rule("create", "", "serviceaccounts/token"),
    rule(
        WRITE,
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
         statefulsets/scale",
    ),
    rule(WRITE, "autoscaling", "horizontalpodautoscalers"),
    rule(WRITE, "batch", "cronjobs jobs"),
    rule(
        WRITE,
        "extensions",
        "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets \
         replicasets/scale replicationcontrollers/scale",
    ),
    rule(WRITE, "policy", "poddisruptionbudgets"),
    rule(WRITE, NETWORKING, "ingresses networkpolicies"),
    rule(READ_WRITE, LEASES, "leases"),
    rule(WRITE, DRA, "resourceclaims resourceclaimtemplates"),
];

const AGGREGATE_TO_VIEW: &[Rule] = &[
    rule(
        READ,
        "",
        "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
         replicationcontrollers/scale serviceaccounts services services/status",
    ),
    rule(
        READ,
        "",
        "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas \
         resourcequotas/status",
    ),
    rule(READ, "", "namespaces"),
    rule(READ, "discovery.k8s.io", "endpointslices"),
    rule(
        READ,
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
         replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    rule(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    rule(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
    rule(
        READ,
        "extensions",
        "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status \
         networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
    ),
    rule(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    rule(READ, NETWORKING, "ingresses ingresses/status networkpolicies"),
    rule(READ, DRA, "resourceclaims resourceclaims/status resourceclaimtemplates"),
];

const CONTROLLER_MANAGER: &[Rule] = &[
    EVENTS,
    rule("create", LEASES, "leases"),
    named("get update", LEASES, "leases", "kube-controller-manager"),
    rule("create", "", "secrets serviceaccounts"),
    rule("delete", "", "secrets"),
    rule("get", "", "configmaps namespaces secrets serviceaccounts"),
    rule("update", "", "secrets serviceaccounts"),
    TOKEN_REVIEWS,
    ACCESS_REVIEWS,
    rule("list watch", "*", "*"),
    rule("create", "", "serviceaccounts/token"),
];

const SCHEDULER: &[Rule] = &[
    EVENTS,
    rule("create", LEASES, "leases"),
    named("get list update watch", LEASES, "leases", "kube-scheduler"),
    rule(READ_WRITE, LEASES, "leasecandidates"),
    rule(READ, "", "nodes"),
    rule("delete get list watch", "", "pods"),
    rule("create", "", "bindings pods/binding"),
    rule("patch update", "", "pods/status"),
    rule(READ, "", "replicationcontrollers services"),
    rule(READ, "apps extensions", "replicasets"),
    rule(READ, "apps", "statefulsets"),
    rule(READ, "policy", "poddisruptionbudgets"),
    rule(READ, "", "persistentvolumeclaims persistentvolumes"),
    TOKEN_REVIEWS,
    ACCESS_REVIEWS,
    rule(READ, STORAGE, "csinodes"),
    rule(READ, STORAGE, "volumeattachments"),
    rule(READ, "", "namespaces"),
    rule(READ, STORAGE, "csidrivers"),
    rule(READ, STORAGE, "csistoragecapacities"),
    rule(READ, DRA, "deviceclasses"),
    rule("get list patch update watch", DRA, "resourceclaims"),
    rule("get list patch update watch", DRA, "resourceclaims/status"),
    rule("get list patch update watch", "", "pods/finalizers"),
    rule(READ, DRA, "resourceslices"),
];

/// What a node may do, before the node authorizer narrows it.
pub(super) const NODE: &[Rule] = &[
    TOKEN_REVIEWS,
    rule("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
    rule(READ, "", "services"),
    rule("create get list watch", "", "nodes"),
    rule("patch update", "", "nodes/status"),
    rule("patch update", "", "nodes"),
    rule("create patch update", "", "events"),
    rule(READ, "", "pods"),
    rule("create delete", "", "pods"),
    rule("patch update", "", "pods/status"),
    rule("create", "", "pods/eviction"),
    rule(READ, "", "configmaps secrets"),
    rule("get", "", "persistentvolumeclaims persistentvolumes"),
    rule("get", "", "endpoints"),
    rule("create get list watch", CSR, "certificatesigningrequests"),
    rule("create delete get patch update", LEASES, "leases"),
    rule("get", STORAGE, "volumeattachments"),
    rule("create", "", "serviceaccounts/token"),
    rule("get patch update", "", "persistentvolumeclaims/status"),
    rule(READ, STORAGE, "csidrivers"),
    rule("create delete get patch update", STORAGE, "csinodes"),
    rule(READ, "node.k8s.io", "runtimeclasses"),
    rule("get", DRA, "resourceclaims"),
    rule("deletecollection", DRA, "resourceslices"),
    rule("get", "", "serviceaccounts"),
];

pub(super) const NODE_PROXIER: &[Rule] = &[
    rule("list watch", "", "endpoints services"),
    rule(READ, "", "nodes"),
    EVENTS,
    rule("list watch", NETWORKING, "servicecidrs"),
    rule("list watch", "discovery.k8s.io", "endpointslices"),
];

/// What skep's node daemon follows besides, to enforce NetworkPolicy.
pub(super) const NODE_POLICIES: &[Rule] =
    &[rule("list watch", "", "namespaces pods"), rule("list watch", NETWORKING, "networkpolicies")];

/// Roles without labels of their own.
const PLAIN: &[(&str, &[Rule])] = &[
    ("cluster-admin", &[rule("*", "*", "*"), Rule { verbs: "*", groups: "", resources: "", names: "", urls: "*" }]),
    (
        "system:discovery",
        &[urls("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
    ),
    (
        "system:basic-user",
        &[
            rule("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            rule("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    ("system:public-info-viewer", &[urls("/healthz /livez /readyz /version /version/")]),
    ("system:heapster", &[rule(READ, "", "events namespaces nodes pods"), rule(READ, "extensions", "deployments")]),
    ("system:node", NODE),
    ("system:node-problem-detector", &[rule("get", "", "nodes"), rule("patch", "", "nodes/status"), EVENTS]),
    (
        "system:kubelet-api-admin",
        &[
            rule(READ, "", "nodes"),
            rule("proxy", "", "nodes"),
            rule("*", "", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
            rule("*", "", "nodes/configz nodes/healthz nodes/pods"),
        ],
    ),
    ("system:node-bootstrapper", &[rule("create get list watch", CSR, "certificatesigningrequests")]),
    ("system:auth-delegator", &[TOKEN_REVIEWS, ACCESS_REVIEWS]),
    ("system:kube-aggregator", &[rule(READ, "", "endpoints services")]),
    ("system:kube-controller-manager", CONTROLLER_MANAGER),
    ("system:kube-dns", &[rule("list watch", "", "endpoints services")]),
    ("system:kube-scheduler", SCHEDULER),
    (
        "system:monitoring",
        &[
            urls("/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*"),
            urls("/flagz"),
            urls("/statusz"),
        ],
    ),
    ("system:node-proxier", NODE_PROXIER),
    (
        "system:persistent-volume-provisioner",
        &[
            rule("create delete get list watch", "", "persistentvolumes"),
            rule("get list update watch", "", "persistentvolumeclaims"),
            rule(READ, STORAGE, "storageclasses"),
            rule("watch", "", "events"),
            EVENTS,
        ],
    ),
    (
        "system:service-account-issuer-discovery",
        &[urls(
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        )],
    ),
    (
        "system:volume-scheduler",
        &[
            rule("get list patch update watch", "", "persistentvolumes"),
            rule(READ, STORAGE, "storageclasses"),
            rule("get list patch update watch", "", "persistentvolumeclaims"),
        ],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[rule("create", CSR, "certificatesigningrequests/nodeclient")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[rule("create", CSR, "certificatesigningrequests/selfnodeclient")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[named("approve", CSR, "signers", "kubernetes.io/kube-apiserver-client")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[named("approve", CSR, "signers", "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    (
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[named("approve", CSR, "signers", "kubernetes.io/kubelet-serving")],
    ),
    (
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[named("approve", CSR, "signers", "kubernetes.io/legacy-unknown")],
    ),
];

/// Cluster roles but for those of controllers.
pub(super) fn cluster_roles() -> Vec<ClusterRole> {
    let plain = PLAIN.iter().map(|(name, rules)| cluster_role(name, &[], policies(rules)));
    let mut roles: Vec<_> = plain.collect();
    roles.extend([
        aggregated("admin", &[], TO_ADMIN),
        aggregated("edit", &[(TO_ADMIN, "true")], TO_EDIT),
        aggregated("view", &[(TO_EDIT, "true")], TO_VIEW),
        cluster_role("system:aggregate-to-admin", &[(TO_ADMIN, "true")], policies(AGGREGATE_TO_ADMIN)),
        cluster_role("system:aggregate-to-edit", &[(TO_EDIT, "true")], policies(AGGREGATE_TO_EDIT)),
        cluster_role("system:aggregate-to-view", &[(TO_VIEW, "true")], policies(AGGREGATE_TO_VIEW)),
    ]);
    roles
}

/// Cluster role bindings but for those of controllers.
pub(super) fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    vec![
        cluster_binding("cluster-admin", vec![group(MASTERS)]),
        cluster_binding("system:monitoring", vec![group("system:monitoring")]),
        cluster_binding("system:discovery", vec![group(AUTHENTICATED)]),
        cluster_binding("system:basic-user", vec![group(AUTHENTICATED)]),
        cluster_binding("system:public-info-viewer", vec![group(AUTHENTICATED), group(UNAUTHENTICATED)]),
        cluster_binding("system:node-proxier", vec![user("system:kube-proxy")]),
        cluster_binding("system:kube-controller-manager", vec![user("system:kube-controller-manager")]),
        cluster_binding("system:kube-dns", vec![account("kube-dns")]),
        cluster_binding("system:kube-scheduler", vec![user("system:kube-scheduler")]),
        cluster_binding("system:volume-scheduler", vec![user("system:kube-scheduler")]),
        // The node authorizer decides instead; the binding is kept for its name.
        cluster_binding("system:node", Vec::new()),
        cluster_binding("system:service-account-issuer-discovery", vec![group("system:serviceaccounts")]),
    ]
}

const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const AUTHENTICATION_READER: &str = "extension-apiserver-authentication-reader";
const SIGNER: &str = "system:controller:bootstrap-signer";
const LEADER_LOCKING: &[Rule] = &[
    rule("create get list update watch", LEASES, "leases"),
    rule("create get list update watch", LEASES, "leasecandidates"),
];

/// Roles in the system's namespaces.
pub(super) fn namespace_roles() -> Vec<Role> {
    vec![
        namespace_role(
            SYSTEM,
            AUTHENTICATION_READER,
            &[named(READ, "", "configmaps", "extension-apiserver-authentication")],
        ),
        namespace_role(SYSTEM, SIGNER, &[rule(READ, "", "secrets")]),
        namespace_role(SYSTEM, "system:controller:cloud-provider", &[rule("create get list watch", "", "configmaps")]),
        namespace_role(
            SYSTEM,
            "system:controller:token-cleaner",
            &[rule("delete get list watch", "", "secrets"), EVENTS],
        ),
        namespace_role(SYSTEM, "system::leader-locking-kube-controller-manager", LEADER_LOCKING),
        namespace_role(SYSTEM, "system::leader-locking-kube-scheduler", LEADER_LOCKING),
        namespace_role(
            PUBLIC,
            SIGNER,
            &[rule(READ, "", "configmaps"), named("update", "", "configmaps", "cluster-info"), EVENTS],
        ),
    ]
}

/// Bindings in the system's namespaces.
pub(super) fn namespace_role_bindings() -> Vec<RoleBinding> {
    let (manager, scheduler) = ("system:kube-controller-manager", "system:kube-scheduler");
    let own = |namespace: &str, name: &str, subjects| namespace_binding(namespace, name, name, subjects);
    vec![
        own(SYSTEM, AUTHENTICATION_READER, vec![user(manager), user(scheduler)]),
        own(SYSTEM, SIGNER, vec![account("bootstrap-signer")]),
        own(SYSTEM, "system:controller:cloud-provider", vec![account("cloud-provider")]),
        own(SYSTEM, "system:controller:token-cleaner", vec![account("token-cleaner")]),
        own(
            SYSTEM,
            "system::leader-locking-kube-controller-manager",
            vec![user(manager), account("kube-controller-manager")],
        ),
        own(SYSTEM, "system::leader-locking-kube-scheduler", vec![user(scheduler), account("kube-scheduler")]),
        own(PUBLIC, SIGNER, vec![account("bootstrap-signer")]),
    ]
}
