//! ResourceQuota: what is created in a namespace is charged to the namespace's quotas.
//!
//! The new usage is written in the same etcd transaction as the object, which demands that the quotas are as they were
//! read: usage can neither be charged twice nor for an object that was not written. Writes to one namespace that charge
//! quotas wait for each other in this server, or all but one of them would have to be done again; between servers the
//! transaction decides.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use skep_api::{
    Quantity,
    amounts::{self, Amounts},
    quota::{Subject, is_ignored},
    status::StatusError,
};
use skep_storage::{Compare, Object as Cached, Op, Resource, Storage};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{Attributes, Operation};
use crate::{
    registry::{checks::text, generic::refresh, object::Object},
    scan,
};

const PREFIX: &str = "/registry/resourcequotas/";
/// Namespaces remembered before those nobody writes to are forgotten.
const REMEMBERED: usize = 256;

/// The quotas of a namespace as this server last wrote them; the cache may be a moment behind.
type Ledger = HashMap<Arc<str>, (i64, ResourceQuota)>;

pub(super) struct Quotas {
    resource: Option<Resource>,
    ledgers: Mutex<HashMap<String, Arc<AsyncMutex<Ledger>>>>,
}

/// New usage, to be written with the object. While it is held, nobody else charges the namespace.
pub(super) struct Charged {
    ledger: OwnedMutexGuard<Ledger>,
    quotas: Vec<Charge>,
}

struct Charge {
    key: Arc<str>,
    compare: Compare,
    quota: ResourceQuota,
    value: Bytes,
}

impl std::fmt::Debug for Charged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.quotas.iter().map(|charge| &charge.key)).finish()
    }
}

impl Charged {
    pub(super) fn compares(&self) -> impl Iterator<Item = &Compare> {
        self.quotas.iter().map(|charge| &charge.compare)
    }

    pub(super) fn ops(&self) -> impl Iterator<Item = Op> {
        self.quotas.iter().map(|charge| Op::Put { key: charge.key.to_string(), value: charge.value.clone(), ttl: None })
    }

    /// Notes that it was written.
    pub(super) fn settle(mut self, revision: i64) {
        for charge in self.quotas {
            self.ledger.insert(charge.key, (revision, charge.quota));
        }
    }
}

impl Quotas {
    pub(super) fn new(storage: &Storage) -> Self {
        Self { resource: storage.resource(PREFIX), ledgers: Mutex::default() }
    }

    /// Charges the object to the quotas of its namespace; none when there is nothing to write. Before something is
    /// refused, the quotas are looked at as they are now.
    pub(super) async fn charge(
        &self,
        storage: &Storage,
        attributes: &Attributes<'_>,
        object: &dyn Object,
    ) -> Result<Option<Charged>, StatusError> {
        match self.try_charge(attributes, object).await {
            Ok(charged) => Ok(charged),
            Err(_) => {
                refresh(storage).await?;
                self.try_charge(attributes, object).await
            }
        }
    }

    async fn try_charge(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
    ) -> Result<Option<Charged>, StatusError> {
        let (Some(resource), Some(namespace)) = (&self.resource, attributes.scope.namespace) else { return Ok(None) };
        if !attributes.info.namespaced || resource.snapshot().is_empty() {
            return Ok(None);
        }
        let Some(subject) = subject(attributes, object) else { return Ok(None) };
        let prefix = format!("{PREFIX}{namespace}/");
        if resource.snapshot().range(&prefix, "").next().is_none() {
            return Ok(None);
        }
        let mut ledger = self.ledger(namespace).lock_owned().await;
        let mut charges = Vec::new();
        let snapshot = resource.snapshot();
        ledger.retain(|key, _| snapshot.get(key).is_some());
        for cached in snapshot.range(&prefix, "") {
            let Some((revision, quota)) = newest(&mut ledger, cached) else { continue };
            if let Some(used) = charge_one(attributes, (subject, object), quota)? {
                let mut quota = quota.clone();
                quota.status.get_or_insert_default().used = Some(amounts::write(&used));
                quota.metadata.resource_version = None;
                let json = serde_json::to_vec(&quota).map_err(StatusError::internal_error)?;
                charges.push(Charge {
                    key: Arc::clone(cached.key()),
                    compare: Compare::AtRevision(cached.key().to_string(), revision),
                    quota,
                    value: Bytes::from(scan::metadata_first(json)),
                });
            }
        }
        let nothing = charges.is_empty() || attributes.scope.dry_run;
        Ok((!nothing).then_some(Charged { ledger, quotas: charges }))
    }

