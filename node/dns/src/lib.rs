//! Cluster DNS, by the Kubernetes DNS specification 1.1.0, as a library of `skep-node`: every node answers its own pods,
//! from memory, and goes on answering when the API server is away. CoreDNS's choices are kept where the specification
//! leaves one: TTL 30 s, `pods insecure` (a name that spells an address is that address, whether or not a pod has it),
//! the metrics' names.
//!
//! Names outside the cluster's domain are asked of the upstreams in the node's `resolv.conf`, through a bounded cache.
//!
//! The address is the ClusterIP of the Service `kube-dns`: each node has it on its loopback device ([`Dns::bind`]), so no
//! packet leaves the node and neither translation nor an endpoint is needed.
#![forbid(unsafe_code)]

mod address;
mod answer;
mod error;
mod forward;
mod handler;
mod index;
mod metrics;
mod server;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use hickory_proto::rr::Name;
use ipnet::IpNet;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

pub use address::{assign, remove};
pub use answer::{TTL, Zone};
pub use error::{Error, Result};
pub use forward::Forwarder;
pub use handler::{Handler, Pending, Step, Transport};
pub use index::Index;
pub use metrics::Metrics;

/// What the server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to answer, over UDP and TCP. They must be addresses of this machine; see [`assign`].
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Ranges whose reverse names are answered here even when nobody has the address, such as the Service range.
    pub reverse: Vec<IpNet>,
    /// File with the upstreams (`nameserver` lines); followed. `None`: names of elsewhere are refused.
    pub resolv_conf: Option<PathBuf>,
    /// Where what happens is counted.
    pub metrics: Metrics,
}

/// A DNS server whose sockets are open.
pub struct Dns {
    handler: Arc<Handler>,
    sockets: server::Sockets,
    resolv_conf: Option<PathBuf>,
}

impl Dns {
    /// Opens the sockets. Until [`Dns::run`] nobody is answered.
    ///
    /// # Errors
    /// When the domain is none or an address cannot be listened on.
    pub async fn bind(config: Config) -> Result<Self> {
        let addresses: Vec<IpAddr> = config.listen.iter().map(SocketAddr::ip).collect();
        let domain = Name::from_ascii(&config.domain)
            .map_err(|error| Error::Domain { domain: config.domain.clone(), reason: error.to_string() })?;
        let zone = Zone::new(domain, config.reverse, addresses.clone())?;
        let forwarder = Forwarder::new(config.listen.clone());
        let sockets = server::Sockets::bind(&config.listen).await?;
        let index = Arc::new(RwLock::new(Index::default()));
        let handler = Arc::new(Handler::new(zone, index, forwarder, config.metrics));
        Ok(Self { handler, sockets, resolv_conf: config.resolv_conf })
    }

    /// Where it listens: the ports are real ones even if 0 was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.addresses()
    }

    /// What the answers are made from.
    pub fn handler(&self) -> Arc<Handler> {
        self.handler.clone()
    }

    /// Answers until `shutdown`, and follows Services and EndpointSlices meanwhile. Names of the cluster are answered with
    /// SERVFAIL until both lists are known. A broken watch is resumed with backoff; what is known goes on being answered.
    ///
    /// # Errors
    /// When a socket breaks.
    pub async fn run(self, client: kube::Client, shutdown: CancellationToken) -> Result<()> {
        let index = self.handler.index();
        let stop = shutdown.clone();
        let follow = async move {
            stop.run_until_cancelled(watch::follow(index, client)).await;
            Ok(())
        };
        tokio::try_join!(follow, self.serve(shutdown)).map(drop)
    }

    /// Answers from what [`Handler::index`] holds until `shutdown`, and follows the upstreams' file.
    ///
    /// # Errors
    /// When a socket breaks.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<()> {
        let Self { handler, sockets, resolv_conf } = self;
        if let Some(path) = resolv_conf {
            let handler = handler.clone();
            handler.forwarder().read(&path).await;
            let stop = shutdown.clone();
            tokio::spawn(async move { stop.run_until_cancelled(handler.forwarder().follow(&path)).await });
        }
        sockets.serve(handler, shutdown).await
    }
}
