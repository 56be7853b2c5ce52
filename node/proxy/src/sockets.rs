//! Connected UDP sockets of backends that are gone.
//!
//! A socket is translated when it connects and then speaks to its backend without asking anybody. TCP ends by itself; a UDP
//! socket would talk to nobody for ever. So the kernel is asked to destroy it (`SOCK_DESTROY`, Linux 4.9, with
//! `CONFIG_INET_DIAG_DESTROY` and `CONFIG_INET_UDP_DIAG`): whoever waits for an answer gets ECONNABORTED, whoever sends
//! EDESTADDRREQ, and a program that connects again gets a backend that lives. Unconnected sockets need none of this: they are translated with every datagram.
//!
//! Only sockets that the socket hooks sent to that backend, under an address of that very Service, are touched: `UDP_PEERS`
//! knows them by their cookies. It forgets the longest unused when it is full; such sockets stay. They may be in any network
//! namespace, and the kernel destroys only in the caller's: a thread visits those of all processes.

mod diag;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use skep_ebpf_common::{PeerKey, PeerValue, host_port};

use self::diag::Diag;
use crate::{
    Error, Metrics, Result,
    maps::Table,
    service::{Frontend, from_map},
};

/// Backends that go close together are one visit, and each is visited twice: a connect that was under way is noted by then.
const SETTLE: Duration = Duration::from_millis(20);

/// A backend that a UDP service port has no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) backend: SocketAddr,
    /// Under which addresses it was reached.
    pub(crate) frontends: Vec<Frontend>,
}

impl Gone {
    fn is_of(&self, key: &PeerKey, value: &PeerValue) -> bool {
        let port = host_port(value.port);
        self.backend == SocketAddr::new(from_map(key.address), host_port(key.port))
            && value.is_sealed_for(key)
            && self.frontends.iter().any(|frontend| {
                // A node port is known by the unspecified address of its family.
                frontend.port == port
                    && (frontend.address.is_unspecified() || frontend.address == from_map(value.address))
            })
    }
}

/// A thread that cuts sockets off. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Cutter(mpsc::Sender<Vec<Gone>>);

impl Cutter {
    /// Starts it; `maps` is the folder of the pinned maps.
    pub(crate) fn start(maps: PathBuf, metrics: Metrics) -> io::Result<Self> {
        let (sender, orders) = mpsc::channel::<Vec<Gone>>();
        let work = move || {
            let cut = |gone: &[Gone]| match visit(&maps, gone) {
                Ok(cut) => drop(metrics.sockets_cut.inc_by(cut as u64)),
                Err(error) => tracing::error!(%error, "UDP sockets of backends that are gone stay connected"),
            };
            while let Ok(mut gone) = orders.recv() {
                gone.extend(orders.try_iter().flatten());
                cut(&gone);
                #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
                thread::sleep(SETTLE);
                cut(&gone);
            }
        };
        thread::Builder::new().name("cutter".into()).spawn(work)?;
        Ok(Self(sender))
    }

    /// Cuts the sockets of these backends off, soon.
    pub(crate) fn cut(&self, gone: Vec<Gone>) {
        // The thread ends only when this does.
        let _ = self.0.send(gone);
    }
}

/// Cuts the sockets of these backends off and returns how many there were.
pub(crate) fn cut(maps: &Path, gone: &[Gone]) -> Result<usize> {
    thread::scope(|scope| scope.spawn(|| visit(maps, gone)).join()).unwrap_or(Ok(0))
}

/// Visits every network namespace. The calling thread is in some other one afterwards.
fn visit(maps: &Path, gone: &[Gone]) -> Result<usize> {
    let sockets = translated(maps, gone)?;
    if sockets.is_empty() {
        return Ok(0);
    }
    let mut cut = 0;
    for namespace in namespaces()? {
        // It may just be going; what cannot be done in one is no reason to leave the others.
        match cut_in(&namespace, &sockets) {
            Ok(count) => cut += count,
            Err(error) => tracing::warn!(%error, "UDP sockets of one network namespace stay connected"),
        }
    }
    tracing::debug!(cut, "connected UDP sockets of backends that are gone");
    Ok(cut)
}

/// Which addresses sockets asked for, and the backends they were sent to.
pub(crate) fn asked(maps: &Path) -> Result<HashSet<(SocketAddr, SocketAddr)>> {
    let at = |address, port| SocketAddr::new(from_map(address), host_port(port));
    let peers = peers(maps)?.into_iter().filter(|(key, value)| value.is_sealed_for(key));
    Ok(peers.map(|(key, value)| (at(value.address, value.port), at(key.address, key.port))).collect())
}

