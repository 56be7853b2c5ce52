//! Following the API: every change is served as soon as it is seen.

mod claims;
mod pods;
mod room;
mod serve;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    pin::pin,
    time::{Duration, Instant},
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use self::{claims::Claims, room::Room};
use super::Proxy;
use crate::{
    Error, Health, Metrics, Programmer, Result,
    bpffs::{self, Lock},
    loads::Auditor,
    maps::LOADS,
    node::NodeAddresses,
    service::{Family, Frontend, ServicePort},
    sockets::Cutter,
    tracker::{HEADLESS, HostPorts, Owner, SERVICE_PROXY_NAME, ServiceKey, Tracker, key_of},
};

/// When a change that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A map this full is an error in the log, before it is one for a service. Percent.
const NEARLY_FULL: usize = 90;

/// Annotation with the time of the change that made the controller write a slice.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// How often the maps are compared with what was written.
const CHECK: Duration = Duration::from_secs(60);

/// Label of a Node: the zone it is in.
const ZONE: &str = "topology.kubernetes.io/zone";

/// How many services are written before other tasks get a turn.
const CHUNK: usize = 256;

impl Proxy {
    /// Keeps the maps in step with the Services and EndpointSlices of the API, and the host ports of this node's pods, until
    /// `shutdown`. What is served from a former life stays as it is until it is known what the API has. A broken watch is
    /// resumed with backoff; meanwhile the kernel goes on serving.
    ///
    /// # Errors
    /// None at present: trouble with the API or with maps is logged, counted and tried again.
    pub async fn run(self, client: kube::Client, shutdown: CancellationToken) -> Result<()> {
        let Self {
            programmer,
            node_name,
            node_port_addresses,
            maglev,
            metrics,
            health,
            log,
            bpf_root,
            most,
            _lock: lock,
            ..
        } = self;
        let config = watcher::Config::default().labels(&format!("!{SERVICE_PROXY_NAME},!{HEADLESS}"));
        let mut services = pin!(watcher(Api::<Service>::all(client.clone()), config.clone()).default_backoff());
        let mut slices = pin!(watcher(Api::<EndpointSlice>::all(client.clone()), config).default_backoff());
        // Its label says the zone it is in. Without a name there is no such Node, and nothing comes.
        let own = node_name.as_deref().unwrap_or_default();
        let this = watcher::Config::default().fields(&format!("metadata.name={own}"));
        let mut node = pin!(watcher(Api::<Node>::all(client.clone()), this).default_backoff());
        let here = watcher::Config::default().fields(&format!("spec.nodeName={own}"));
        let mut pods = pin!(watcher(Api::<Pod>::all(client), here).default_backoff());
        let addresses = NodeAddresses::new(node_port_addresses)
            .inspect_err(|error| tracing::error!(%error, "this node's addresses cannot be followed: no node ports"))
            .ok();
        let mut kernel_log = pin!(async {
            if let Err(error) = log.forward().await {
                tracing::warn!(%error, "the kernel programs' log cannot be read");
            }
            std::future::pending::<()>().await;
        });
        let named = node_name.is_some();
        let root = bpf_root.clone();
        let mut keeper = Keeper::new(Tracker::new(node_name, maglev), programmer, metrics, health, bpf_root);
        keeper.room = Room::new(&root, Some(most), maglev);
        keeper.cutter = Cutter::start(bpffs::Paths::new(&root).maps, keeper.metrics.clone())
            .inspect_err(|error| tracing::error!(%error, "UDP sockets will keep backends that are gone"))
            .ok();
        let maps = bpffs::Paths::new(&root).maps;
        // Only where connections are counted at all.
        if maps.join(LOADS).exists() {
            keeper.auditor = Auditor::start(maps, keeper.metrics.clone())
                .inspect_err(|error| tracing::error!(%error, "counts of open connections will not be put right"))
                .ok();
        }
        keeper.note_addresses(addresses.as_ref());
        let mut check_at = Instant::now() + CHECK;
        let mut mended = Vec::new();
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
                Some(event) = node.next(), if named => match event {
                    Ok(event) => keeper.node_event(event).await,
                    Err(error) => tracing::warn!(%error, "watching this Node failed, trying again"),
                },
                Some(event) = pods.next(), if named => match event {
                    Ok(event) => keeper.pod_event(event).await,
                    Err(error) => tracing::warn!(%error, "watching this node's Pods failed, trying again"),
                },
                () = news(addresses.as_ref()) => keeper.note_addresses(addresses.as_ref()),
                () = sleep_until(check_at.into()) => {
                    keeper.check();
                    mended.extend(mend_pins(&root));
                    check_at = Instant::now() + CHECK;
                }
                growth = keeper.room.ready() => keeper.use_room(growth).await,
                () = &mut kernel_log => {}
                () = retry => {
                    let again: Vec<Owner> = keeper.failed.iter().cloned().collect();
                    keeper.serve(again).await;
                }
            }
        }
        // Released last: the next daemon must find these maps at rest.
        drop(keeper);
        drop((lock, mended));
        Ok(())
    }
}

