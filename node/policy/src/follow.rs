//! Following the API: every change is enforced as soon as it is seen.
//!
//! While there is no NetworkPolicy in the cluster, only they are watched, and the kernel is left alone. With the first one
//! Pods, Namespaces and Nodes are followed, too; once all are known, tables are written and programs attached.
//!
//! A daemon that comes back finds its predecessor's word in force, and keeps it so until all is known. Meanwhile pods that
//! are new are isolated: it cannot know better.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{
    StreamExt,
    stream::{self, BoxStream, ReadyChunks, SelectAll},
};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{sync::watch, time::sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    Changes, Config, Error, Metrics, PodDevice, Result,
    error::chain,
    kernel::{self, Kernel, Method, Paths},
    programmer::Programmer,
    world::{Progress, World},
};

/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How often the maps are compared with what was written.
const CHECK: Duration = Duration::from_secs(60);

/// How many events are written as one change, if they are there at once.
const BATCH: usize = 1024;

/// Pods that can neither send nor receive are left out.
const LIVING: &str = "status.phase!=Succeeded,status.phase!=Failed";

type Events = ReadyChunks<SelectAll<BoxStream<'static, Event>>>;

/// What a watch tells.
enum Event {
    Policy(watcher::Event<NetworkPolicy>),
    Pod(Box<watcher::Event<Pod>>),
    Namespace(watcher::Event<Namespace>),
    Node(Box<watcher::Event<Node>>),
    Broken(&'static str, watcher::Error),
}

/// NetworkPolicy of a node. Dropping it leaves everything enforced; [`Enforcer::cleanup`] takes it down.
#[derive(Debug)]
pub struct Enforcer {
    config: Config,
    metrics: Metrics,
}

impl Enforcer {
    /// Nothing is done yet.
    pub fn new(config: Config) -> Self {
        Self { config, metrics: Metrics::default() }
    }

    /// The metrics, shared with this enforcer.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Removes all programs, maps and pins below `bpf_root`. Nothing there is no error.
    ///
    /// # Errors
    /// When a file operation fails.
    pub fn cleanup(bpf_root: &std::path::Path) -> Result<()> {
        kernel::cleanup(bpf_root)
    }

