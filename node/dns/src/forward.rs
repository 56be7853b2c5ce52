//! Names of elsewhere: asked of the node's upstreams, with a bounded cache and a bounded number of questions under way.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::{DnsError, NetError, runtime::TokioRuntimeProvider};
use parking_lot::RwLock;
use tokio::sync::Semaphore;

use crate::answer::{Answer, TTL};

/// Questions under way; more are refused, as CoreDNS does (kubeadm: 1000).
const MOST_UNDER_WAY: usize = 1000;

/// Answers kept.
const CACHE: u64 = 8192;

/// Answers are kept no longer, as by kubeadm's CoreDNS (`cache 30`).
const LONGEST: Duration = Duration::from_secs(TTL as u64);

/// What an upstream may take. Pods ask again after five seconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Upstreams tried, as resolvers do.
const MOST_UPSTREAMS: usize = 3;

/// Asks upstreams.
pub struct Forwarder {
    /// Where this server itself listens: never asked.
    own: Vec<SocketAddr>,
    upstreams: RwLock<Upstreams>,
    under_way: Semaphore,
}

#[derive(Default)]
struct Upstreams {
    servers: Vec<SocketAddr>,
    resolver: Option<TokioResolver>,
}

impl Forwarder {
    /// Without upstreams. `own` are the addresses that must never be asked: the server's own.
    pub fn new(own: Vec<SocketAddr>) -> Self {
        Self { own, upstreams: RwLock::default(), under_way: Semaphore::new(MOST_UNDER_WAY) }
    }

    /// Asks these from now on, except ourselves. What was kept is forgotten if they are others than before.
    pub fn set(&self, servers: &[SocketAddr]) {
        let others = servers.iter().filter(|server| !self.own.contains(server)).take(MOST_UPSTREAMS);
        let servers: Vec<SocketAddr> = others.copied().collect();
        if self.upstreams.read().servers == servers {
            return;
        }
        let resolver = match resolver(&servers) {
            Ok(resolver) => resolver,
            Err(error) => {
                tracing::warn!(%error, "the upstream DNS servers cannot be used");
                None
            }
        };
        tracing::info!(?servers, "names outside of the cluster are asked of these");
        *self.upstreams.write() = Upstreams { servers, resolver };
    }

    /// Reads the `nameserver` lines of a file and asks those from now on. If it cannot be read, all stays.
    pub async fn read(&self, path: &Path) {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => self.set(&nameservers(&text)),
            Err(error) => tracing::warn!(path = %path.display(), %error, "the upstream DNS servers cannot be read"),
        }
    }

    /// Follows the file, for ever: DHCP changes it.
    pub(crate) async fn follow(&self, path: &Path) {
        let mut seen = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let changed = tokio::fs::metadata(path).await.and_then(|metadata| metadata.modified()).ok();
            if changed.is_some() && changed != seen {
                seen = changed;
                self.read(path).await;
            }
        }
    }

    /// The upstreams' answer, or the cache's. Without an upstream: REFUSED.
    pub(crate) async fn ask(&self, name: &Name, kind: RecordType) -> Answer {
        let Some(resolver) = self.upstreams.read().resolver.clone() else {
            return Answer::failed(ResponseCode::Refused);
        };
        let Ok(_permit) = self.under_way.try_acquire() else { return Answer::failed(ResponseCode::Refused) };
        match resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => Answer { answers: lookup.answers().to_vec(), ..Answer::default() },
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                let soa = none.soa.map(|soa| {
                    let record = Record::from_rdata(soa.name.clone(), soa.ttl.min(TTL), RData::SOA(soa.data.clone()));
                    vec![record]
                });
                Answer { code: none.response_code, authorities: soa.unwrap_or_default(), ..Answer::default() }
            }
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Answer::failed(code),
            Err(error) => {
                tracing::debug!(%name, %kind, %error, "no upstream answered");
                Answer::failed(ResponseCode::ServFail)
            }
        }
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<Option<TokioResolver>, NetError> {
    if servers.is_empty() {
        return Ok(None);
    }
    let servers = servers.iter().map(|server| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
    let mut options = ResolverOpts::default();
    options.attempts = 2;
    options.cache_size = CACHE;
    options.edns0 = true;
    options.positive_max_ttl = Some(LONGEST);
    options.negative_max_ttl = Some(LONGEST);
    options.preserve_intermediates = true;
    options.timeout = TIMEOUT;
    options.use_hosts_file = ResolveHosts::Never;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build().map(Some)
}

/// The `nameserver` lines of a `resolv.conf`, on port 53.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    // A link-local address may carry its device after a percent sign; it cannot be asked without.
    lines.filter_map(|word| word.parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_the_nameserver_lines() {
        let text = "# by hand\nnameserver 192.0.2.1\nsearch x\nnameserver\t2001:db8::1 \nnameserver fe80::1%eth0\nnameserverx 1.1.1.1\n";
        let expected: Vec<SocketAddr> = vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(nameservers(text), expected);
    }

    #[tokio::test]
    async fn it_never_asks_itself() {
        let own: SocketAddr = "127.0.0.1:53".parse().unwrap();
        let forwarder = Forwarder::new(vec![own]);
        forwarder.set(&[own]);
        let answer = forwarder.ask(&Name::from_ascii("example.org.").unwrap(), RecordType::A).await;
        assert_eq!(answer.code, ResponseCode::Refused);
    }
}
