//! Leader election over a `coordination.k8s.io/v1` Lease, with upstream's timing rules (client-go's leaderelection).
//!
//! Clocks of different machines are never compared: a candidate measures, on its own monotonic clock, how long the record has
//! stood unchanged, and takes over only when that exceeds the lease duration the holder wrote.

use std::{future::Future, pin::pin, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::events::Recorder;

/// Settings of one election. Every candidate of the same election names the same Lease.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    /// Namespace of the Lease, upstream's default is `kube-system`.
    pub namespace: String,
    /// Name of the Lease, for example `kube-scheduler`.
    pub name: String,
    /// Unique name of this candidate; see [`default_identity`].
    pub identity: String,
    /// How long a silent leader is still the leader in the eyes of the others (15 s upstream).
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up (10 s upstream); shorter than `lease_duration`.
    pub renew_deadline: Duration,
    /// Pause between two attempts (2 s upstream).
    pub retry_period: Duration,
}

impl LeaderElection {
    /// An election in `kube-system` with upstream's default times: 15 s, 10 s, 2 s.
    pub fn new(name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let longest_wait = self.retry_period.mul_f64(1.0 + JITTER);
        if self.lease_duration <= self.renew_deadline {
            return Err(Error::Config("leaseDuration must be greater than renewDeadline"));
        }
        if self.renew_deadline <= longest_wait {
            return Err(Error::Config("renewDeadline must be greater than retryPeriod*JitterFactor"));
        }
        if self.lease_duration.as_secs() == 0 || self.retry_period.is_zero() {
            return Err(Error::Config("leaseDuration must be at least one second and retryPeriod greater than zero"));
        }
        if self.identity.is_empty() {
            return Err(Error::Config("Lock identity is empty"));
        }
        Ok(())
    }
}

