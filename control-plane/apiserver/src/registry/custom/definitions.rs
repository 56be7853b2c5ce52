//! Follows the definitions there are: accepts their names, serves what they define, cleans up after them.
//!
//! Everything is driven by the watch cache and not by requests, so what was defined through one server is served by all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
use skep_api::{StatusError, options::DeleteOptions};
use skep_crd::{definition, names};
use skep_storage::Resource;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{build, build::Built, definition::PREFIX, shown::Shown, webhook};
use crate::{
    dispatch::{Registries, Table},
    registry::{
        erased::UpdateKind,
        generic::{Registry, Scope, update::Mutation},
        object::Object,
    },
    service::Shared,
    user::UserInfo,
    webhook::WebhookClient,
};

/// Between attempts at what failed.
const RETRY: Duration = Duration::from_secs(1);
/// Between looks whether objects with finalizers are gone; doubled up to a limit.
const POLL: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(5);
/// How long watches of what is no longer defined may still read the last changes.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Bytes of objects that are kept as their versions show them, where that is not as they are stored.
const SHOWN: usize = 64 << 20;

/// What is known of the definitions.
pub(crate) struct Definitions {
    cache: Resource,
    known: BTreeMap<String, Known>,
    shutdown: CancellationToken,
    caller: Arc<WebhookClient>,
    shown: Arc<Shown>,
    /// Waits for the end of what is no longer served, and deletions of objects. They end with this.
    tasks: JoinSet<()>,
}

struct Known {
    /// Of the definition when it was read.
    revision: i64,
    crd: Arc<CustomResourceDefinition>,
    serving: Option<Serving>,
    /// The status is not written yet.
    untold: bool,
    /// The deletion that is under way, by the definition's uid.
    cleaning: Option<String>,
}

struct Serving {
    key: Value,
    built: Built,
    ended: CancellationToken,
}

impl Definitions {
    /// Of this registry of definitions. Watches of custom resources end with `shutdown`.
    pub(crate) fn new(
        registries: &Registries,
        caller: Arc<WebhookClient>,
        shutdown: CancellationToken,
    ) -> Option<Self> {
        let cache = crds(registries)?.cache.clone();
        let shown = Arc::new(Shown::new(SHOWN));
        Some(Self { cache, known: BTreeMap::new(), shutdown, caller, shown, tasks: JoinSet::new() })
    }

