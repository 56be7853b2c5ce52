//! How fast services get into the kernel, measured on this kernel's maps without a cluster.

pub mod xdp;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    MapSizes, Programmer, Result, bpffs, kernel,
    maps::Part,
    object,
    service::{Backend, Family, Frontend, Protocol, Service, ServicePort, ServicePortName, ServiceTable},
};

/// How many single changes [`run`] averages over.
const CHANGES: u32 = 1_000;

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Service ports.
    pub services: usize,
    /// Backends of each.
    pub endpoints: usize,
    /// From empty maps to all served.
    pub bulk: Duration,
    /// Map writes that took.
    pub bulk_writes: u64,
    /// As `bulk`, with one call per entry instead of batches.
    pub bulk_unbatched: Duration,
    /// Exchanging one endpoint of one service, on average, with everything else in the maps.
    pub change: Duration,
    /// Map writes of one such change.
    pub change_writes: u64,
    /// A new daemon reading the maps back.
    pub recover: Duration,
    /// Comparing everything when nothing changed.
    pub resync: Duration,
    /// Map writes of that comparison.
    pub resync_writes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} services x {} endpoints", self.services, self.endpoints)?;
        writeln!(f, "  from empty          {:>10.1?}  ({} map writes)", self.bulk, self.bulk_writes)?;
        writeln!(f, "  from empty, single  {:>10.1?}", self.bulk_unbatched)?;
        writeln!(f, "  one endpoint        {:>10.1?}  ({} map writes)", self.change, self.change_writes)?;
        writeln!(f, "  read back           {:>10.1?}", self.recover)?;
        write!(f, "  nothing changed     {:>10.1?}  ({} map writes)", self.resync, self.resync_writes)
    }
}

/// Measures with maps of its own below `bpf_root`, which must not be in use; they are removed afterwards. Nothing is
/// attached, so no traffic is touched.
///
/// # Errors
/// As [`crate::Proxy::load`] and [`Programmer::sync`].
pub fn run(bpf_root: &Path, services: usize, endpoints: usize) -> Result<Report> {
    let result = measure(bpf_root, services, endpoints);
    bpffs::cleanup(bpf_root)?;
    result
}

/// What a daemon that comes back costs.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// Loading the programs onto the pinned maps and reading these back.
    pub recover: Duration,
    /// Comparing all of it with what is wanted.
    pub resync: Duration,
    /// Map writes of that comparison.
    pub writes: u64,
}

/// Fills maps of its own below `bpf_root` and leaves them pinned, as a daemon that ends does; [`remove`] removes them.
///
/// # Errors
/// As [`run`].
pub fn fill(bpf_root: &Path, services: usize, endpoints: usize) -> Result<()> {
    kernel::check()?;
    let paths = bpffs::prepare(bpf_root)?;
    let _lock = bpffs::lock(bpf_root)?;
    let _ebpf = object::load(&paths, Part::Sockets { maglev: 0 }, &sizes(services, endpoints))?;
    Programmer::open(&paths.maps)?.sync(&table(services, endpoints))
}

/// Takes over what [`fill`] has left, as a new daemon does, when the same is wanted.
///
/// # Errors
/// As [`run`].
pub fn restart(bpf_root: &Path, services: usize, endpoints: usize) -> Result<Restart> {
    let table = table(services, endpoints);
    let started = Instant::now();
    let paths = bpffs::prepare(bpf_root)?;
    let _lock = bpffs::lock(bpf_root)?;
    let _ebpf = object::load(&paths, Part::Sockets { maglev: 0 }, &sizes(services, endpoints))?;
    let mut programmer = Programmer::open(&paths.maps)?;
    let recover = started.elapsed();
    let started = Instant::now();
    programmer.sync(&table)?;
    let writes = programmer.writes();
    Ok(Restart { recover, resync: started.elapsed(), writes: writes.updates + writes.deletes })
}

/// Removes what [`fill`] has left.
///
/// # Errors
/// When a pin cannot be removed.
pub fn remove(bpf_root: &Path) -> Result<()> {
    bpffs::cleanup(bpf_root)
}

/// Maps with room for that many, and for one service port's endpoints once more.
fn sizes(services: usize, endpoints: usize) -> MapSizes {
    let room = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    MapSizes {
        services: room(services.max(1024)),
        backends: room((services * endpoints + endpoints + 1).max(1024)),
        ..MapSizes::default()
    }
}

/// `services` service ports, one Service each, with `endpoints` backends of their own.
pub fn table(services: usize, endpoints: usize) -> ServiceTable {
    (0..services)
        .map(|n| {
            let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + n as u32).into();
            let frontend = Frontend { address, port: 80, protocol: Protocol::Tcp };
            let name =
                ServicePortName { namespace: "bench".into(), name: format!("service-{n}").into(), port: "http".into() };
            let backends = (0..endpoints).map(|m| endpoint(n * endpoints + m));
            (ServicePort { name, family: Family::IPv4 }, Service::new(frontend, backends))
        })
        .collect()
}

fn endpoint(n: usize) -> SocketAddr {
    SocketAddrV4::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 0)) + n as u32), 8080).into()
}

fn measure(bpf_root: &Path, services: usize, endpoints: usize) -> Result<Report> {
    kernel::check()?;
    let paths = bpffs::prepare(bpf_root)?;
    let _lock = bpffs::lock(bpf_root)?;
    let _ebpf = object::load(&paths, Part::Sockets { maglev: 0 }, &sizes(services, endpoints))?;
    let table = table(services, endpoints);

    let mut programmer = Programmer::open(&paths.maps)?;
    programmer.set_batching(false);
    let started = Instant::now();
    programmer.sync(&table)?;
    let bulk_unbatched = started.elapsed();

    programmer.set_batching(true);
    programmer.sync(&ServiceTable::new())?;
    let before = programmer.writes();
    let started = Instant::now();
    programmer.sync(&table)?;
    let bulk = started.elapsed();
    let bulk_writes = programmer.writes().updates - before.updates;

    // One endpoint leaves and another comes: what a rolling update does to a service.
    let changed: Vec<(ServicePort, Service, Service)> = table
        .iter()
        .take(CHANGES as usize)
        .map(|(port, service)| {
            let mut other = service.clone();
            if let Some(last) = other.cluster.last_mut() {
                // Greater than all others, so the list stays sorted.
                *last = Backend { address: endpoint(services * endpoints), local: false };
            }
            (port.clone(), service.clone(), other)
        })
        .collect();
    let before = programmer.writes();
    let started = Instant::now();
    for (port, _, other) in &changed {
        programmer.apply(port, other)?;
    }
    let number = u32::try_from(changed.len()).unwrap_or(1).max(1);
    let change = started.elapsed() / number;
    let after = programmer.writes();
    let change_writes = (after.updates + after.deletes - before.updates - before.deletes) / u64::from(number);
    for (port, service, _) in &changed {
        programmer.apply(port, service)?;
    }
    drop(programmer);

    let started = Instant::now();
    let mut programmer = Programmer::open(&paths.maps)?;
    let recover = started.elapsed();
    let before = programmer.writes();
    let started = Instant::now();
    programmer.sync(&table)?;
    let resync = started.elapsed();
    let after = programmer.writes();
    let resync_writes = after.updates + after.deletes - before.updates - before.deletes;
    Ok(Report {
        services,
        endpoints,
        bulk,
        bulk_writes,
        bulk_unbatched,
        change,
        change_writes,
        recover,
        resync,
        resync_writes,
    })
}