/// Sees to a place for pins if somebody unmounted or removed it.
fn mend_pins(bpf_root: &Path) -> Option<Lock> {
    let mended = bpffs::mend(bpf_root);
    match &mended {
        Ok(None) => {}
        Ok(Some(_)) => tracing::error!(
            bpf_root = %bpf_root.display(),
            "the pins are gone: Services are served as long as this daemon lives; restart it at a quiet time, to pin them anew"
        ),
        Err(error) => tracing::error!(error = %chain(error), "the pins are gone, and there is no place for new ones"),
    }
    mended.ok().flatten()
}

/// Waits for news of the node's addresses.
async fn news(addresses: Option<&NodeAddresses>) {
    if let Some(addresses) = addresses {
        match addresses.changed().await {
            Ok(()) => return,
            Err(error) => tracing::error!(%error, "this node's addresses cannot be followed any more"),
        }
    }
    std::future::pending().await
}

/// Joins what the API says with what is programmed.
struct Keeper {
    tracker: Tracker,
    host_ports: HostPorts,
    programmer: Programmer,
    metrics: Metrics,
    health: Health,
    /// Without one sockets of backends that are gone stay as they are.
    cutter: Option<Cutter>,
    /// Without one counts of open connections stay as they are.
    auditor: Option<Auditor>,
    /// The service ports each Service or pod has, with the frontends it wants for them, its own or held by another.
    served: HashMap<Owner, Vec<(ServicePort, Vec<Frontend>)>>,
    claims: Claims,
    /// Address families of what was served since that was counted.
    touched: BTreeSet<Family>,
    /// Service ports that are gone, until they are removed.
    stale: BTreeSet<ServicePort>,
    /// Where other layout versions may still be pinned and serve, until these maps are in step for the first time.
    former: Option<PathBuf>,
    /// Services seen in a list under way.
    listed_services: Option<HashSet<ServiceKey>>,
    /// Slices seen in a list under way.
    listed_slices: Option<HashSet<ServiceKey>>,
    /// Pods seen in a list under way.
    listed_pods: Option<HashSet<ServiceKey>>,
    know_services: bool,
    know_slices: bool,
    know_pods: bool,
    failed: BTreeSet<Owner>,
    /// Set while something failed; other events do not put it off.
    retry_at: Option<Instant>,
    nearly_full: HashSet<&'static str>,
    room: Room,
}

impl Keeper {
    fn new(tracker: Tracker, programmer: Programmer, metrics: Metrics, health: Health, bpf_root: PathBuf) -> Self {
        // Nothing grows without somebody to wait for it.
        let room = Room::new(&bpf_root, None, 0);
        Self {
            tracker,
            host_ports: HostPorts::default(),
            programmer,
            metrics,
            health,
            cutter: None,
            auditor: None,
            served: HashMap::new(),
            claims: Claims::default(),
            touched: BTreeSet::new(),
            stale: BTreeSet::new(),
            former: Some(bpf_root),
            listed_services: None,
            listed_slices: None,
            listed_pods: None,
            know_services: false,
            know_slices: false,
            know_pods: false,
            failed: BTreeSet::new(),
            retry_at: None,
            nearly_full: HashSet::new(),
            room,
        }
    }

