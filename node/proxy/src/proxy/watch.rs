//! Following the API: every change is served as soon as it is seen.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::Proxy;
use crate::{
    Error, Metrics, Programmer, Result,
    programmer::Writes,
    service::Frontend,
    tracker::{HEADLESS, SERVICE_PROXY_NAME, ServiceKey, Tracker, service_key, slice_owner},
};

/// When a change that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A map this full is an error in the log, before it is one for a service. Percent.
const NEARLY_FULL: usize = 90;

/// Annotation with the time of the change that made the controller write a slice.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// How many services are written before other tasks get a turn.
const CHUNK: usize = 256;

impl Proxy {
    /// Keeps the maps in step with the Services and EndpointSlices of the API until `shutdown`. What is served from a
    /// former life stays as it is until both lists are known. A broken watch is resumed with backoff; meanwhile the kernel
    /// goes on serving.
    ///
    /// # Errors
    /// None at present: trouble with the API or with maps is logged, counted and tried again.
    pub async fn run(self, client: kube::Client, shutdown: CancellationToken) -> Result<()> {
        let Self { programmer, node_name, metrics, log, _lock: lock, .. } = self;
        let config = watcher::Config::default().labels(&format!("!{SERVICE_PROXY_NAME},!{HEADLESS}"));
        let mut services = pin!(watcher(Api::<Service>::all(client.clone()), config.clone()).default_backoff());
        let mut slices = pin!(watcher(Api::<EndpointSlice>::all(client), config).default_backoff());
        let mut kernel_log = pin!(async {
            if let Err(error) = log.forward().await {
                tracing::warn!(%error, "the kernel programs' log cannot be read");
            }
            std::future::pending::<()>().await;
        });
        let mut keeper = Keeper::new(Tracker::new(node_name), programmer, metrics);
        loop {
            let retry_at = keeper.retry_at;
            let retry = async {
                match retry_at {
                    Some(time) => sleep_until(time.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(event) = services.next() => match event {
                    Ok(event) => keeper.service_event(event).await,
                    Err(error) => tracing::warn!(%error, "watching Services failed, trying again"),
                },
                Some(event) = slices.next() => match event {
                    Ok(event) => keeper.slice_event(event).await,
                    Err(error) => tracing::warn!(%error, "watching EndpointSlices failed, trying again"),
                },
                () = &mut kernel_log => {}
                () = retry => {
                    let again: Vec<ServiceKey> = keeper.failed.iter().cloned().collect();
                    keeper.serve(again).await;
                }
            }
        }
        // Released last: the next daemon must find these maps at rest.
        drop(keeper);
        drop(lock);
        Ok(())
    }
}

/// Joins what the API says with what is programmed.
struct Keeper {
    tracker: Tracker,
    programmer: Programmer,
    metrics: Metrics,
    /// The service ports programmed for each Service.
    served: HashMap<ServiceKey, Vec<Frontend>>,
    /// Whose a service port is; the last one to claim it wins.
    owners: HashMap<Frontend, ServiceKey>,
    /// Services seen in a list under way.
    listed_services: Option<HashSet<ServiceKey>>,
    /// Slices (owner and name) seen in a list under way.
    listed_slices: Option<HashSet<(ServiceKey, String)>>,
    know_services: bool,
    know_slices: bool,
    failed: BTreeSet<ServiceKey>,
    /// Set while something failed; other events do not put it off.
    retry_at: Option<Instant>,
    nearly_full: HashSet<&'static str>,
}

impl Keeper {
    fn new(tracker: Tracker, programmer: Programmer, metrics: Metrics) -> Self {
        Self {
            tracker,
            programmer,
            metrics,
            served: HashMap::new(),
            owners: HashMap::new(),
            listed_services: None,
            listed_slices: None,
            know_services: false,
            know_slices: false,
            failed: BTreeSet::new(),
            retry_at: None,
            nearly_full: HashSet::new(),
        }
    }

    async fn service_event(&mut self, event: watcher::Event<Service>) {
        let mut changed = Vec::new();
        match event {
            watcher::Event::Init => self.listed_services = Some(HashSet::new()),
            watcher::Event::Apply(service) | watcher::Event::InitApply(service) => {
                self.count_service_change();
                if let (Some(listed), Some(key)) = (&mut self.listed_services, service_key(&service)) {
                    listed.insert(key);
                }
                changed.extend(self.tracker.apply_service(&service));
            }
            watcher::Event::Delete(service) => {
                self.count_service_change();
                changed.extend(service_key(&service).filter(|key| self.tracker.delete_service(key)));
            }
            watcher::Event::InitDone => {
                if let Some(listed) = self.listed_services.take() {
                    changed = self.tracker.services().filter(|key| !listed.contains(*key)).cloned().collect();
                    for key in &changed {
                        self.tracker.delete_service(key);
                    }
                }
                if !std::mem::replace(&mut self.know_services, true) {
                    return self.first_sync().await;
                }
            }
        }
        self.serve(changed).await;
    }

    async fn slice_event(&mut self, event: watcher::Event<EndpointSlice>) {
        let mut changed = Vec::new();
        let mut triggered = None;
        match event {
            watcher::Event::Init => self.listed_slices = Some(HashSet::new()),
            watcher::Event::Apply(slice) | watcher::Event::InitApply(slice) => {
                self.count_slice_change();
                if let (Some(listed), Some(owner), Some(name)) =
                    (&mut self.listed_slices, slice_owner(&slice), &slice.metadata.name)
                {
                    listed.insert((owner, name.clone()));
                }
                triggered = trigger_time(&slice);
                changed = self.tracker.apply_slice(&slice);
            }
            watcher::Event::Delete(slice) => {
                self.count_slice_change();
                let known = slice_owner(&slice).zip(slice.metadata.name.as_deref());
                changed.extend(
                    known.filter(|(owner, name)| self.tracker.delete_slice(owner, name)).map(|(owner, _)| owner),
                );
            }
            watcher::Event::InitDone => {
                if let Some(listed) = self.listed_slices.take() {
                    let gone: Vec<(ServiceKey, String)> = self
                        .tracker
                        .slices()
                        .map(|(owner, name)| (owner.clone(), name.to_owned()))
                        .filter(|slice| !listed.contains(slice))
                        .collect();
                    for (owner, name) in &gone {
                        self.tracker.delete_slice(owner, name);
                    }
                    changed = gone.into_iter().map(|(owner, _)| owner).collect();
                }
                if !std::mem::replace(&mut self.know_slices, true) {
                    return self.first_sync().await;
                }
            }
        }
        let any = !changed.is_empty();
        self.serve(changed).await;
        if let (true, true, Some(time)) = (any, self.ready(), triggered) {
            let latency = Timestamp::now().duration_since(time).as_secs_f64();
            self.metrics.latency.observe(latency.max(0.0));
        }
    }

    /// Are both lists known? Before that nothing is written, so that nothing is removed that the API has.
    fn ready(&self) -> bool {
        self.know_services && self.know_slices
    }

    /// Once both lists are known: writes what differs, and removes what the API does not have.
    async fn first_sync(&mut self) {
        if !self.ready() {
            return;
        }
        let started = Instant::now();
        let before = self.programmer.writes();
        let all: Vec<ServiceKey> = self.tracker.services().cloned().collect();
        let services = all.len();
        let wanted: HashSet<Frontend> =
            all.iter().flat_map(|key| self.tracker.desired(key)).map(|(frontend, _)| frontend).collect();
        // Before the rest is written: it makes room.
        let gone: Vec<Frontend> = self.programmer.frontends().filter(|frontend| !wanted.contains(frontend)).collect();
        for frontend in gone {
            self.remove(&frontend);
        }
        self.serve(all).await;
        let after = self.programmer.writes();
        tracing::info!(
            services,
            updates = after.updates - before.updates,
            deletes = after.deletes - before.deletes,
            took = ?started.elapsed(),
            "services are in step with the API"
        );
    }

    /// Writes what is wanted for these Services.
    async fn serve(&mut self, keys: Vec<ServiceKey>) {
        if !self.ready() || keys.is_empty() {
            return;
        }
        let started = Instant::now();
        for (n, key) in keys.iter().enumerate() {
            if n % CHUNK == CHUNK - 1 {
                tokio::task::yield_now().await;
            }
            let started = Instant::now();
            match self.serve_one(key) {
                Ok(()) => {
                    self.failed.remove(key);
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    // Said once: a full map would repeat it for every service every few seconds.
                    if self.failed.insert(key.clone()) {
                        let service = format_args!("{}/{}", key.namespace, key.name);
                        tracing::error!(%service, error = %chain(&error), "a service cannot be written, trying again");
                    }
                }
            }
            self.metrics.change.observe(started.elapsed().as_secs_f64());
        }
        if self.failed.is_empty() {
            self.retry_at = None;
        } else if self.retry_at.is_none_or(|time| time <= Instant::now()) {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        self.metrics.synced(started.elapsed());
        self.watch_capacity();
    }

    fn serve_one(&mut self, key: &ServiceKey) -> Result<()> {
        let desired = self.tracker.desired(key);
        let before = self.programmer.writes();
        let mut result = Ok(());
        let former = self.served.remove(key).unwrap_or_default();
        for frontend in former {
            let mine = self.owners.get(&frontend) == Some(key);
            if mine && !desired.iter().any(|(wanted, _)| *wanted == frontend) {
                self.owners.remove(&frontend);
                result = result.and(self.programmer.remove(&frontend).map(drop));
            }
        }
        for (frontend, service) in &desired {
            if let Some(former) = self.owners.insert(*frontend, key.clone()).filter(|former| former != key) {
                tracing::debug!(%frontend, from = %former.name, to = %key.name, "a service port changes hands");
            }
            result = result.and(self.programmer.apply(frontend, service).map(drop));
        }
        if !desired.is_empty() {
            self.served.insert(key.clone(), desired.into_iter().map(|(frontend, _)| frontend).collect());
        }
        self.count_writes(before);
        result
    }

    fn remove(&mut self, frontend: &Frontend) {
        let before = self.programmer.writes();
        if let Err(error) = self.programmer.remove(frontend) {
            self.metrics.failures.inc();
            tracing::error!(%frontend, error = %chain(&error), "a service port cannot be removed");
        }
        self.count_writes(before);
    }

    fn count_writes(&self, before: Writes) {
        let after = self.programmer.writes();
        self.metrics.updates.inc_by(after.updates - before.updates);
        self.metrics.deletes.inc_by(after.deletes - before.deletes);
    }

    /// A map that fills up is heard of before it is full.
    fn watch_capacity(&mut self) {
        for fill in self.programmer.fill() {
            self.metrics.filled(&fill);
            if fill.used * 100 >= fill.capacity * NEARLY_FULL {
                if self.nearly_full.insert(fill.map) {
                    tracing::error!(
                        map = fill.map,
                        used = fill.used,
                        capacity = fill.capacity,
                        "a service map is nearly full"
                    );
                }
            } else {
                self.nearly_full.remove(fill.map);
            }
        }
    }

    fn count_service_change(&self) {
        self.metrics.service_changes.inc();
        self.metrics.service_changes_pending.inc();
    }

    fn count_slice_change(&self) {
        self.metrics.endpoint_changes.inc();
        self.metrics.endpoint_changes_pending.inc();
    }
}

/// When the change behind this slice happened, if its writer said so.
fn trigger_time(slice: &EndpointSlice) -> Option<Timestamp> {
    slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?.parse().ok()
}

/// An error with its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
