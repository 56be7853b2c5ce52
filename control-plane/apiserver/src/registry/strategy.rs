//! What differs from one resource to the next.
//!
//! The registry ([`super::generic`]) knows how objects are created, updated, listed and deleted; a [`Strategy`] knows what
//! is particular to one resource: its defaults, its validation, which fields a caller may set, how a table row looks. A
//! strategy does no I/O. Hooks are called in this order:
//!
//! | request          | hooks                                                                                                  |
//! |------------------|--------------------------------------------------------------------------------------------------------|
//! | create           | `default`, `prepare_for_create`, `validate`, `validate_create`, `reserve`                               |
//! | update, patch    | `default`, `prepare_for_update`, `validate`, `validate_update`, `reserve`                               |
//! | `.../status`     | `default`, `prepare_for_status_update`, `validate_status_update`                                        |
//! | `.../scale`      | `set_scale`, then as update                                                                             |
//! | `.../finalize`   | `default`, `prepare_for_finalize`, `validate`                                                           |
//! | `.../resize` ... | `default`, `prepare_for_part_update`, `validate_part_update`                                            |
//! | `.../approval`   | `default`, `prepare_for_approval`, `validate_approval`                                                  |
//! | delete           | `check_delete`, `grace_period`; if it must wait `prepare_for_deletion`; else `reserve` ([`Change::Delete`]) |
//!
//! Object metadata (names, labels, uid, generation, timestamps, finalizers) belongs to the registry: a strategy does not
//! touch it, it only says when the generation goes up ([`Strategy::bumps_generation`]).

use jiff::Timestamp;
use k8s_openapi::Metadata as _;
use serde_json::{Value, json};
use skep_api::{
    field, meta::ApiObject, name::Validator, options::DeleteOptions, resource::ResourceInfo, status::StatusError,
};
use skep_storage::SelectableField;

use crate::user::UserInfo;

pub use k8s_openapi::api::autoscaling::v1::Scale;

/// What a strategy may know about the request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// The namespace of the request, none for cluster-scoped resources.
    pub namespace: Option<&'a str>,
    /// The one "now" of this request.
    pub now: Timestamp,
    /// Nothing will be written (`dryRun=All`).
    pub dry_run: bool,
}

/// A change that is about to be committed, as [`Strategy::reserve`] sees it.
pub enum Change<'a, O> {
    /// `object` will be created; the hook may still fill in what it allocates.
    Create {
        /// The object to be stored.
        object: &'a mut O,
    },
    /// `object` will replace `old`.
    Update {
        /// The object to be stored.
        object: &'a mut O,
        /// The object stored now.
        old: &'a O,
    },
    /// `old` will be gone.
    Delete {
        /// The object stored now.
        old: &'a O,
    },
}

/// Further keys that are taken or released in the same etcd transaction as the object itself.
///
/// Each taken key must be absent when the transaction runs; that is what makes an allocation impossible to hand out twice.
/// When a transaction fails because someone else holds a key, `reserve` is called again with that key in `lost`.
#[derive(Debug, Default)]
pub struct Reservation {
    /// Keys that must be absent and are put with the given value.
    pub take: Vec<(String, Vec<u8>)>,
    /// Keys that are deleted.
    pub release: Vec<String>,
    /// Keys that earlier attempts of the same request found taken.
    pub lost: Vec<String>,
}

/// One column of `kubectl get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading, such as `Ready`.
    pub name: &'static str,
    /// `string`, `integer`, `date` or `boolean`.
    pub kind: &'static str,
    /// `name` for the name column, otherwise mostly empty.
    pub format: &'static str,
    /// What the column says.
    pub description: &'static str,
    /// 0 is always shown, 1 only by `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A column that is always shown.
    pub const fn new(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        Self { name, kind, format: "", description, priority: 0 }
    }

    /// A column that only `-o wide` shows.
    pub const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Self {
        Self { name, kind, format: "", description, priority: 1 }
    }

    /// The column in a table's `columnDefinitions`.
    pub(crate) fn definition(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }

    /// The first column of nearly every table.
    pub const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace.",
        priority: 0,
    };

    /// The age column of nearly every table.
    pub const AGE: Self = Self::new(
        "Age",
        "string",
        "CreationTimestamp is a timestamp representing the server time when this object was created.",
    );

    /// The second column of tables that upstream does not design.
    pub const CREATED_AT: Self = Self::new(
        "Created At",
        "date",
        "CreationTimestamp is a timestamp representing the server time when this object was created.",
    );
}

