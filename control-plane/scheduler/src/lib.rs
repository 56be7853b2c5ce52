//! The scheduler: decides on which node each pod runs.
//!
//! [`informers`] feed a [`cache::Cache`] (nodes with the sums of their pods) and a [`queue::Queue`] (pods without a node). The
//! loop in [`scheduler`] takes one pod at a time through the scheduling cycle of the [`framework`] over a snapshot of the cache,
//! assumes it on the chosen node, and leaves the binding to a task of its own, so that many bindings are under way at once.
//!
//! Nothing here outlives a restart: all state is rebuilt from the API, and the API server refuses to bind a pod twice.
#![forbid(unsafe_code)]

pub mod cache;
mod config;
mod error;
pub mod framework;
pub mod host_ports;
mod informers;
mod metrics;
pub mod node_info;
mod plugins;
pub mod pod_info;
pub mod queue;
pub mod resource;
mod scheduler;
pub mod snapshot;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use kube::Client;
use skep_client::{Recorder, leader_election};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use config::Config;
pub use error::Error;
pub use metrics::Metrics;

use crate::{framework::Context, scheduler::Scheduler};

/// Runs the scheduler until `shutdown` fires, leadership is lost, or its configuration turns out wrong.
///
/// The caches are filled while waiting for leadership. On shutdown bindings already begun are finished before the lease is
/// released. After [`Error::LeaderElection`] the caller may call this again to become a candidate anew.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let framework = Arc::new(config.registry.build(&config.profile, Some(Context { client: client.clone() }))?);
    let recorder = Recorder::new(client.clone(), config.profile.scheduler_name.clone(), "");
    let election = config.leader_election.clone();
    let scheduler = Arc::new(Scheduler::new(client.clone(), framework, recorder.clone(), config));

    // The informers outlive the scheduling loop by a little: bindings that finish during shutdown still read the cache.
    let informers = CancellationToken::new();
    let _stop_informers = informers.clone().drop_guard();
    let (synced, watching) = informers::spawn(&scheduler, informers);
    let lead = move |stop: CancellationToken| async move {
        if stop.run_until_cancelled(synced.wait()).await.is_none() {
            return;
        }
        info!("caches are synced, scheduling");
        scheduler.run(stop).await;
    };
    let leading = async {
        match election {
            Some(election) => {
                leader_election::run(client, election, Some(recorder), shutdown, lead).await?;
            }
            None => lead(shutdown).await,
        }
        Ok(())
    };
    tokio::select! {
        ended = leading => ended,
        // They end by themselves only by a bug, and without them every decision would rest on an ever older picture. The
        // lease is left to expire, as after any crash.
        Err(panic) = watching => Err(Error::Informers(panic)),
    }
}