    /// Follows the definitions until `stop`, or until the server is gone. All it has begun has ended when the task ends.
    pub(crate) fn keep(mut self, shared: Weak<Shared>, stop: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            let follow = async {
                let (_, mut watcher) = self.cache.snapshot_and_watch(PREFIX);
                loop {
                    let Some(strong) = shared.upgrade() else { return };
                    let whole = self.reconcile(&strong, &shared).await;
                    drop(strong);
                    let mut batch = Vec::new();
                    tokio::select! {
                        changed = watcher.next_batch(&mut batch, usize::MAX) => match changed {
                            Ok(()) => {}
                            Err(skep_storage::Error::Closed) => return,
                            // The history was lost; what is there is read anew.
                            Err(_) => watcher = self.cache.snapshot_and_watch(PREFIX).1,
                        },
                        () = tokio::time::sleep(RETRY), if !whole => {}
                        Some(ended) = self.tasks.join_next() => {
                            if let Err(error) = ended {
                                tracing::error!(%error, "a task about a definition failed");
                            }
                        }
                    }
                }
            };
            stop.run_until_cancelled(follow).await;
            self.tasks.shutdown().await;
        })
    }

    /// Brings what is served in line with the definitions. False if something has to be tried again.
    pub(crate) async fn reconcile(&mut self, shared: &Arc<Shared>, weak: &Weak<Shared>) -> bool {
        let registries = &shared.registries;
        let Some(crds) = crds(registries) else { return true };
        let snapshot = self.cache.snapshot();
        let mut whole = true;
        let mut present = BTreeSet::new();
        for object in snapshot.iter() {
            present.insert(object.name().to_owned());
            let known = self.known.get(object.name());
            if known.is_some_and(|known| known.revision == object.mod_revision()) {
                continue;
            }
            match serde_json::from_slice::<CustomResourceDefinition>(object.json()) {
                Ok(crd) => {
                    let old = self.known.remove(object.name());
                    let (serving, cleaning) = old.map(|old| (old.serving, old.cleaning)).unwrap_or_default();
                    let known =
                        Known { revision: object.mod_revision(), crd: Arc::new(crd), serving, untold: false, cleaning };
                    self.known.insert(object.name().to_owned(), known);
                }
                Err(error) => tracing::error!(key = %object.key(), %error, "a stored definition cannot be read"),
            }
        }
        let gone: Vec<String> = self.known.keys().filter(|name| !present.contains(*name)).cloned().collect();
        for name in gone {
            if let Some(serving) = self.known.remove(&name).and_then(|known| known.serving) {
                self.retire(serving, weak);
            }
        }
        let names: Vec<String> = self.known.keys().cloned().collect();
        for name in &names {
            self.accept(name);
            whole &= self.serve(name, &crds).await;
        }
        // Served first: who reads that a definition is established finds what it defines.
        self.publish(registries, snapshot.revision());
        for name in &names {
            if let Err(error) = self.tell(name, &crds).await {
                whole = false;
                tracing::warn!(definition = %name, %error, "the status of a definition could not be written");
            }
            self.clean(name, weak);
        }
        whole
    }

    /// Decides about the names of a definition.
    fn accept(&mut self, name: &str) {
        let Some(known) = self.known.get(name).filter(|known| !build::is_closing(&known.crd)) else { return };
        let mut decided = (*known.crd).clone();
        names::accept(&mut decided, self.known.values().map(|known| &*known.crd), Timestamp::now());
        if decided.status != known.crd.status
            && let Some(known) = self.known.get_mut(name)
        {
            known.crd = Arc::new(decided);
            known.untold = true;
        }
    }

    /// Writes down what was decided about the names of a definition.
    async fn tell(&mut self, name: &str, crds: &Registry) -> Result<(), StatusError> {
        if !self.known.get(name).is_some_and(|known| known.untold) {
            return Ok(());
        }
        let all: Vec<Arc<CustomResourceDefinition>> = self.known.values().map(|known| Arc::clone(&known.crd)).collect();
        let now = Timestamp::now();
        change(crds, name, UpdateKind::Status, |crd| names::accept(crd, all.iter().map(|crd| &**crd), now)).await?;
        if let Some(known) = self.known.get_mut(name) {
            known.untold = false;
        }
        Ok(())
    }

    /// Makes registries of a definition, if it has changed. False if that has to be tried again.
    async fn serve(&mut self, name: &str, crds: &Registry) -> bool {
        let Some(known) = self.known.get_mut(name) else { return true };
        if !definition::is_true(&known.crd, "Established") {
            return true;
        }
        let key = build::key(&known.crd);
        if known.serving.as_ref().is_some_and(|serving| serving.key == key) {
            return true;
        }
        // The same schemas go on: so do watches.
        let same = known.serving.as_ref().filter(|serving| serving.key[0] == key[0] && serving.key[1] == key[1]);
        let ended = same.map_or_else(|| self.shutdown.child_token(), |serving| serving.ended.clone());
        let converter = webhook::converter(&known.crd, &self.caller);
        let parts = build::Parts {
            storage: &crds.storage,
            admission: &crds.admission,
            converter,
            ended: &ended,
            shown: &self.shown,
        };
        match build::build(&known.crd, parts).await {
            Ok(built) => {
                let new = built.map(|built| Serving { key, built, ended: ended.clone() });
                let old = std::mem::replace(&mut known.serving, new);
                if let Some(old) = old.filter(|old| !same_token(old, &known.serving)) {
                    // What is served now is published at once; those who watch the old begin anew after that.
                    let ended = old.ended.drop_guard();
                    self.tasks.spawn(async move {
                        tokio::time::sleep(POLL).await;
                        drop(ended);
                    });
                }
                true
            }
            Err(error) => {
                tracing::warn!(definition = %name, %error, "a custom resource could not be loaded");
                false
            }
        }
    }

    /// Begins to delete what a definition that is being deleted has defined.
    fn clean(&mut self, name: &str, weak: &Weak<Shared>) {
        let Some(known) = self.known.get_mut(name) else { return };
        let waits = known.crd.metadata.finalizers.iter().flatten().any(|name| name == definition::CLEANUP_FINALIZER);
        let uid = known.crd.metadata.uid.clone();
        if !build::is_closing(&known.crd) || !waits || known.cleaning == uid {
            return;
        }
        known.cleaning = uid;
        let stored = known.serving.as_ref().map(|serving| Arc::clone(&serving.built.stored));
        let (weak, name) = (weak.clone(), name.to_owned());
        self.tasks.spawn(async move {
            loop {
                let Some(shared) = weak.upgrade() else { return };
                let done = clean_up(&shared.registries, stored.as_deref(), &name).await;
                drop(shared);
                match done {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(definition = %name, %error, "objects could not be deleted"),
                }
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// Ends what is no longer defined, after watches had time for the last changes.
    fn retire(&mut self, serving: Serving, weak: &Weak<Shared>) {
        let (weak, ended) = (weak.clone(), serving.ended.drop_guard());
        self.tasks.spawn(async move {
            tokio::time::sleep(LAST_EVENTS).await;
            drop(ended);
            let prefix = serving.built.stored.strategy.prefix();
            let Some(shared) = weak.upgrade() else { return };
            if !shared.registries.custom().iter().any(|registry| registry.strategy.prefix() == prefix) {
                serving.built.stored.storage.remove_resource(prefix);
            }
        });
    }

    fn publish(&self, registries: &Registries, revision: i64) {
        let serving = self.known.values().filter_map(|known| known.serving.as_ref());
        let all: Vec<_> = serving.flat_map(|serving| serving.built.served.iter().cloned()).collect();
        let now = registries.custom();
        let same = now.iter().count() == all.len() && all.iter().all(|new| now.iter().any(|old| Arc::ptr_eq(old, new)));
        registries.serve_custom((!same).then(|| Table::new(all)), revision);
    }
}

fn same_token(old: &Serving, new: &Option<Serving>) -> bool {
    // Tokens do not compare; they are kept while uid and specification are.
    new.as_ref().is_some_and(|new| new.key[0] == old.key[0] && new.key[1] == old.key[1])
}

/// The registry of definitions.
pub(crate) fn crds(registries: &Registries) -> Option<Arc<Registry>> {
    registries.get("apiextensions.k8s.io", "v1", "customresourcedefinitions")
}

/// Changes a definition by code. One that is gone needs no change.
async fn change(
    crds: &Registry,
    name: &str,
    kind: UpdateKind,
    mut how: impl FnMut(&mut CustomResourceDefinition) + Send,
) -> Result<(), StatusError> {
    let user = UserInfo::master("system:apiserver");
    let scope = Scope::internal(&user, None, Timestamp::now());
    let mut source = Mutation(|object: &mut dyn Object| {
        if let Some(crd) = object.as_any_mut().downcast_mut::<CustomResourceDefinition>() {
            how(crd);
        }
        Ok(())
    });
    match crds.update(&scope, name, kind, &mut source).await {
        Err(error) if error.code() != http::StatusCode::NOT_FOUND => Err(error),
        _ => Ok(()),
    }
}

/// Deletes all objects of a definition, then lets it go.
async fn clean_up(registries: &Registries, stored: Option<&Registry>, name: &str) -> Result<(), StatusError> {
    let Some(crds) = crds(registries) else { return Ok(()) };
    let state = |crd: &mut CustomResourceDefinition, holds, reason, message| {
        definition::set_condition(crd, ("Terminating", holds, reason, message), Timestamp::now());
    };
    if let Some(stored) = stored {
        change(&crds, name, UpdateKind::Status, |crd| {
            state(crd, true, "InstanceDeletionInProgress", "CustomResource deletion is in progress");
        })
        .await?;
        let mut pause = POLL;
        // Looked at twice: another server may have let an object in just before it learned of the deletion.
        let mut empty = 0;
        while empty < 2 {
            empty = if delete_all(stored).await? { empty + 1 } else { 0 };
            if empty < 2 {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(POLL_MAX);
            }
        }
    }
    change(&crds, name, UpdateKind::Internal, |crd| {
        state(crd, false, "InstanceDeletionCompleted", "removed all instances");
        if let Some(finalizers) = &mut crd.metadata.finalizers {
            finalizers.retain(|finalizer| finalizer != definition::CLEANUP_FINALIZER);
        }
    })
    .await
}

/// Asks for the deletion of everything there is. True if there was nothing.
async fn delete_all(stored: &Registry) -> Result<bool, StatusError> {
    stored.refresh().await?;
    let snapshot = stored.cache.snapshot();
    let user = UserInfo::master("system:apiserver");
    for object in snapshot.iter() {
        let scope = Scope::internal(&user, object.namespace(), Timestamp::now());
        match stored.delete(&scope, object.name(), &DeleteOptions::default()).await {
            Err(error) if error.code() != http::StatusCode::NOT_FOUND => return Err(error),
            _ => {}
        }
    }
    Ok(snapshot.is_empty())
}