    fn ledger(&self, namespace: &str) -> Arc<AsyncMutex<Ledger>> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = ledgers.get(namespace) {
            return Arc::clone(ledger);
        }
        if ledgers.len() >= REMEMBERED {
            ledgers.retain(|_, ledger| Arc::strong_count(ledger) > 1);
        }
        Arc::clone(ledgers.entry(namespace.to_owned()).or_default())
    }
}

/// The newest state of a quota this server knows.
fn newest<'l>(ledger: &'l mut Ledger, cached: &Cached) -> Option<(i64, &'l ResourceQuota)> {
    let known = ledger.get(cached.key()).is_some_and(|(revision, _)| *revision >= cached.mod_revision());
    if !known {
        let quota = serde_json::from_slice(cached.json()).ok()?;
        ledger.insert(Arc::clone(cached.key()), (cached.mod_revision(), quota));
    }
    ledger.get(cached.key()).map(|(revision, quota)| (*revision, quota))
}

/// What quotas see in the request; none when it cannot take anything.
fn subject<'o>(attributes: &Attributes<'_>, object: &'o dyn Object) -> Option<Subject<'o>> {
    if is_ignored(&attributes.info.group, &attributes.info.plural) {
        return None;
    }
    let creates = attributes.operation == Operation::Create && attributes.subresource.is_empty();
    let of = subject_of(object);
    let handled = match of {
        Subject::Pod(_) => creates || attributes.subresource == "resize",
        Subject::Service(_) => creates || attributes.subresource.is_empty(),
        Subject::Claim(_) => creates || matches!(attributes.subresource, "" | "status"),
        Subject::Other => creates,
    };
    handled.then_some(of)
}

fn subject_of(object: &dyn Object) -> Subject<'_> {
    let any = object.as_any();
    if let Some(pod) = any.downcast_ref::<Pod>() {
        Subject::Pod(pod)
    } else if let Some(service) = any.downcast_ref::<Service>() {
        Subject::Service(service)
    } else if let Some(claim) = any.downcast_ref::<PersistentVolumeClaim>() {
        Subject::Claim(claim)
    } else {
        Subject::Other
    }
}

/// The usage of a quota after the request; none when it does not change.
fn charge_one(
    attributes: &Attributes<'_>,
    (subject, object): (Subject<'_>, &dyn Object),
    quota: &ResourceQuota,
) -> Result<Option<Amounts>, StatusError> {
    let (group, plural) = (&*attributes.info.group, &*attributes.info.plural);
    let now = attributes.scope.now;
    let status = quota.status.as_ref();
    let hard = amounts::read(status.and_then(|status| status.hard.as_ref()));
    let used = amounts::read(status.and_then(|status| status.used.as_ref()));
    let restricted: Vec<&str> =
        hard.keys().map(String::as_str).filter(|name| subject.tracks(group, plural, name)).collect();
    if restricted.is_empty() || !subject.in_scope(quota) {
        return Ok(None);
    }
    let name = text(&quota.metadata.name);
    if let Some(missing) = subject.missing(restricted.iter().copied()) {
        return Err(attributes.forbidden(object, format!("failed quota: {name}: {missing}")));
    }
    if restricted.iter().any(|resource| !used.contains_key(*resource)) {
        let why = format!("status unknown for quota: {name}, resources: {}", restricted.join(","));
        return Err(attributes.forbidden(object, why));
    }
    let mut requested = subject.usage(group, plural, now);
    let negative: Vec<&str> =
        requested.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        let why = format!("quota usage is negative for resource(s): {}", negative.join(","));
        return Err(attributes.forbidden(object, why));
    }
    if let Some(old) = attributes.old.map(subject_of).filter(|old| old.in_scope(quota)) {
        for (name, before) in old.usage(group, plural, now) {
            requested.entry(name).and_modify(|amount| *amount = (*amount - before).max(Quantity::default()));
        }
    }
    requested.retain(|name, amount| !amount.is_zero() && hard.contains_key(name));
    if requested.is_empty() {
        return Ok(None);
    }
    let mut after = used.clone();
    amounts::add(&mut after, &requested);
    let exceeded = |name: &str| after.get(name) > hard.get(name);
    if attributes.subresource != "status" && requested.keys().any(|name| exceeded(name)) {
        let of = |list: &Amounts| {
            let parts = list.iter().filter(|(name, _)| requested.contains_key(*name) && exceeded(name));
            amounts::text(&parts.map(|(name, amount)| (name.clone(), *amount)).collect())
        };
        let why = format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            of(&requested),
            of(&used),
            of(&hard)
        );
        return Err(attributes.forbidden(object, why));
    }
    Ok(Some(after))
}
