//! ResourceQuotas: counts again what is used, so that what was deleted can be used anew.
//!
//! Admission charges what is created; only this controller gives back. It counts at least as fresh as the quota it read,
//! and its write fails if something was charged since: it can never forget an object that was charged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, ListParams, PostParams, VersionMatch};
use serde::de::DeserializeOwned;
use skep_api::amounts::{self, Amounts};
use skep_api::quota::{Subject, count_name};

use crate::context::Context;
use crate::controller::{Queue, Reconciler};
use crate::discovery::{self, ResourceType};
use crate::error::{Context as _, Error};
use crate::informer::Delta;
use crate::meta::{self, ObjectKey};
use crate::pod;

/// Everything is counted again after this long, whatever happened (upstream: `--resource-quota-sync-period`).
const RESYNC: Duration = Duration::from_secs(300);

/// The ResourceQuota controller.
pub(crate) struct ResourceQuotaController {
    context: Context,
    queue: Queue,
}

impl ResourceQuotaController {
    /// The controller, with its event handlers registered.
    pub(crate) fn new(context: Context, queue: Queue) -> Arc<Self> {
        let this = Arc::new(Self { context, queue });
        let queue = this.queue.clone();
        this.context.informers.quotas.on_change(move |delta| {
            let due = match delta {
                Delta::Added(_) => true,
                // What admission charges is right as it is.
                Delta::Modified { old, new } => hard(old) != hard(new) || !is_counted(new),
                Delta::Deleted(_) => false,
            };
            if due {
                queue.add(ObjectKey::of(&delta.object().metadata));
            }
        });
        let enqueue = |controller: &Arc<Self>| {
            let (queue, quotas) = (controller.queue.clone(), controller.context.informers.quotas.clone());
            move |namespace: &str| {
                for quota in quotas.in_namespace(namespace) {
                    queue.add(ObjectKey::of(&quota.metadata));
                }
            }
        };
        let freed = enqueue(&this);
        this.context.informers.pods.on_change(move |delta| {
            if let Delta::Deleted(pod) = delta {
                freed(meta::namespace(&pod.metadata));
            } else if let Delta::Modified { old, new } = delta
                && (pod::is_terminal(new) && !pod::is_terminal(old) || requests(old) != requests(new))
            {
                freed(meta::namespace(&new.metadata));
            }
        });
        let freed = enqueue(&this);
        this.context.informers.services.on_change(move |delta| match delta {
            Delta::Deleted(service) => freed(meta::namespace(&service.metadata)),
            Delta::Modified { old, new } if service_cost(old) != service_cost(new) => {
                freed(meta::namespace(&new.metadata));
            }
            _ => {}
        });
        let freed = enqueue(&this);
        this.context.informers.claims.on_change(move |delta| match delta {
            Delta::Deleted(claim) => freed(meta::namespace(&claim.metadata)),
            Delta::Modified { old, new } if claim_cost(old) != claim_cost(new) => freed(meta::namespace(&new.metadata)),
            _ => {}
        });
        this
    }

    /// An object of some type is gone. Pods, services and claims are seen by informers.
    pub(crate) fn removed(&self, kind: &ResourceType, namespace: &str) {
        let (group, plural) = (kind.resource.group.as_str(), kind.resource.plural.as_str());
        if namespace.is_empty() || measured(group, plural) {
            return;
        }
        for quota in self.context.informers.quotas.in_namespace(namespace) {
            let counts = hard(&quota).keys().any(|name| Subject::Other.tracks(group, plural, name));
            if counts {
                self.queue.add(ObjectKey::of(&quota.metadata));
            }
        }
    }

