//! Shared informers: one watch per type, one indexed store, any number of event handlers.
//!
//! The store reads its own writes: what a controller creates, updates or deletes is put into the store from the API's
//! answer ([`Informer::wrote`], [`Informer::removed`]), and watch events older than that are ignored (resource versions
//! are comparable, KEP-5504). A reconcile therefore never acts on a cache that misses its own last write, which is what
//! upstream's expectations are for.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::core::{Selector, SelectorExt};
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::meta::{self, ObjectKey};

mod store;

pub use store::IndexFn;
use store::Store;

/// What an informer can hold.
pub trait Object: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static {}
impl<K> Object for K where K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{}

/// One change of the store.
#[derive(Debug)]
pub enum Delta<K> {
    /// A new object.
    Added(Arc<K>),
    /// A changed object.
    Modified {
        /// As it was.
        old: Arc<K>,
        /// As it is.
        new: Arc<K>,
    },
    /// An object that is gone, in its last known state.
    Deleted(Arc<K>),
}

impl<K> Delta<K> {
    /// The object in its newest state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Delta::Added(object) | Delta::Deleted(object) | Delta::Modified { new: object, .. } => object,
        }
    }

    /// The object before and after, where there is one.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        let (old, new) = match self {
            Delta::Added(new) => (None, Some(new)),
            Delta::Modified { old, new } => (Some(old), Some(new)),
            Delta::Deleted(old) => (Some(old), None),
        };
        old.into_iter().chain(new)
    }
}

type Handler<K> = Box<dyn Fn(&Delta<K>) + Send + Sync>;

/// A watch of one type with its store. Clones share everything.
pub struct Informer<K: Object> {
    inner: Arc<Inner<K>>,
}

impl<K: Object> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<K: Object> {
    api: Api<K>,
    store: RwLock<Store<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
    trim: fn(&mut K),
    /// What the server is asked to leave out.
    fields: Option<&'static str>,
}

/// Index of every object by the uid of its controlling owner.
pub const BY_CONTROLLER: &str = "controller";
/// Index of namespaced objects by `namespace/key=value` of each label.
pub const BY_LABEL: &str = "label";

fn by_controller<K: Object>(object: &K) -> Vec<String> {
    meta::controller_of(object.meta()).map(|owner| owner.uid.clone()).into_iter().collect()
}

fn by_label<K: Object>(object: &K) -> Vec<String> {
    let namespace = meta::namespace(object.meta());
    meta::labels(object.meta()).iter().map(|(k, v)| format!("{namespace}/{k}={v}")).collect()
}

impl<K: Object> Informer<K> {
    /// An informer over everything `api` lists. It does nothing until [`Informer::run`].
    pub fn new(api: Api<K>) -> Self {
        Self::build(api, vec![(BY_CONTROLLER, by_controller::<K>)], |_| {})
    }

