//! How strategic merge patch treats each list and map of the built-in types. The keys are those of the
//! `x-kubernetes-patch-merge-key` extensions in upstream's OpenAPI document.

use self::Strategy::{List, Map, Set};

/// How one field is merged.
#[derive(Clone, Copy, Debug)]
pub enum Strategy {
    /// Maps merge key by key; the type of the value is given.
    Map(&'static TypeSchema),
    /// A list of scalars that unite.
    Set,
    /// A list of objects that merge by a key.
    List {
        /// The field that tells items apart.
        key: &'static str,
        /// The type of an item.
        item: &'static TypeSchema,
    },
}

/// The fields of a type that are not merged the plain way: maps merge, lists and scalars replace.
#[derive(Debug)]
pub struct TypeSchema {
    fields: &'static [(&'static str, Strategy)],
}

impl TypeSchema {
    /// No field of its own: maps merge, lists replace.
    pub const EMPTY: TypeSchema = TypeSchema { fields: &[] };

    /// How `field` is merged, when not the plain way.
    pub fn field(&self, field: &str) -> Option<Strategy> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, strategy)| *strategy)
    }
}

const fn list(key: &'static str, item: &'static TypeSchema) -> Strategy {
    List { key, item }
}

/// An object none of whose lists merge, but for its metadata.
pub static PLAIN: TypeSchema = TypeSchema { fields: &[("metadata", Map(&OBJECT_META))] };
static LEAF: TypeSchema = TypeSchema::EMPTY;

static OBJECT_META: TypeSchema = TypeSchema { fields: &[("finalizers", Set), ("ownerReferences", list("uid", &LEAF))] };

static CONDITIONS: TypeSchema = TypeSchema { fields: &[("conditions", list("type", &LEAF))] };

static CONTAINER: TypeSchema = TypeSchema {
    fields: &[
        ("env", list("name", &LEAF)),
        ("ports", list("containerPort", &LEAF)),
        ("volumeDevices", list("devicePath", &LEAF)),
        ("volumeMounts", list("mountPath", &LEAF)),
    ],
};

static POD_SPEC: TypeSchema = TypeSchema {
    fields: &[
        ("containers", list("name", &CONTAINER)),
        ("initContainers", list("name", &CONTAINER)),
        ("ephemeralContainers", list("name", &CONTAINER)),
        ("volumes", list("name", &LEAF)),
        ("imagePullSecrets", list("name", &LEAF)),
        ("hostAliases", list("ip", &LEAF)),
        ("topologySpreadConstraints", list("topologyKey", &LEAF)),
        ("resourceClaims", list("name", &LEAF)),
        ("schedulingGates", list("name", &LEAF)),
    ],
};

static POD_STATUS: TypeSchema = TypeSchema {
    fields: &[
        ("conditions", list("type", &LEAF)),
        ("podIPs", list("ip", &LEAF)),
        ("hostIPs", list("ip", &LEAF)),
        ("resourceClaimStatuses", list("name", &LEAF)),
    ],
};

static POD: TypeSchema =
    TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&POD_SPEC)), ("status", Map(&POD_STATUS))] };

static POD_TEMPLATE: TypeSchema = TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&POD_SPEC))] };

static WORKLOAD_SPEC: TypeSchema = TypeSchema { fields: &[("template", Map(&POD_TEMPLATE))] };

/// Whatever has a selector and a template of pods.
static WORKLOAD: TypeSchema = TypeSchema {
    fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&WORKLOAD_SPEC)), ("status", Map(&CONDITIONS))],
};

static NODE_SPEC: TypeSchema = TypeSchema { fields: &[("podCIDRs", Set)] };
static NODE_STATUS: TypeSchema =
    TypeSchema { fields: &[("addresses", list("type", &LEAF)), ("conditions", list("type", &LEAF))] };
static NODE: TypeSchema =
    TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&NODE_SPEC)), ("status", Map(&NODE_STATUS))] };

static SERVICE_SPEC: TypeSchema = TypeSchema { fields: &[("ports", list("port", &LEAF))] };
static SERVICE: TypeSchema = TypeSchema {
    fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&SERVICE_SPEC)), ("status", Map(&CONDITIONS))],
};

static SERVICE_ACCOUNT: TypeSchema =
    TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("secrets", list("name", &LEAF))] };

static NAMESPACE: TypeSchema = TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("status", Map(&CONDITIONS))] };

static TEMPLATE_OBJECT: TypeSchema =
    TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("template", Map(&POD_TEMPLATE))] };

static JOB_TEMPLATE: TypeSchema =
    TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&WORKLOAD_SPEC))] };
static CRON_JOB_SPEC: TypeSchema = TypeSchema { fields: &[("jobTemplate", Map(&JOB_TEMPLATE))] };
static CRON_JOB: TypeSchema = TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&CRON_JOB_SPEC))] };

static WEBHOOK: TypeSchema = TypeSchema { fields: &[("matchConditions", list("name", &LEAF))] };
static WEBHOOKS: TypeSchema =
    TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("webhooks", list("name", &WEBHOOK))] };
static POLICY_SPEC: TypeSchema =
    TypeSchema { fields: &[("matchConditions", list("name", &LEAF)), ("variables", list("name", &LEAF))] };
static POLICY: TypeSchema = TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&POLICY_SPEC))] };

static CSI_NODE_SPEC: TypeSchema = TypeSchema { fields: &[("drivers", list("name", &LEAF))] };
static CSI_NODE: TypeSchema = TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("spec", Map(&CSI_NODE_SPEC))] };

static CLAIM_STATUS: TypeSchema = TypeSchema { fields: &[("reservedFor", list("uid", &LEAF))] };
static CLAIM: TypeSchema = TypeSchema { fields: &[("metadata", Map(&OBJECT_META)), ("status", Map(&CLAIM_STATUS))] };

/// The schema of a built-in kind; [`PLAIN`] for one without lists of its own that merge.
pub fn schema_for(kind: &str) -> &'static TypeSchema {
    match kind {
        "Pod" => &POD,
        "DaemonSet" | "Deployment" | "Job" | "ReplicaSet" | "ReplicationController" | "StatefulSet" => &WORKLOAD,
        "PodTemplate" => &TEMPLATE_OBJECT,
        "CronJob" => &CRON_JOB,
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => &WEBHOOKS,
        "ValidatingAdmissionPolicy" => &POLICY,
        "CSINode" => &CSI_NODE,
        "ResourceClaim" => &CLAIM,
        "Node" => &NODE,
        "Service" => &SERVICE,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        // Conditions are all that merges here.
        "FlowSchema"
        | "HorizontalPodAutoscaler"
        | "Namespace"
        | "PersistentVolumeClaim"
        | "PodDisruptionBudget"
        | "PriorityLevelConfiguration"
        | "ServiceCIDR" => &NAMESPACE,
        _ => &PLAIN,
    }
}