    /// Keeps what is enforced in step with the API and with the pods' devices until `shutdown`. A broken watch is resumed
    /// with backoff; meanwhile the kernel goes on enforcing.
    ///
    /// # Errors
    /// None at present: trouble with the API or with maps is logged, counted and tried again.
    pub async fn run(
        &self,
        client: kube::Client,
        mut devices: watch::Receiver<Vec<PodDevice>>,
        shutdown: CancellationToken,
    ) -> Result<()> {
        let policies = stream_of(Api::<NetworkPolicy>::all(client.clone()), None, "NetworkPolicies", Event::Policy);
        let mut events: Events = stream::select_all([policies]).ready_chunks(BATCH);
        let mut keeper = Keeper::new(self.config.clone(), self.metrics.clone());
        let present = devices.borrow_and_update().clone();
        keeper.take_over(present).await;
        let mut check_at = Instant::now() + CHECK;
        loop {
            let retry_at = keeper.retry_at;
            let retry = async {
                match retry_at {
                    Some(time) => sleep_until(time.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(batch) = events.next() => batch.into_iter().for_each(|event| keeper.take(event)),
                Ok(()) = devices.changed() => {}
                () = retry => {}
                () = sleep_until(check_at.into()) => {
                    keeper.write(|written| written.programmer.check().map(drop)).await;
                    check_at = Instant::now() + CHECK;
                }
            }
            if keeper.wants_everything() {
                events.get_mut().extend(everything(&client));
            }
            let present = devices.borrow_and_update().clone();
            keeper.step(present).await;
        }
    }
}

/// The watches beside that of policies.
fn everything(client: &kube::Client) -> [BoxStream<'static, Event>; 3] {
    [
        stream_of(Api::<Pod>::all(client.clone()), Some(LIVING), "Pods", |event| Event::Pod(Box::new(event))),
        stream_of(Api::<Namespace>::all(client.clone()), None, "Namespaces", Event::Namespace),
        stream_of(Api::<Node>::all(client.clone()), None, "Nodes", |event| Event::Node(Box::new(event))),
    ]
}

fn stream_of<K>(
    api: Api<K>,
    fields: Option<&str>,
    name: &'static str,
    wrap: fn(watcher::Event<K>) -> Event,
) -> BoxStream<'static, Event>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let config = fields.map_or_else(watcher::Config::default, |fields| watcher::Config::default().fields(fields));
    watcher(api, config)
        .default_backoff()
        .map(move |event| match event {
            Ok(event) => wrap(event),
            Err(error) => Event::Broken(name, error),
        })
        .boxed()
}

/// The kernel's side, which is written to where blocking is allowed.
struct Written {
    kernel: Kernel,
    programmer: Programmer,
    /// Was what other versions left taken down?
    alone: bool,
}

/// Joins what the API says with what is enforced.
struct Keeper {
    config: Config,
    metrics: Metrics,
    world: World,
    policies: Progress,
    pods: Progress,
    namespaces: Progress,
    nodes: Progress,
    /// Are the watches beside that of policies under way?
    follows_all: bool,
    /// Was everything taken down because there was no policy?
    is_idle: bool,
    written: Option<Written>,
    /// Was everything known once and written?
    in_step: bool,
    /// When the oldest change that is not enforced was seen.
    seen: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Keeper {
    fn new(config: Config, metrics: Metrics) -> Self {
        Self {
            world: World::new(&config.node_name),
            config,
            metrics,
            policies: Progress::default(),
            pods: Progress::default(),
            namespaces: Progress::default(),
            nodes: Progress::default(),
            follows_all: false,
            is_idle: false,
            written: None,
            in_step: false,
            seen: None,
            retry_at: None,
        }
    }

    /// Goes on where a former daemon stopped: its maps stay in force, new devices are isolated until all is known.
    async fn take_over(&mut self, present: Vec<PodDevice>) {
        if !Paths::new(&self.config.bpf_root).exist() {
            return;
        }
        self.open().await;
        self.write(move |written| {
            if !written.programmer.enforces() {
                return Ok(());
            }
            written.programmer.close_unknown()?;
            written.kernel.attach(&present)?;
            tracing::info!("NetworkPolicy stays enforced as it was until the API is known");
            Ok(())
        })
        .await;
    }

    fn take(&mut self, event: Event) {
        self.seen.get_or_insert_with(Instant::now);
        let world = &mut self.world;
        match event {
            Event::Policy(event) => self.policies.take(world, event),
            Event::Pod(event) => self.pods.take(world, *event),
            Event::Namespace(event) => self.namespaces.take(world, event),
            Event::Node(event) => self.nodes.take(world, *event),
            Event::Broken(what, error) => tracing::warn!(%error, "watching {what} failed, trying again"),
        }
    }

    /// True once: when there is something to enforce.
    fn wants_everything(&mut self) -> bool {
        let wants = self.policies.known && self.world.model.policies() > 0;
        wants && !std::mem::replace(&mut self.follows_all, true)
    }

    /// Enforces what is known now.
    async fn step(&mut self, present: Vec<PodDevice>) {
        self.metrics.policies.set(self.world.model.policies() as i64);
        self.retry_at = None;
        if self.policies.known && !self.follows_all {
            return self.stop_enforcing().await;
        }
        if !(self.policies.known && self.pods.known && self.namespaces.known && self.nodes.known) {
            // The kernel goes on with what a former daemon said; programs come to new devices as ever.
            self.write(move |written| if written.programmer.enforces() { written.attach(&present) } else { Ok(()) })
                .await;
            return;
        }
        if self.written.is_none() {
            self.open().await;
        }
        if self.written.is_none() {
            return;
        }
        let changes = self.world.model.changes();
        let seen = self.seen.take().filter(|_| !changes.is_empty());
        // Of the devices that are there now, not of those that were.
        let connected = |address: &std::net::IpAddr| present.iter().any(|device| device.addresses.contains(address));
        let closed = self.world.awaits_device(connected);
        if self.write(move |written| written.step(&changes, present, closed)).await
            && let Some(seen) = seen
        {
            self.metrics.latency.observe(seen.elapsed().as_secs_f64());
            self.metrics.last.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        }
        if !std::mem::replace(&mut self.in_step, true) {
            tracing::info!(policies = self.world.model.policies(), "NetworkPolicy is in step with the API");
        }
    }

    /// There is no policy: what a former daemon enforced, perhaps in another version, is taken down, once.
    async fn stop_enforcing(&mut self) {
        if std::mem::replace(&mut self.is_idle, true) {
            return;
        }
        self.write(|written| written.programmer.open_up()).await;
        self.written = None;
        let (root, bypass) = (self.config.bpf_root.clone(), self.config.bypass.clone());
        let take_down = move || {
            kernel::cleanup(&root)?;
            bypass.map_or(Ok(()), |bypass| bypass.open(None)).map_err(Error::Bypass)
        };
        let error = match tokio::task::spawn_blocking(take_down).await {
            Ok(Ok(())) => return tracing::info!("there is no NetworkPolicy: nothing is enforced"),
            Ok(Err(error)) => chain(&error),
            Err(error) => error.to_string(),
        };
        self.is_idle = false;
        self.failed(&error);
    }

    async fn open(&mut self) {
        let (config, metrics) = (self.config.clone(), self.metrics.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let (kernel, maps) = Kernel::open(&config.bpf_root, &config.sizes, Method::of_this_kernel())?;
            let mut programmer = Programmer::new(maps, config.tunnel, metrics)?;
            programmer.set_bypass(config.bypass);
            Ok::<_, Error>(Written { kernel, programmer, alone: false })
        });
        match opened.await {
            Ok(Ok(written)) => self.written = Some(written),
            Ok(Err(error)) => self.failed(&chain(&error)),
            Err(error) => self.failed(&error.to_string()),
        }
    }

