//! Which objects belong to a controller: adoption of matching orphans, release of what no longer matches.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use serde_json::json;
use tracing::debug;

use crate::error::{Context as _, Error};
use crate::informer::{Informer, Object};
use crate::meta::{self, ObjectKey};

/// The object that other objects are made for.
pub(crate) struct Owner<'a> {
    pub(crate) meta: &'a ObjectMeta,
    pub(crate) reference: OwnerReference,
    /// What events are recorded about.
    pub(crate) object: ObjectReference,
}

/// Asks the API, not the cache, whether the object is still there and not being deleted.
pub(crate) async fn is_live<K>(client: &Client, object: &K) -> Result<bool, Error>
where
    K: Object + kube::Resource<Scope = NamespaceResourceScope>,
{
    let key = ObjectKey::of(object.meta());
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let live = api.get_opt(&key.name).await.context(|| format!("reading {} {key}", K::kind(&())))?;
    Ok(live.is_some_and(|live| live.meta().uid == object.meta().uid && !meta::is_deleting(live.meta())))
}

/// Sorts out which candidates belong to the owner: keeps its own, adopts matching orphans, releases those that no longer
/// match. `can_adopt` (see [`is_live`]) is called once at most.
pub(crate) async fn claim<K, F>(
    client: &Client,
    informer: &Informer<K>,
    owner: &Owner<'_>,
    selector: &Selector,
    candidates: Vec<Arc<K>>,
    can_adopt: impl FnOnce() -> F + Send,
) -> Result<Vec<Arc<K>>, Error>
where
    K: Object + kube::Resource<Scope = NamespaceResourceScope>,
    F: Future<Output = Result<bool, Error>> + Send,
{
    let deleting = meta::is_deleting(owner.meta);
    let mut can_adopt = Some(can_adopt);
    let mut adoption_allowed = false;
    let mut claimed = Vec::with_capacity(candidates.len());
    let mut errors = Vec::new();
    for object in candidates {
        let matches = selector.matches(meta::labels(object.meta()));
        match meta::controller_of(object.meta()) {
            Some(reference) if reference.uid != meta::uid(owner.meta) => {}
            Some(_) if matches => claimed.push(object),
            Some(_) if deleting => {}
            Some(_) => {
                debug!(object = %ObjectKey::of(object.meta()), owner = meta::name(owner.meta), "releasing");
                let change = json!({"metadata": {
                    "uid": object.meta().uid,
                    "ownerReferences": [{"$patch": "delete", "uid": owner.reference.uid}],
                }});
                errors.extend(patch(client, informer, object.as_ref(), change).await.err());
            }
            None if !matches || deleting || meta::is_deleting(object.meta()) => {}
            None => {
                if let Some(can_adopt) = can_adopt.take() {
                    adoption_allowed = can_adopt().await?;
                }
                if adoption_allowed {
                    let change = json!({"metadata": {
                        "uid": object.meta().uid,
                        "ownerReferences": [&owner.reference],
                    }});
                    match patch(client, informer, object.as_ref(), change).await {
                        Ok(adopted) => claimed.extend(adopted),
                        Err(error) => errors.push(error),
                    }
                }
            }
        }
    }
    Error::from_batch(errors).map(|()| claimed)
}

async fn patch<K>(
    client: &Client,
    informer: &Informer<K>,
    object: &K,
    change: serde_json::Value,
) -> Result<Option<Arc<K>>, Error>
where
    K: Object + kube::Resource<Scope = NamespaceResourceScope>,
{
    let key = ObjectKey::of(object.meta());
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let answer = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(change)).await;
    match answer.context(|| format!("patching owner references of {} {key}", K::kind(&()))) {
        Ok(patched) => {
            informer.wrote(&patched);
            Ok(informer.by_key(&key))
        }
        Err(error) if error.is_not_found() => {
            informer.removed(object.meta());
            Ok(None)
        }
        // The uid in the patch is not this object's: someone has replaced it.
        Err(error) if error.status().is_some_and(|status| status.code == 422) => Ok(None),
        Err(error) => Err(error),
    }
}