/// How a delete request treats this object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// The resource knows no graceful deletion, or this object needs none: it goes at once (finalizers aside).
    Immediate,
    /// Someone (the kubelet) must confirm within so many seconds (> 0).
    Seconds(i64),
}

/// What differs from one resource to the next; see the module's description for when each hook is called.
///
/// Only [`info`](Self::info) and [`prefix`](Self::prefix) are required. Errors of `validate*` become one 422 Invalid
/// Status; hooks that return [`StatusError`] answer with exactly that.
pub trait Strategy: Send + Sync + 'static {
    /// The resource's Rust type.
    type Object: ApiObject;

    // --- what it is ---

    /// The row of the resource table.
    fn info(&self) -> &'static ResourceInfo;

    /// Where objects live, with both slashes: `/registry/pods/`, `/registry/services/specs/`, `/registry/minions/`.
    /// Keys are `<prefix><namespace>/<name>`, or `<prefix><name>` for cluster-scoped resources.
    fn prefix(&self) -> &'static str;

    /// Field selectors supported beyond `metadata.name` and `metadata.namespace`, such as `spec.nodeName`.
    fn selectable_fields(&self) -> Vec<SelectableField> {
        Vec::new()
    }

    // --- create and update ---

    /// Fills in defaults, as upstream's `SetDefaults_*` do. Runs on every body received.
    fn default(&self, object: &mut Self::Object) {
        let _ = object;
    }

    /// Drops what a caller may not set (status) before the object is created.
    fn prepare_for_create(&self, ctx: &Context<'_>, object: &mut Self::Object) {
        let _ = (ctx, object);
    }

    /// Checks a new object, and on update the new state by itself. Metadata was checked before.
    fn validate(&self, object: &Self::Object) -> Vec<field::Error> {
        let _ = object;
        Vec::new()
    }

    /// Checks what is demanded of new objects only.
    fn validate_create(&self, object: &Self::Object) -> Vec<field::Error> {
        let _ = object;
        Vec::new()
    }

    /// How upstream checks `metadata.name` of this resource.
    fn name_validator(&self) -> Validator {
        skep_api::name::dns1123_subdomain
    }

    /// Carries over from `old` what this request may not change (status, immutable server-set fields).
    fn prepare_for_update(&self, ctx: &Context<'_>, object: &mut Self::Object, old: &Self::Object) {
        let _ = (ctx, object, old);
    }

    /// Checks what may change between `old` and `object`. Metadata was checked before.
    fn validate_update(&self, object: &Self::Object, old: &Self::Object) -> Vec<field::Error> {
        let _ = (object, old);
        Vec::new()
    }

    /// Whether `metadata.generation` goes up with this update. The usual rule: spec differs. Called after
    /// [`prepare_for_update`](Self::prepare_for_update). Resources whose `metadata.generation` upstream leaves unset
    /// (ConfigMap, Secret, Service, Node, Namespace ...) keep the default and [`has_generation`](Self::has_generation).
    fn bumps_generation(&self, object: &Self::Object, old: &Self::Object) -> bool {
        let _ = (object, old);
        false
    }

    /// Whether objects of this resource get `metadata.generation: 1` at creation (Deployment, ReplicaSet, Pod,
    /// EndpointSlice ...).
    fn has_generation(&self) -> bool {
        false
    }

    /// Whether PUT to a name that does not exist creates it (upstream: leases, endpoints, events, services ...).
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether an update without resourceVersion overwrites whatever is there. Upstream says yes nearly everywhere.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Seconds after which etcd drops the object, counted from its last write (Event: one hour).
    fn ttl(&self) -> Option<u64> {
        None
    }

    // --- subresources ---

    /// Keeps everything but `.status` (and what upstream lets a status update change) from `old`. Only called when the
    /// resource has a `status` subresource.
    fn prepare_for_status_update(&self, ctx: &Context<'_>, object: &mut Self::Object, old: &Self::Object) {
        let _ = (ctx, object, old);
    }

    /// Checks a status update.
    fn validate_status_update(&self, object: &Self::Object, old: &Self::Object) -> Vec<field::Error> {
        let _ = (object, old);
        Vec::new()
    }

    /// Keeps everything but what `finalize` may change from `old` (Namespace: `spec.finalizers`).
    fn prepare_for_finalize(&self, ctx: &Context<'_>, object: &mut Self::Object, old: &Self::Object) {
        let _ = (ctx, object, old);
    }

    /// Keeps everything but what `approval` may change from `old` (CertificateSigningRequest: its conditions).
    fn prepare_for_approval(&self, ctx: &Context<'_>, object: &mut Self::Object, old: &Self::Object) {
        let _ = (ctx, object, old);
    }

    /// Checks an update of `approval`.
    fn validate_approval(&self, object: &Self::Object, old: &Self::Object) -> Vec<field::Error> {
        let _ = (object, old);
        Vec::new()
    }

    /// Keeps everything but what the subresource `name` may change from `old` (Pod: `resize`, `ephemeralcontainers`).
    fn prepare_for_part_update(&self, name: &str, ctx: &Context<'_>, object: &mut Self::Object, old: &Self::Object) {
        let _ = (name, ctx, object, old);
    }

    /// Checks an update of such a subresource.
    fn validate_part_update(&self, name: &str, object: &Self::Object, old: &Self::Object) -> Vec<field::Error> {
        let _ = (name, object, old);
        Vec::new()
    }

    /// The `scale` subresource of this object; none when the resource has none. Metadata of the answer is filled in by
    /// the registry; spec and status (replicas, selector as a string) are the strategy's.
    fn scale(&self, object: &Self::Object) -> Option<Scale> {
        let _ = object;
        None
    }

    /// Sets the number of replicas an update of `scale` asked for (already checked to be >= 0).
    fn set_scale(&self, object: &mut Self::Object, replicas: i32) {
        let _ = (object, replicas);
    }

    // --- delete ---

    /// How much time this delete request gives the object. Pods: options, else
    /// `spec.terminationGracePeriodSeconds`; not scheduled, or already Failed/Succeeded: [`Grace::Immediate`].
    fn grace_period(&self, object: &Self::Object, options: &DeleteOptions) -> Grace {
        let _ = (object, options);
        Grace::Immediate
    }

    /// Refuses a deletion altogether (Namespace: `default` may not be deleted, a terminating one is purged already).
    fn check_delete(&self, object: &Self::Object) -> Result<(), StatusError> {
        let _ = object;
        Ok(())
    }

    /// Marks an object whose deletion begins but must wait, beside `deletionTimestamp` (Namespace: phase Terminating).
    fn prepare_for_deletion(&self, object: &mut Self::Object) {
        let _ = object;
    }

    /// Whether something beside `metadata.finalizers` keeps the object (Namespace: `spec.finalizers`).
    fn has_own_finalizers(&self, object: &Self::Object) -> bool {
        let _ = object;
        false
    }

    /// Whether an immediate deletion answers with the object (Pod, Service, ServiceAccount) or with a Status.
    fn returns_deleted_object(&self) -> bool {
        false
    }

    /// Whether a deletion that says nothing about dependents leaves them (upstream: ReplicationControllers, Jobs).
    fn orphans_by_default(&self) -> bool {
        false
    }

    // --- allocation ---

    /// Whether [`reserve`](Self::reserve) does anything.
    fn reserves(&self) -> bool {
        false
    }

    /// Takes or releases further keys in the same transaction (Service: cluster IPs and node ports). May be called
    /// several times for one request, each time with a fresh copy of the object; see [`Reservation`].
    fn reserve(&self, change: Change<'_, Self::Object>, reservation: &mut Reservation) -> Result<(), StatusError> {
        let _ = (change, reservation);
        Ok(())
    }

    // --- tables ---

    /// The columns of `kubectl get`, upstream's names and order.
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::AGE] }
    }

    /// One cell for each column.
    fn row(&self, object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let meta = object.metadata();
        vec![
            Value::from(meta.name.clone().unwrap_or_default()),
            Value::from(age(meta.creation_timestamp.as_ref().map(|time| time.0), now)),
        ]
    }
}

/// An age as kubectl prints it (`5s`, `3m20s`, `2d4h`); `<unknown>` without a start.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    match since {
        Some(since) => human_duration(now.as_second() - since.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A number of seconds as kubectl prints it: two units at most, and only one when the larger says enough.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |large: i64, large_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (660, "11m"),
            (3 * 3600 + 300, "3h5m"),
            (9 * 3600, "9h"),
            (50 * 3600, "2d2h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }
}