    /// Does something with the kernel's side, if there is one, where blocking is allowed. False if it is to be tried again.
    async fn write(&mut self, work: impl FnOnce(&mut Written) -> Result<()> + Send + 'static) -> bool {
        let Some(mut written) = self.written.take() else { return true };
        let worker = tokio::task::spawn_blocking(move || {
            let result = work(&mut written);
            (written, result)
        });
        match worker.await {
            Ok((written, result)) => {
                let settled = written.programmer.is_settled();
                self.written = Some(written);
                if let Err(error) = &result {
                    self.failed(&chain(error));
                } else if !settled {
                    self.retry_at = Some(Instant::now() + RETRY);
                }
                result.is_ok()
            }
            Err(error) => {
                self.failed(&error.to_string());
                false
            }
        }
    }

    fn failed(&mut self, error: &str) {
        self.metrics.failures.inc();
        tracing::error!(error, "NetworkPolicy cannot be enforced as the API says, trying again");
        self.retry_at = Some(Instant::now() + RETRY);
    }
}

impl Written {
    fn step(&mut self, changes: &Changes, present: Vec<PodDevice>, closed: bool) -> Result<()> {
        self.programmer.set_unknown_closed(closed)?;
        self.programmer.set_devices(present.clone())?;
        if !changes.is_empty() {
            self.programmer.apply(changes)?;
        }
        self.programmer.come_into_force()?;
        self.programmer.retry()?;
        self.attach(&present)?;
        if !std::mem::replace(&mut self.alone, true) {
            self.kernel.remove_other_versions()?;
        }
        Ok(())
    }

    fn attach(&mut self, present: &[PodDevice]) -> Result<()> {
        self.kernel.attach(present).map(drop)
    }
}
