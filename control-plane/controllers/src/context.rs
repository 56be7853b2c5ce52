//! What every controller is given.

use kube::Client;
use skep_client::Recorder;

use crate::config::Config;
use crate::informers::Informers;
use crate::metrics::Metrics;

/// The client, the shared informers and the settings; cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) config: std::sync::Arc<Config>,
}
