//! The data plane as a whole: loaded, kept in step with the API, taken down.

mod watch;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{
    Attachment, Config, Health, MapSizes, Metrics, Programmer, Result,
    bpffs::{self, Lock},
    cgroup,
    growth::{self, Growth, Larger},
    kernel,
    loads::Loads,
    log::KernelLog,
    maps::{self, Part},
    object,
    programmer::Refused,
    service::ServiceTable,
    sockets,
};

/// The service data plane of a node. Dropping it leaves everything serving; [`Proxy::cleanup`] takes it down.
pub struct Proxy {
    programmer: Programmer,
    attachments: Vec<(&'static str, Attachment)>,
    node_name: Option<String>,
    node_port_addresses: Vec<(IpAddr, u8)>,
    maglev: u32,
    metrics: Metrics,
    health: Health,
    log: KernelLog,
    bpf_root: PathBuf,
    most: MapSizes,
    loads: Loads,
    /// Keeps a second daemon away.
    _lock: Lock,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("programmer", &self.programmer).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Loads the programs, or takes over what runs: pinned maps are reused, programs that did not change stay attached,
    /// changed ones are attached before the old ones are detached. Maps of another layout version, and the programs on
    /// them, go on serving until the first [`Proxy::sync`] or until [`Proxy::run`] is in step with the API.
    ///
    /// # Errors
    /// When privileges, kernel features or a cgroup2 file system lack, another process owns the maps, or the kernel
    /// refuses something; each says what to do.
    pub fn load(config: Config) -> Result<Self> {
        kernel::check()?;
        let cgroup = cgroup::root(config.cgroup_root.as_deref())?;
        let paths = bpffs::prepare(&config.bpf_root)?;
        let lock = bpffs::lock(&config.bpf_root)?;
        growth::resume(&paths)?;
        let part = Part::Sockets { maglev: config.maglev };
        grow(&config.bpf_root, &growth::wanted(&paths, part, &config.maps));
        if config.maps.connections == 0 {
            [maps::LOADS, maps::CONNECTED].iter().try_for_each(|name| bpffs::unpin(&paths.maps.join(name)))?;
        }
        let mut ebpf = object::load(&paths, part, &config.maps)?;
        let programmer = Programmer::open(&paths.maps)?;
        let attachments = object::attach(&mut ebpf, &paths, &cgroup)?;
        let log = KernelLog::open(&mut ebpf)?;
        let kept = attachments.iter().filter(|(_, attachment)| *attachment == Attachment::Kept).count();
        tracing::info!(
            bpf_root = %config.bpf_root.display(),
            cgroup = %cgroup.display(),
            programs = attachments.len(),
            kept,
            services = programmer.ports().count(),
            "service load balancing is loaded"
        );
        let metrics = Metrics::default();
        programmer.fill().iter().for_each(|fill| metrics.filled(fill));
        // The pins hold maps and programs; the loaded object is not needed any more.
        Ok(Self {
            programmer,
            attachments,
            node_name: config.node_name,
            node_port_addresses: config.node_port_addresses,
            maglev: config.maglev,
            metrics,
            health: Health::default(),
            log,
            bpf_root: config.bpf_root,
            most: config.most,
            loads: Loads::new(paths.maps),
            _lock: lock,
        })
    }

    /// Removes all programs, maps and pins below `bpf_root`, and the BPF file system if [`Proxy::load`] mounted it.
    /// Nothing there is no error.
    ///
    /// # Errors
    /// When a daemon still runs on them, or a file operation fails.
    pub fn cleanup(bpf_root: &Path) -> Result<()> {
        bpffs::cleanup(bpf_root)
    }

    /// Which programs were attached, and which were running already.
    pub fn attachments(&self) -> &[(&'static str, Attachment)] {
        &self.attachments
    }

    /// The owner of the maps, for those who know what to program without an API.
    pub fn programmer(&mut self) -> &mut Programmer {
        &mut self.programmer
    }

    /// Makes the maps equal to `table`, and larger if need be; see [`Programmer::sync`].
    ///
    /// # Errors
    /// As [`Programmer::sync`], and when maps cannot be made larger.
    pub fn sync(&mut self, table: &ServiceTable) -> Result<()> {
        while let Err(error) = self.programmer.sync(table) {
            let more = table.len().saturating_sub(self.programmer.ports().count());
            let refused = Refused::of(&error);
            let larger = self.programmer.larger(refused, more, &self.most, self.maglev);
            if refused.is_none() || larger.is_empty() {
                return Err(error);
            }
            Growth::prepare(&self.bpf_root, &larger)?.finish()?;
            self.programmer.reopen(&bpffs::Paths::new(&self.bpf_root).maps)?;
        }
        bpffs::remove_other_versions(&self.bpf_root)
    }

    /// Destroys the connected UDP sockets of backends that were removed since the last call, in all network namespaces.
    /// Returns how many there were. ([`Proxy::run`] does so by itself.)
    ///
    /// # Errors
    /// When the map that knows them cannot be read.
    pub fn cut_sockets(&mut self) -> Result<usize> {
        sockets::cut(&bpffs::Paths::new(&self.bpf_root).maps, &self.programmer.take_gone(|_, _| false))
    }

    /// Compares the counts of open connections with the sockets and flows that are there, and puts them right. A socket that
    /// is not there counts until the second call. Returns how many were wrong. ([`Proxy::run`] does so every minute.)
    ///
    /// # Errors
    /// When a map or the kernel's lists of sockets cannot be read.
    pub fn check_loads(&mut self) -> Result<usize> {
        self.loads.check()
    }

    /// The metrics, shared with this proxy.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// How it is, shared with this proxy.
    pub fn health(&self) -> Health {
        self.health.clone()
    }
}

/// Makes maps larger before anybody writes to them. They serve as they are where that fails.
fn grow(bpf_root: &Path, larger: &Larger) {
    if larger.is_empty() {
        return;
    }
    match Growth::prepare(bpf_root, larger).and_then(Growth::finish) {
        Ok(()) => tracing::info!(?larger, "maps were made larger"),
        Err(error) => tracing::error!(error = %watch::chain(&error), ?larger, "maps cannot be made larger"),
    }
}