    async fn service_event(&mut self, event: watcher::Event<Service>) {
        let mut changed = Vec::new();
        match event {
            watcher::Event::Init => self.listed_services = Some(HashSet::new()),
            watcher::Event::Apply(service) | watcher::Event::InitApply(service) => {
                self.count_service_change();
                if let (Some(listed), Some(key)) = (&mut self.listed_services, key_of(&service.metadata)) {
                    listed.insert(key);
                }
                let applied = self.tracker.apply_service(&service);
                applied.iter().for_each(|key| self.tell_problems(key));
                changed.extend(applied);
            }
            watcher::Event::Delete(service) => {
                self.count_service_change();
                changed.extend(key_of(&service.metadata).filter(|key| self.tracker.delete_service(key)));
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
        self.serve_services(changed).await;
    }

    async fn slice_event(&mut self, event: watcher::Event<EndpointSlice>) {
        let mut changed = Vec::new();
        let mut triggered = None;
        match event {
            watcher::Event::Init => self.listed_slices = Some(HashSet::new()),
            watcher::Event::Apply(slice) | watcher::Event::InitApply(slice) => {
                self.count_slice_change();
                if let (Some(listed), Some(key)) = (&mut self.listed_slices, key_of(&slice.metadata)) {
                    listed.insert(key);
                }
                triggered = trigger_time(&slice).zip(Family::from_api(&slice.address_type));
                changed = self.tracker.apply_slice(&slice);
            }
            watcher::Event::Delete(slice) => {
                self.count_slice_change();
                changed.extend(key_of(&slice.metadata).and_then(|key| self.tracker.delete_slice(&key)));
            }
            watcher::Event::InitDone => {
                if let Some(listed) = self.listed_slices.take() {
                    let gone: Vec<ServiceKey> =
                        self.tracker.slices().filter(|slice| !listed.contains(*slice)).cloned().collect();
                    changed = gone.iter().filter_map(|slice| self.tracker.delete_slice(slice)).collect();
                }
                if !std::mem::replace(&mut self.know_slices, true) {
                    return self.first_sync().await;
                }
            }
        }
        let any = !changed.is_empty();
        self.serve_services(changed).await;
        if let (true, true, Some((time, family))) = (any, self.ready(), triggered) {
            self.metrics.programmed(family, Timestamp::now().duration_since(time).as_secs_f64());
        }
    }

    async fn node_event(&mut self, event: watcher::Event<Node>) {
        let (watcher::Event::Apply(node) | watcher::Event::InitApply(node)) = event else { return };
        self.health.note_node(&node);
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned();
        if self.tracker.set_zone(zone) {
            let all = self.tracker.services().cloned().collect();
            self.serve_services(all).await;
        }
    }

    /// Writes which addresses are this node's.
    fn note_addresses(&mut self, addresses: Option<&NodeAddresses>) {
        let Some(addresses) = addresses else { return };
        let before = self.programmer.writes();
        match addresses.read() {
            Ok(addresses) => {
                if let Err(error) = self.programmer.set_node_addresses(&addresses) {
                    self.metrics.failures.inc();
                    tracing::error!(error = %chain(&error), "this node's addresses cannot be written");
                }
            }
            Err(error) => tracing::error!(%error, "this node's addresses cannot be read"),
        }
        self.count_writes(before);
    }

    /// Puts right what somebody else did to the maps.
    fn check(&mut self) {
        self.auditor.iter().for_each(Auditor::check);
        match self.programmer.check() {
            Ok(mended) => drop(self.metrics.mended.inc_by(mended as u64)),
            Err(error) => tracing::error!(error = %chain(&error), "the service maps cannot be checked"),
        }
    }

    /// Are both lists known? Before that nothing is written, so that nothing is removed that the API has.
    fn ready(&self) -> bool {
        self.know_services && self.know_slices
    }

    async fn serve_services(&mut self, services: Vec<ServiceKey>) {
        self.serve(services.into_iter().map(Owner::Service).collect()).await;
    }

    /// Once both lists are known, and again with that of pods: writes what differs, and removes what the API does not have.
    async fn first_sync(&mut self) {
        if !self.ready() {
            return;
        }
        let started = Instant::now();
        let before = self.programmer.writes();
        let all: Vec<ServiceKey> = self.tracker.services().cloned().collect();
        let services = all.len();
        let pods: Vec<ServiceKey> = self.host_ports.pods().cloned().collect();
        let wanted = all.iter().flat_map(|key| self.tracker.desired(key));
        let wanted = wanted.chain(pods.iter().flat_map(|key| self.host_ports.desired(key)));
        let wanted: HashSet<ServicePort> = wanted.map(|(port, _)| port).collect();
        let known = |port: &&ServicePort| self.know_pods || !port.name.is_host_port();
        let gone = self.programmer.ports().filter(known).filter(|port| !wanted.contains(*port));
        self.stale.extend(gone.cloned());
        // Before the rest is written: it makes room.
        self.remove_stale();
        let owners = all.into_iter().map(Owner::Service).chain(pods.into_iter().map(Owner::Pod));
        self.serve(owners.collect()).await;
        if let Some(bpf_root) = self.former.take() {
            if let Err(error) = bpffs::remove_other_versions(&bpf_root) {
                tracing::error!(error = %chain(&error), "the programs of another version cannot be removed");
            }
            self.note_former_sockets(&bpf_root);
        }
        let after = self.programmer.writes();
        tracing::info!(
            services,
            updates = after.updates - before.updates,
            deletes = after.deletes - before.deletes,
            took = ?started.elapsed(),
            "services are in step with the API"
        );
    }

    /// Says what a Service asks for in annotations that cannot be read; it is served as if they were absent.
    fn tell_problems(&self, key: &ServiceKey) {
        for problem in self.tracker.problems(key) {
            self.metrics.annotations_ignored.inc();
            tracing::warn!(service = %format_args!("{}/{}", key.namespace, key.name), problem, "an annotation is ignored");
        }
    }

    fn count_service_change(&self) {
        self.metrics.service_changes.inc();
        self.metrics.service_changes_pending.inc();
        self.note_pending();
    }

    fn count_slice_change(&self) {
        self.metrics.endpoint_changes.inc();
        self.metrics.endpoint_changes_pending.inc();
        self.note_pending();
    }

    /// Before both lists are known nothing can be late.
    fn note_pending(&self) {
        if self.ready() {
            self.health.pending();
        }
    }
}

/// When the change behind this slice happened, if its writer said so.
fn trigger_time(slice: &EndpointSlice) -> Option<Timestamp> {
    slice.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?.parse().ok()
}

/// An error with its causes.
pub(super) fn chain(error: &Error) -> String {
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