fn peers(maps: &Path) -> Result<Vec<(PeerKey, PeerValue)>> {
    Table::open(maps, "UDP_PEERS")?.entries()
}

/// The cookies of sockets that were sent to one of these backends, and where to.
fn translated(maps: &Path, gone: &[Gone]) -> Result<HashMap<u64, Vec<SocketAddr>>> {
    let peers = peers(maps)?;
    let mut sockets: HashMap<u64, Vec<SocketAddr>> = HashMap::new();
    for (key, value) in &peers {
        if let Some(gone) = gone.iter().find(|gone| gone.is_of(key, value)) {
            sockets.entry(key.cookie).or_default().push(gone.backend);
        }
    }
    Ok(sockets)
}

/// The cookies of all connected sockets, in every network namespace that a process is in.
pub(crate) fn cookies() -> Result<HashSet<u64>> {
    let visit = || -> Result<HashSet<u64>> {
        let mut found = HashSet::new();
        for namespace in namespaces()? {
            let failed = Error::io("read the sockets of a network namespace");
            cookies_in(&namespace, &mut found).map_err(failed)?;
        }
        Ok(found)
    };
    // A thread of its own: it is in some other namespace afterwards.
    thread::scope(|scope| scope.spawn(visit).join()).unwrap_or_else(|_| {
        Err(Error::io("read the sockets of all network namespaces")(io::Error::other("the thread ended early")))
    })
}

fn cookies_in(namespace: &File, found: &mut HashSet<u64>) -> io::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let mut diag = Diag::open()?;
    for sockets in [diag.connected_tcp()?, diag.connected_udp()?] {
        found.extend(sockets.iter().map(diag::Found::cookie));
    }
    Ok(())
}

/// A file for each network namespace that a process is in.
fn namespaces() -> Result<Vec<File>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir("/proc").map_err(Error::io("read /proc"))?.flatten() {
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // Processes end at any time.
        let path = entry.path().join("ns/net");
        let Ok(about) = fs::metadata(&path) else { continue };
        if let std::collections::hash_map::Entry::Vacant(place) = found.entry((about.dev(), about.ino()))
            && let Ok(file) = File::open(&path)
        {
            place.insert(file);
        }
    }
    Ok(found.into_values().collect())
}

/// Cuts sockets of one namespace off.
fn cut_in(namespace: &File, sockets: &HashMap<u64, Vec<SocketAddr>>) -> io::Result<usize> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let mut diag = Diag::open()?;
    let mut cut = 0;
    for socket in diag.connected_udp()? {
        if sockets.get(&socket.cookie()).is_some_and(|backends| backends.contains(&socket.peer())) {
            cut += usize::from(diag.destroy(&socket)?);
        }
    }
    Ok(cut)
}

#[cfg(test)]
mod tests {
    use skep_ebpf_common::{address, port};

    use super::*;
    use crate::service::Protocol;

    #[test]
    fn only_sockets_of_that_service_and_backend_are_meant() {
        let words = |ip: &str| address(ip.parse::<std::net::Ipv4Addr>().unwrap().to_ipv6_mapped().octets());
        let at = |ip: &str, port| Frontend { address: ip.parse().unwrap(), port, protocol: Protocol::Udp };
        let gone = Gone {
            backend: "10.1.0.1:53".parse().unwrap(),
            frontends: vec![at("10.96.0.10", 53), at("0.0.0.0", 30_053)],
        };
        let key = |ip: &str| PeerKey { cookie: 1, address: words(ip), port: port(53), pad: [0; 3] };
        let (its, other) = (key("10.1.0.1"), key("10.1.0.2"));
        let asked = |key: &PeerKey, ip: &str, number| PeerValue::sealed(key, words(ip), port(number));
        assert!(gone.is_of(&its, &asked(&its, "10.96.0.10", 53)));
        assert!(gone.is_of(&its, &asked(&its, "192.0.2.1", 30_053)), "a node port at any address");
        assert!(!gone.is_of(&its, &asked(&its, "10.96.0.11", 53)), "another Service");
        assert!(!gone.is_of(&other, &asked(&other, "10.96.0.10", 53)), "another backend");
        assert!(!gone.is_of(&its, &asked(&other, "10.96.0.10", 53)), "a torn entry");
    }
}
