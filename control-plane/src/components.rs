//! Scheduler and controllers: started over a client, begun again where that helps, watched over.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use kube::Client;
use skep_client::leader_election::default_identity;
use skep_pki::Authority;
use skep_pki::jwt::Signer;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::settings::{Component, Settings};

const SCHEDULER: &str = "system:kube-scheduler";
const CONTROLLERS: &str = "system:kube-controller-manager";

/// Pause before a component is begun again; doubled each time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A component that ran this long starts over with the first pause.
const HEALTHY: Duration = Duration::from_secs(60);

/// The clients of the API server that run in this process.
pub(crate) struct Components {
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

/// What the controllers hand out or sign with; without a key they leave its work to others.
#[derive(Default)]
pub(crate) struct Keys {
    /// What pods are told to trust the API server by (PEM).
    pub(crate) root_ca: Option<String>,
    /// Signs certificates of clients and nodes.
    pub(crate) signing_ca: Option<Arc<Authority>>,
    /// Signs service accounts' tokens that are kept in Secrets.
    pub(crate) service_account_signer: Option<Arc<Signer>>,
}

/// What to do about a component that ended with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Leadership went to another, or the API server was away: begin again.
    Retry,
    /// It will not go better next time.
    Fatal,
}

impl Components {
    pub(crate) fn new() -> Self {
        Self { tasks: JoinSet::new(), shutdown: CancellationToken::new() }
    }

    /// Starts what the settings name, each over a client that acts as its own user.
    pub(crate) fn start(&mut self, settings: &Settings, keys: Keys, client: impl Fn(&str) -> Client) {
        if settings.runs(Component::Scheduler) {
            let (client, shutdown) = (client(SCHEDULER), self.shutdown.clone());
            let config = skep_scheduler::Config::with_identity(identity(settings));
            let run = move || skep_scheduler::run(client.clone(), config.clone(), shutdown.clone());
            self.tasks.spawn(keep_running("scheduler", FIRST_PAUSE, self.shutdown.clone(), run, scheduler_verdict));
        }
        if settings.runs(Component::Controllers) {
            let (client, shutdown) = (client(CONTROLLERS), self.shutdown.clone());
            let config = controllers_config(settings, keys);
            let run = move || skep_controllers::run(client.clone(), config.clone(), shutdown.clone());
            self.tasks.spawn(keep_running("controllers", FIRST_PAUSE, self.shutdown.clone(), run, controllers_verdict));
        }
    }

    /// Waits for the first component that fails for good.
    pub(crate) async fn failure(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Ok(()))) => anyhow!("a component stopped by itself"),
            Some(Ok(Err(error))) => error,
            Some(Err(died)) => anyhow!(died).context("a component crashed"),
            None => std::future::pending().await,
        }
    }

    /// Asks all to end (they give up their leadership) and waits until they have.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Runs a component until shutdown, beginning it again after errors that pass.
async fn keep_running<F, E>(
    name: &'static str,
    first: Duration,
    shutdown: CancellationToken,
    run: impl Fn() -> F,
    verdict: impl Fn(&E) -> Verdict,
) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), E>>,
    E: Display + std::error::Error + Send + Sync + 'static,
{
    let mut pauses = Pauses { first, next: first };
    loop {
        let began = Instant::now();
        let error = match run().await {
            _ if shutdown.is_cancelled() => return Ok(()),
            Ok(()) => return Err(anyhow!("the component {name} stopped by itself")),
            Err(error) if verdict(&error) == Verdict::Fatal => return Err(anyhow!(error).context(name)),
            Err(error) => error,
        };
        let pause = pauses.after(began.elapsed());
        tracing::warn!(component = name, %error, ?pause, "component ended; it will be begun again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// How long to wait before each new beginning.
struct Pauses {
    first: Duration,
    next: Duration,
}

impl Pauses {
    /// The pause after a component that `ran` so long.
    fn after(&mut self, ran: Duration) -> Duration {
        let pause = if ran >= HEALTHY { self.first } else { self.next };
        self.next = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// `<host>_<random>`, as upstream's components call themselves in their leases.
fn identity(settings: &Settings) -> String {
    default_identity(&settings.hostname)
}

fn controllers_config(settings: &Settings, keys: Keys) -> skep_controllers::Config {
    skep_controllers::Config {
        cluster_cidr: Some(settings.cluster_cidr.primary),
        secondary_cluster_cidr: settings.cluster_cidr.secondary,
        node_cidr_mask: settings.node_cidr_masks.ipv4,
        node_cidr_mask_ipv6: settings.node_cidr_masks.ipv6,
        service_cidr: Some(settings.service_cluster_ip_range.primary),
        secondary_service_cidr: settings.service_cluster_ip_range.secondary,
        allocate_node_cidrs: true,
        root_ca: keys.root_ca,
        signing_ca: keys.signing_ca,
        service_account_signer: keys.service_account_signer,
        identity: Some(identity(settings)),
        ..skep_controllers::Config::default()
    }
}

fn scheduler_verdict(error: &skep_scheduler::Error) -> Verdict {
    match error {
        skep_scheduler::Error::LeaderElection(_) => Verdict::Retry,
        _ => Verdict::Fatal,
    }
}

fn controllers_verdict(error: &skep_controllers::Error) -> Verdict {
    match error {
        skep_controllers::Error::Config(_) => Verdict::Fatal,
        _ => Verdict::Retry,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failure {0}")]
    struct Failure(u32);

    const TINY: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_grow_to_a_limit_and_shrink_after_health() {
        let mut pauses = Pauses { first: FIRST_PAUSE, next: FIRST_PAUSE };
        let seconds: Vec<u64> = (0..7).map(|_| pauses.after(Duration::ZERO).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pauses.after(HEALTHY), FIRST_PAUSE);
        assert_eq!(pauses.after(Duration::ZERO), FIRST_PAUSE * 2);
    }

    #[tokio::test]
    async fn a_passing_error_begins_the_component_again_and_a_lasting_one_ends_it() {
        let runs = AtomicU32::new(0);
        let run = || async { Err::<(), _>(Failure(runs.fetch_add(1, Ordering::Relaxed))) };
        let verdict = |error: &Failure| if error.0 < 3 { Verdict::Retry } else { Verdict::Fatal };
        let error = keep_running("x", TINY, CancellationToken::new(), run, verdict).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "x: failure 3");
    }

    #[tokio::test]
    async fn shutdown_ends_the_pause_and_an_end_by_itself_is_an_error() {
        let shutdown = CancellationToken::new();
        let run = || async { Err::<(), _>(Failure(0)) };
        let hour = Duration::from_secs(3600);
        let running = keep_running("x", hour, shutdown.clone(), run, |_| Verdict::Retry);
        let stop = async {
            tokio::task::yield_now().await;
            shutdown.cancel();
        };
        let (ended, ()) = tokio::join!(running, stop);
        ended.unwrap();
        let done = || async { Ok::<_, Failure>(()) };
        let error = keep_running("x", TINY, CancellationToken::new(), done, |_| Verdict::Retry).await.unwrap_err();
        assert_eq!(error.to_string(), "the component x stopped by itself");
    }

    #[tokio::test]
    async fn a_crash_is_a_failure() {
        let mut components = Components::new();
        components.tasks.spawn(async { panic!("crashed for the test") });
        let error = format!("{:#}", components.failure().await);
        assert!(error.starts_with("a component crashed"), "{error}");
    }
}
