//! Connections that a request takes over.

use std::{future::Future, sync::Arc};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// Counts a long-running request while it lives.
pub(crate) struct Running(Gauge);

impl Running {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The connection of a request that may take it over, and what lasts as long as it.
pub(crate) struct Upgrade {
    pub(crate) client: OnUpgrade,
    pub(crate) running: Running,
    /// The connection's place among those the server has room for.
    pub(crate) place: Option<Arc<OwnedSemaphorePermit>>,
    pub(crate) shutdown: CancellationToken,
}

impl Upgrade {
    /// Runs `session` over the connection once it has switched, until it ends or the server does.
    pub(crate) fn run<S, F>(self, session: S)
    where
        S: FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
        F: Future<Output = Result<(), skep_stream::Error>> + Send,
    {
        tokio::spawn(async move {
            let Self { client, running, place, shutdown } = self;
            let session = async {
                match client.await {
                    Ok(client) => session(TokioIo::new(client)).await,
                    Err(error) => Err(error.into()),
                }
            };
            tokio::select! {
                outcome = session => if let Err(error) = outcome {
                    tracing::debug!(%error, "a stream broke");
                },
                () = shutdown.cancelled() => {}
            }
            drop((running, place));
        });
    }
}