    async fn list<K>(&self, quota: &ResourceQuota) -> Result<Vec<K>, Error>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let namespace = meta::namespace(&quota.metadata);
        let api: Api<K> = Api::namespaced(self.context.client.clone(), namespace);
        let list = api.list(&as_fresh_as(quota)).await;
        Ok(list.context(|| format!("listing {} of {namespace}", K::plural(&())))?.items)
    }

    /// How many objects of a type there are. The server counts; only one of them is sent.
    async fn count(&self, quota: &ResourceQuota, kind: &ResourceType) -> Result<i64, Error> {
        let namespace = meta::namespace(&quota.metadata);
        let api: Api<DynamicObject> = Api::namespaced_with(self.context.client.clone(), namespace, &kind.resource);
        let list = api
            .list_metadata(&as_fresh_as(quota).limit(1))
            .await
            .context(|| format!("counting {} of {namespace}", kind.resource.plural))?;
        let seen = i64::try_from(list.items.len()).unwrap_or(i64::MAX);
        Ok(seen.saturating_add(list.metadata.remaining_item_count.unwrap_or(0)))
    }

    /// What is used of everything the quota limits.
    async fn used(&self, quota: &ResourceQuota) -> Result<Amounts, Error> {
        let hard = hard(quota);
        let now = Timestamp::now();
        let mut used = Amounts::new();
        let mut open: BTreeSet<&str> = hard.keys().map(String::as_str).collect();
        // Takes the names a type answers for; says whether there are any.
        let mut claim = |subject: Subject<'_>, group: &str, plural: &str| {
            let before = open.len();
            open.retain(|name| {
                let tracked = subject.tracks(group, plural, name);
                if tracked {
                    used.entry((*name).to_owned()).or_default();
                }
                !tracked
            });
            open.len() < before
        };
        let (some_pod, some_service, some_claim) =
            (Pod::default(), Service::default(), PersistentVolumeClaim::default());
        let pods = claim(Subject::Pod(&some_pod), "", "pods");
        let services = claim(Subject::Service(&some_service), "", "services");
        let claims = claim(Subject::Claim(&some_claim), "", "persistentvolumeclaims");
        let charge = |used: &mut Amounts, subject: Subject<'_>, plural: &str| {
            if subject.in_scope(quota) {
                let mut usage = subject.usage("", plural, now);
                usage.retain(|name, _| hard.contains_key(name));
                amounts::add(used, &usage);
            }
        };
        let open: Vec<String> = open.into_iter().map(str::to_owned).collect();
        if pods {
            for pod in self.list::<Pod>(quota).await? {
                charge(&mut used, Subject::Pod(&pod), "pods");
            }
        }
        if services {
            for service in self.list::<Service>(quota).await? {
                charge(&mut used, Subject::Service(&service), "services");
            }
        }
        if claims {
            for claim in self.list::<PersistentVolumeClaim>(quota).await? {
                charge(&mut used, Subject::Claim(&claim), "persistentvolumeclaims");
            }
        }
        if !open.is_empty() {
            self.count_others(quota, &open, &mut used).await?;
        }
        Ok(used)
    }

    /// Counts the objects behind names such as `count/deployments.apps` and `secrets`. A type nobody serves stays out.
    async fn count_others(&self, quota: &ResourceQuota, open: &[String], used: &mut Amounts) -> Result<(), Error> {
        let found = discovery::discover(&self.context.client).await?;
        for kind in found.types.iter().filter(|kind| kind.namespaced && kind.supports("list")) {
            let (group, plural) = (kind.resource.group.as_str(), kind.resource.plural.as_str());
            let names: Vec<&String> = open.iter().filter(|name| Subject::Other.tracks(group, plural, name)).collect();
            if names.is_empty() {
                continue;
            }
            let number = if Subject::Other.in_scope(quota) { self.count(quota, kind).await? } else { 0 };
            let amount = skep_api::Quantity::from_units(number, skep_api::quantity::Format::DecimalSi);
            used.extend(names.into_iter().map(|name| (name.clone(), amount)));
        }
        // A type that could not be looked up must not look unused.
        if let Some((_, error)) = found.failed.into_iter().next()
            && open.iter().any(|name| !used.contains_key(name))
        {
            return Err(error);
        }
        Ok(())
    }
}

impl Reconciler for ResourceQuotaController {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let quotas = &self.context.informers.quotas;
        let Some(quota) = quotas.by_key(key) else { return Ok(None) };
        if meta::is_deleting(&quota.metadata) {
            return Ok(None);
        }
        let used = self.used(&quota).await?;
        let status = quota.status.clone().unwrap_or_default();
        let before = (amounts::read(status.hard.as_ref()), amounts::read(status.used.as_ref()));
        if before == (hard(&quota), used.clone()) {
            return Ok(Some(RESYNC));
        }
        let mut counted = (*quota).clone();
        let status = counted.status.get_or_insert_default();
        status.hard = counted.spec.as_ref().and_then(|spec| spec.hard.clone());
        status.used = Some(amounts::write(&used));
        let api: Api<ResourceQuota> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = api.replace_status(&key.name, &PostParams::default(), &counted).await;
        match written.context(|| format!("updating status of quota {key}")) {
            Ok(written) => {
                quotas.wrote(&written);
                Ok(Some(RESYNC))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A list that has seen everything the quota has.
fn as_fresh_as(quota: &ResourceQuota) -> ListParams {
    let version = quota.metadata.resource_version.as_deref().unwrap_or("0");
    ListParams::default().at(version).matching(VersionMatch::NotOlderThan)
}

fn hard(quota: &ResourceQuota) -> Amounts {
    amounts::read(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()))
}

/// Whether the status says of everything that is limited how much is used.
fn is_counted(quota: &ResourceQuota) -> bool {
    let status = quota.status.as_ref();
    let used = amounts::read(status.and_then(|status| status.used.as_ref()));
    let known = amounts::read(status.and_then(|status| status.hard.as_ref()));
    known == hard(quota) && (known.is_empty() || !used.is_empty())
}

/// Types whose objects are measured, not only counted.
fn measured(group: &str, plural: &str) -> bool {
    ["pods", "services", "persistentvolumeclaims"].iter().any(|one| count_name("", one) == count_name(group, plural))
}

fn requests(pod: &Pod) -> (Amounts, Amounts) {
    (amounts::pod_requests(pod), amounts::pod_limits(pod))
}

fn service_cost(service: &Service) -> Amounts {
    Subject::Service(service).usage("", "services", Timestamp::UNIX_EPOCH)
}

fn claim_cost(claim: &PersistentVolumeClaim) -> Amounts {
    Subject::Claim(claim).usage("", "persistentvolumeclaims", Timestamp::UNIX_EPOCH)
}