    /// As [`Informer::new`], with further indices and a function that drops what nobody reads.
    pub fn build(api: Api<K>, indices: Vec<(&'static str, IndexFn<K>)>, trim: fn(&mut K)) -> Self {
        Self::filtered(api, indices, trim, None)
    }

    /// As [`Informer::build`], of the objects a field selector matches.
    pub fn filtered(
        api: Api<K>,
        indices: Vec<(&'static str, IndexFn<K>)>,
        trim: fn(&mut K),
        fields: Option<&'static str>,
    ) -> Self {
        let inner = Inner {
            fields,
            api,
            store: RwLock::new(Store::new(indices)),
            handlers: RwLock::default(),
            synced: watch::Sender::new(false),
            trim,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The index over labels, for types that are looked up by selector.
    pub fn label_index() -> (&'static str, IndexFn<K>) {
        (BY_LABEL, by_label::<K>)
    }

    /// The index over controlling owners.
    pub fn controller_index() -> (&'static str, IndexFn<K>) {
        (BY_CONTROLLER, by_controller::<K>)
    }

    /// Calls `handler` for every change from now on. Handlers must not block: they map a change to keys of a queue.
    /// Register before [`Informer::run`], or the objects already there are missed.
    pub fn on_change(&self, handler: impl Fn(&Delta<K>) + Send + Sync + 'static) {
        self.inner.handlers.write().push(Box::new(handler));
    }

    /// Watches until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let config =
            watcher::Config { field_selector: self.inner.fields.map(str::to_owned), ..watcher::Config::default() };
        let stream = watcher(self.inner.api.clone(), config).default_backoff();
        futures::pin_mut!(stream);
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                Some(Ok(event)) => self.apply(event),
                Some(Err(error)) => debug!(kind = %K::kind(&()), %error, "watch interrupted"),
                None => {
                    warn!(kind = %K::kind(&()), "watch ended");
                    return;
                }
            }
        }
    }

    fn apply(&self, event: watcher::Event<K>) {
        let mut doubtful = Vec::new();
        let deltas = {
            let mut store = self.inner.store.write();
            match event {
                watcher::Event::Init => {
                    store.begin_list();
                    Vec::new()
                }
                watcher::Event::InitApply(object) => {
                    store.listed(self.prepare(object));
                    Vec::new()
                }
                watcher::Event::InitDone => {
                    let (deltas, unlisted) = store.end_list();
                    doubtful = unlisted;
                    deltas
                }
                watcher::Event::Apply(object) => store.upsert(self.prepare(object)).into_iter().collect(),
                watcher::Event::Delete(object) => store.remove(object.meta()).into_iter().collect(),
            }
        };
        for key in doubtful {
            self.clone().verify(key);
        }
        self.dispatch(&deltas);
        if store_is_listed(&self.inner) {
            self.inner.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        }
    }

    fn prepare(&self, mut object: K) -> K {
        object.meta_mut().managed_fields = None;
        (self.inner.trim)(&mut object);
        object
    }

    fn dispatch(&self, deltas: &[Delta<K>]) {
        if deltas.is_empty() {
            return;
        }
        let handlers = self.inner.handlers.read();
        for delta in deltas {
            for handler in handlers.iter() {
                handler(delta);
            }
        }
    }

    /// Asks the API about an object that was written while a relist ran and that the list did not have.
    fn verify(self, key: ObjectKey) {
        let Some(known) = self.get(&key.namespace, &key.name) else { return };
        let client = self.inner.api.clone().into_client();
        tokio::spawn(async move {
            let path = self.inner.api.resource_url();
            let path = path.trim_end_matches('/');
            // The informer's Api spans all namespaces, so the object's own path is made here.
            let url = match (key.namespace.is_empty(), path.rsplit_once('/')) {
                (false, Some((base, plural))) => format!("{base}/namespaces/{}/{plural}/{}", key.namespace, key.name),
                _ => format!("{path}/{}", key.name),
            };
            let Ok(request) = http::Request::get(url).body(Vec::new()) else { return };
            let gone = match client.request::<K>(request).await {
                Ok(live) => live.meta().uid != known.meta().uid,
                Err(kube::Error::Api(status)) => status.code == 404,
                Err(_) => false,
            };
            if gone {
                self.removed(known.meta());
            }
        });
    }

    /// Puts the API's answer to a create, update or patch into the store.
    pub fn wrote(&self, object: &K) {
        let object = self.prepare(object.clone());
        let delta = self.inner.store.write().written(object);
        self.dispatch(delta.as_slice());
    }

    /// Notes that the object (this uid) is gone: the API said so.
    pub fn removed(&self, meta: &ObjectMeta) {
        let delta = self.inner.store.write().remove(meta);
        self.dispatch(delta.as_slice());
    }

    /// Notes the API's answer to a delete: an object that lingers (grace period, finalizers), or one that is gone.
    pub fn deleted(&self, meta: &ObjectMeta, answer: Option<K>) {
        match answer {
            Some(object) if lingers(object.meta()) => self.wrote(&object),
            _ => self.removed(meta),
        }
    }

    /// Waits until the first list is in the store. False if `shutdown` came first.
    pub async fn synced(&self, shutdown: &CancellationToken) -> bool {
        let mut synced = self.inner.synced.subscribe();
        tokio::select! {
            result = synced.wait_for(|synced| *synced) => result.is_ok(),
            () = shutdown.cancelled() => false,
        }
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.inner.store.read().get(namespace, name)
    }

    /// One object by its key.
    pub fn by_key(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.get(&key.namespace, &key.name)
    }

    /// Every object.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.store.read().list()
    }

    /// Every object of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.inner.store.read().in_namespace(namespace)
    }

    /// The objects an index files under `value`; nothing if the informer was built without that index.
    pub fn indexed(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        self.inner.store.read().indexed(index, value)
    }

    /// The objects controlled by the owner with this uid.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.indexed(BY_CONTROLLER, uid)
    }

    /// The objects of a namespace whose labels contain all of `wanted`; uses the label index if there is one.
    pub fn with_labels<'a>(
        &self,
        namespace: &str,
        wanted: impl IntoIterator<Item = (&'a String, &'a String)> + Clone,
    ) -> Vec<Arc<K>> {
        let store = self.inner.store.read();
        let values: Vec<String> = wanted.clone().into_iter().map(|(k, v)| format!("{namespace}/{k}={v}")).collect();
        let mut found = store.smallest(BY_LABEL, &values).unwrap_or_else(|| store.in_namespace(namespace));
        drop(store);
        found.retain(|object| {
            let labels = meta::labels(object.meta());
            wanted.clone().into_iter().all(|(k, v)| labels.get(k) == Some(v))
        });
        found
    }

    /// The objects of a namespace that a selector matches.
    pub fn select(&self, namespace: &str, selector: &Selector) -> Vec<Arc<K>> {
        let mut found = self.in_namespace(namespace);
        found.retain(|object| selector.matches(meta::labels(object.meta())));
        found
    }
}

fn lingers(meta: &ObjectMeta) -> bool {
    let held = meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    held || (meta.deletion_timestamp.is_some() && meta.deletion_grace_period_seconds.unwrap_or(0) > 0)
}

fn store_is_listed<K: Object>(inner: &Inner<K>) -> bool {
    inner.store.read().is_listed()
}

/// How long a deletion is remembered so that a late answer to an earlier write cannot bring the object back.
const TOMBSTONE_AGE: Duration = Duration::from_secs(120);