/// `<host>_<random>`: the identity upstream's components give themselves.
pub fn default_identity(host: &str) -> String {
    format!("{host}_{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>())
}

/// Why an election ended without the led work having ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings contradict each other.
    #[error("leader election: {0}")]
    Config(&'static str),
    /// Leadership was held and could not be renewed in time; the led work has been stopped.
    #[error("leader election lost: lease {namespace}/{name}")]
    Lost {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
    },
    /// The led work panicked.
    #[error("the work led under lease {namespace}/{name} panicked: {source}")]
    Panicked {
        /// Namespace of the Lease.
        namespace: String,
        /// Name of the Lease.
        name: String,
        /// What the runtime says about it.
        source: tokio::task::JoinError,
    },
}

const JITTER: f64 = 1.2;
/// How long the events of the led work and of its end may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Waits until this candidate leads, then runs `lead` until it ends, the lease is lost or `shutdown` fires.
///
/// `lead` gets a token that is cancelled on shutdown and on loss. After a loss it has until the lease expires to wind
/// down; then it is aborted, so that two leaders never work at once. The lease is released when `lead` has ended, and what
/// `events` still holds is written.
///
/// Returns `Ok(None)` when shut down before ever leading, `Ok(Some(output))` when `lead` ended.
pub async fn run<F, Fut, T>(
    client: Client,
    config: LeaderElection,
    events: Option<Recorder>,
    shutdown: CancellationToken,
    lead: F,
) -> Result<Option<T>, Error>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    config.validate()?;
    let mut candidate = Candidate {
        leases: Api::namespaced(client, &config.namespace),
        config,
        observed: Observed::default(),
        events,
        reported: None,
        tried_to_write: false,
    };
    if shutdown.run_until_cancelled(candidate.acquire()).await.is_none() {
        candidate.release().await;
        return Ok(None);
    }
    let stop = shutdown.child_token();
    let mut work = tokio::spawn(lead(stop.clone()));
    let _abort = AbortOnDrop(work.abort_handle());
    let finished = {
        let mut renew = pin!(candidate.hold());
        tokio::select! {
            finished = &mut work => Some(finished),
            () = &mut renew => None,
        }
    };
    let (name, namespace) = (candidate.config.name.clone(), candidate.config.namespace.clone());
    match finished {
        Some(finished) => {
            candidate.release().await;
            finished.map(Some).map_err(|source| Error::Panicked { namespace, name, source })
        }
        None => {
            warn!(lease = %name, "failed to renew lease, stopping the work it protects");
            stop.cancel();
            if timeout_at(candidate.expiry(), &mut work).await.is_err() {
                work.abort();
            }
            candidate.announce("stopped leading");
            Err(Error::Lost { namespace, name })
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === Candidate ===

struct Candidate {
    leases: Api<Lease>,
    config: LeaderElection,
    observed: Observed,
    events: Option<Recorder>,
    reported: Option<String>,
    /// Whether the lease may be held: a write was begun, whatever came of it.
    tried_to_write: bool,
}

impl Candidate {
    async fn acquire(&mut self) {
        info!(lease = %self.config.name, identity = %self.config.identity, "attempting to acquire leader lease");
        while !self.attempt(Instant::now() + self.config.renew_deadline).await {
            sleep(self.config.retry_period.mul_f64(1.0 + rand::random_range(0.0..JITTER))).await;
        }
        info!(lease = %self.config.name, "successfully acquired lease");
        self.announce("became leader");
    }

    /// Renews for as long as it can; returns when the lease has to be considered lost.
    async fn hold(&mut self) {
        loop {
            sleep(self.config.retry_period).await;
            let deadline = Instant::now() + self.config.renew_deadline;
            while !self.attempt(deadline).await {
                if Instant::now() + self.config.retry_period >= deadline {
                    return;
                }
                sleep(self.config.retry_period).await;
            }
        }
    }

    /// When other candidates may take the lease this candidate last wrote.
    fn expiry(&self) -> Instant {
        self.observed.changed.unwrap_or_else(Instant::now) + self.config.lease_duration
    }

    async fn attempt(&mut self, deadline: Instant) -> bool {
        let won = match timeout_at(deadline, self.try_acquire_or_renew()).await {
            Ok(Ok(won)) => won,
            Ok(Err(error)) => {
                debug!(lease = %self.config.name, %error, "could not acquire or renew lease");
                false
            }
            Err(_) => {
                warn!(lease = %self.config.name, "the API server did not answer a lease request in time");
                false
            }
        };
        let holder = self.observed.holder().to_owned();
        if !holder.is_empty() && self.reported.as_ref() != Some(&holder) {
            if holder != self.config.identity {
                info!(lease = %self.config.name, leader = %holder, "new leader elected");
            }
            self.reported = Some(holder);
        }
        won
    }

    async fn try_acquire_or_renew(&mut self) -> Result<bool, kube::Error> {
        // Times count from before the request: the others may see its effect earlier than we see its answer.
        let started = Instant::now();
        // The leader writes over what it wrote last without reading first; a conflict sends it the long way.
        if self.observed.holder() == self.config.identity
            && self.observed.is_valid(Instant::now())
            && self.write().await.is_ok()
        {
            return Ok(true);
        }
        match self.leases.get_opt(&self.config.name).await? {
            Some(lease) => self.observed.observe(lease, started),
            None => {
                let lease = self.observed.next(&self.config, Timestamp::now(), true);
                self.tried_to_write = true;
                let created = self.leases.create(&PostParams::default(), &lease).await?;
                self.observed.observe(created, started);
                return Ok(true);
            }
        }
        if !self.observed.may_take(&self.config.identity, Instant::now()) {
            return Ok(false);
        }
        self.write().await?;
        Ok(true)
    }

    async fn write(&mut self) -> Result<(), kube::Error> {
        let started = Instant::now();
        let lease = self.observed.next(&self.config, Timestamp::now(), false);
        self.tried_to_write = true;
        let written = self.leases.replace(&self.config.name, &PostParams::default(), &lease).await?;
        self.observed.observe(written, started);
        Ok(())
    }

    /// Gives the lease up, if held, so that the next leader need not wait for it to expire.
    ///
    /// Reads it first, as upstream does: a renewal that was under way when the work ended may have been written without its
    /// answer having been seen, and so may the very first write of a candidate that is shut down.
    async fn release(&mut self) {
        if !self.tried_to_write {
            return;
        }
        let name = &self.config.name;
        let mut written = false;
        let outcome = timeout(self.config.renew_deadline, async {
            loop {
                let Some(lease) = self.leases.get_opt(name).await? else { return Ok(None) };
                self.observed.observe(lease, Instant::now());
                if self.observed.holder() != self.config.identity {
                    return Ok(None);
                }
                let lease = self.observed.released(&self.config, Timestamp::now());
                match self.leases.replace(name, &PostParams::default(), &lease).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    answer => return answer.map(Some),
                }
            }
        });
        match outcome.await {
            Ok(Ok(Some(lease))) => {
                self.observed.observe(lease, Instant::now());
                written = true;
            }
            // Another has it by now, or it was deleted.
            Ok(Ok(None)) => {}
            Ok(Err(error)) => warn!(lease = %name, %error, "failed to release lease"),
            Err(_) => warn!(lease = %name, "failed to release lease: timed out"),
        }
        if written {
            self.announce("stopped leading");
        }
        if let Some(events) = &self.events {
            events.flush(LAST_WORDS).await;
        }
    }

    fn announce(&self, what: &str) {
        if let (Some(events), Some(lease)) = (&self.events, &self.observed.lease) {
            let message = format!("{} {what}", self.config.identity);
            events.normal(lease.object_ref(&()), "LeaderElection", message);
        }
    }
}

// === Observed ===

/// The record as last seen, and when on this machine's clock it last changed.
#[derive(Default)]
struct Observed {
    lease: Option<Lease>,
    changed: Option<Instant>,
}

impl Observed {
    fn spec(&self) -> Option<&LeaseSpec> {
        self.lease.as_ref()?.spec.as_ref()
    }

    fn holder(&self) -> &str {
        self.spec().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
    }

    fn observe(&mut self, lease: Lease, now: Instant) {
        if self.changed.is_none() || self.spec() != lease.spec.as_ref() {
            self.changed = Some(now);
        }
        self.lease = Some(lease);
    }

    fn is_valid(&self, now: Instant) -> bool {
        let seconds = self.spec().and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        self.changed.is_some_and(|changed| changed + duration > now)
    }

    fn may_take(&self, identity: &str, now: Instant) -> bool {
        let holder = self.holder();
        holder.is_empty() || holder == identity || !self.is_valid(now)
    }

    /// The record of a lease that its holder gives up.
    fn released(&self, config: &LeaderElection, now: Timestamp) -> Lease {
        let mut lease = self.next(config, now, false);
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.acquire_time.clone_from(&spec.renew_time);
        }
        lease
    }

    /// The record this candidate writes next, keeping metadata (and so the resourceVersion precondition) of what it saw.
    fn next(&self, config: &LeaderElection, now: Timestamp, create: bool) -> Lease {
        let renewing = self.holder() == config.identity && !create;
        let old = self.spec().filter(|_| !create);
        let transitions = old.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        let seconds = SignedDuration::try_from(config.lease_duration).map_or(i64::MAX, |duration| duration.as_secs());
        let mut lease = match (&self.lease, create) {
            (Some(lease), false) => lease.clone(),
            _ => Lease {
                metadata: ObjectMeta {
                    name: Some(config.name.clone()),
                    namespace: Some(config.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: None,
            },
        };
        let acquired = old.and_then(|spec| spec.acquire_time.clone()).filter(|_| renewing);
        let transitions = if create || renewing { transitions } else { transitions.saturating_add(1) };
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(config.identity.clone());
        spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
        spec.acquire_time = Some(acquired.unwrap_or(MicroTime(now)));
        spec.renew_time = Some(MicroTime(now));
        spec.lease_transitions = Some(transitions);
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(identity: &str, renewed: i64) -> Lease {
        let mut lease = Observed::default().next(
            &LeaderElection::new("kube-scheduler", identity),
            Timestamp::from_second(renewed).unwrap(),
            true,
        );
        lease.metadata.resource_version = Some(renewed.to_string());
        lease
    }

    #[test]
    fn a_silent_holder_is_replaced_only_after_its_lease_duration_on_our_own_clock() {
        let mut observed = Observed::default();
        let start = Instant::now();
        observed.observe(held_by("a", 1), start);
        // Seen again unchanged: the clock keeps running from the first sight.
        observed.observe(held_by("a", 1), start + Duration::from_secs(10));
        assert!(!observed.may_take("b", start + Duration::from_secs(14)));
        assert!(observed.may_take("b", start + Duration::from_secs(15)));
    }

    #[test]
    fn a_renewal_restarts_the_clock() {
        let mut observed = Observed::default();
        let start = Instant::now();
        observed.observe(held_by("a", 1), start);
        observed.observe(held_by("a", 2), start + Duration::from_secs(10));
        assert!(!observed.may_take("b", start + Duration::from_secs(24)));
        assert!(observed.may_take("a", start + Duration::from_secs(24)));
    }

    #[test]
    fn a_released_lease_is_free_at_once() {
        let mut observed = Observed::default();
        observed.observe(held_by("a", 1), Instant::now());
        let config = LeaderElection::new("kube-scheduler", "a");
        let released = observed.released(&config, Timestamp::from_second(2).unwrap());
        assert_eq!(released.metadata.resource_version.as_deref(), Some("1"), "conditional on what was seen");
        observed.observe(released, Instant::now());
        assert!(observed.may_take("b", Instant::now()));
    }

    #[test]
    fn taking_over_counts_a_transition_and_renewing_keeps_the_acquire_time() {
        let mut observed = Observed::default();
        observed.observe(held_by("a", 1), Instant::now());
        let config = LeaderElection::new("kube-scheduler", "b");
        let taken = observed.next(&config, Timestamp::from_second(100).unwrap(), false);
        let spec = taken.spec.clone().unwrap();
        assert_eq!((spec.lease_transitions, spec.holder_identity.as_deref()), (Some(1), Some("b")));
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("1"), "the write is conditional on what was seen");
        observed.observe(taken, Instant::now());
        let renewed = observed.next(&config, Timestamp::from_second(200).unwrap(), false).spec.unwrap();
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_eq!(renewed.acquire_time, spec.acquire_time);
        assert_ne!(renewed.renew_time, spec.renew_time);
    }

    #[test]
    fn contradicting_times_are_refused() {
        let mut config = LeaderElection::new("kube-scheduler", "a");
        assert!(config.validate().is_ok());
        config.renew_deadline = config.lease_duration;
        assert!(config.validate().is_err());
    }
}
