//! The node's part: what is installed once, put right after a restart, and taken away in the end.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use serde_json::json;

use crate::closed::ClosedRanges;
use crate::netlink::{Link, Netlink, OWN_PROTOCOL, Route, Via};
use crate::pod_link::{self, Wiring};
use crate::{Error, Ipam, Lease, PLUGIN_NAME, Result, bandwidth, cni, files, forwarding, netns, peers, sysctl};

/// File name of the network configuration the container runtime reads. It takes the first in the directory by name.
pub const CONFLIST_NAME: &str = "10-skep.conflist";

/// What IPv6 needs at least (RFC 8200, section 5).
pub(crate) const MIN_MTU: u32 = 1280;

/// How to set up the pod network.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's share of the cluster's pod addresses (`spec.podCIDRs` of the Node): one, or one of each family with the
    /// primary first.
    pub pod_cidrs: Vec<IpNet>,
    /// The cluster's Service addresses, for the routes that keep an unknown one from leaving the node.
    pub service_cidrs: Vec<IpNet>,
    /// Whether [`Network::close_ranges`] will tell of further ranges: those of a former life stay until then.
    pub awaits_more_ranges: bool,
    /// The node's own addresses: the sources of its packets to pods, and what tells which device's MTU pods get.
    pub node_ips: Vec<IpAddr>,
    /// MTU of pods; `None`: the smallest of the devices with `node_ips`, else of the default route's, else 1500, less
    /// `overhead`.
    pub mtu: Option<u32>,
    /// Bytes that the ways to other nodes take off each packet, see [`crate::Peers::overhead`]; [`Network::fit`] tells others
    /// later.
    pub overhead: u32,
    /// Where the container runtime looks for plugins.
    pub cni_bin_dir: PathBuf,
    /// Where the container runtime looks for network configurations.
    pub cni_conf_dir: PathBuf,
    /// Where leases are kept.
    pub data_dir: PathBuf,
    /// The program that acts as the plugin when called by its name; `None`: the running one.
    pub plugin: Option<PathBuf>,
}

/// The pod network of this node (of the calling thread's network namespace).
#[derive(Debug)]
pub struct Network {
    config: Config,
    ipam: Ipam,
    closed: ClosedRanges,
    /// The MTU pods get from now on.
    mtu: AtomicU32,
}

/// What [`Network::reconcile`] put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Pods that are connected.
    pub pods: usize,
    /// Pods whose route, neighbour or device on the node had to be restored.
    pub repaired: usize,
    /// Leases of pods whose namespace is gone.
    pub leases_removed: usize,
    /// Devices and routes that belonged to no pod.
    pub leftovers_removed: usize,
}

impl Network {
    /// Prepares the node: kernel settings, the routes that keep unknown Service and pod addresses on the node, the plugin
    /// and, last (it tells the runtime that the network is ready), the configuration file. Safe to repeat.
    ///
    /// # Errors
    /// When a setting cannot work, or the kernel or file system refuses.
    pub fn setup(config: Config) -> Result<Self> {
        check_families("Service ranges", config.service_cidrs.iter().map(IpNet::addr))?;
        let overlap = |pods: &&IpNet| {
            let overlaps = |services: &IpNet| services.contains(*pods) || pods.contains(services);
            config.service_cidrs.iter().any(overlaps)
        };
        if let Some(pods) = config.pod_cidrs.iter().find(overlap) {
            return Err(Error::Config(format!("the pod CIDR {pods} and the Service addresses overlap")));
        }
        for dir in [&config.cni_bin_dir, &config.cni_conf_dir, &config.data_dir] {
            fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        }
        let ipam = Ipam::open(ipam_dir(&config), &config.pod_cidrs)?;
        let mut netlink = Netlink::open()?;
        let mtu = pod_mtu(&mut netlink, &config, config.overhead)?;
        let closed =
            ClosedRanges::new(&config.service_cidrs, &config.pod_cidrs, &config.node_ips, config.awaits_more_ranges);
        let network = Self { mtu: mtu.into(), ipam, closed, config };
        forwarding::enable(network.config.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6()))?;
        if sysctl::get("ipv4/conf/all/rp_filter")? == "2" {
            tracing::warn!(
                "net.ipv4.conf.all.rp_filter is 2 (loose), which overrules the strict check on pods' devices: a pod can send \
                 under another's address; set it to 0 or 1"
            );
        }
        network.closed.keep(&mut netlink)?;
        network.install_plugin()?;
        network.write_conflist()?;
        tracing::info!(pod_cidrs = ?network.config.pod_cidrs, mtu, conf_dir = %network.config.cni_conf_dir.display(), "pod network is set up");
        Ok(network)
    }

    /// The MTU pods get.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Gives pods that are connected from now on the MTU of the node's device less `overhead` bytes, unless the settings name
    /// one; returns whether that is another than before. Pods that are there keep theirs: where it is too large for a way
    /// that is new, their node tells them so packet by packet (RFC 1191, RFC 8201).
    ///
    /// # Errors
    /// When the device cannot be looked at or the configuration not be written.
    pub fn fit(&self, overhead: u32) -> Result<bool> {
        let mtu = pod_mtu(&mut Netlink::open()?, &self.config, overhead)?;
        let changed = self.mtu.swap(mtu, Ordering::Relaxed) != mtu;
        if changed {
            self.write_conflist()?;
        }
        Ok(changed)
    }

    /// Has addresses of these Service ranges lead nowhere, too, unless they are served; those told before that are not among
    /// them any more are opened.
    ///
    /// # Errors
    /// When routes cannot be read or changed; [`Network::reconcile`] tries again.
    pub fn close_ranges(&self, ranges: &[IpNet]) -> Result<()> {
        self.closed.set(&mut Netlink::open()?, ranges)
    }

    fn wiring(&self) -> Wiring {
        Wiring { mtu: self.mtu(), node_ips: self.config.node_ips.clone() }
    }

    /// The addresses in use.
    ///
    /// # Errors
    /// When the leases cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        self.ipam.leases()
    }

    /// Puts right what happened while nobody looked: restores the wiring of every pod whose namespace lives, frees the
    /// addresses of pods whose namespace is gone, and removes devices and routes that belong to no pod. Pods that are
    /// being added or deleted meanwhile are left alone.
    ///
    /// # Errors
    /// When leases, links or routes cannot be read, or stale ones not removed. A pod that cannot be repaired is logged.
    pub fn reconcile(&self) -> Result<Reconciled> {
        let mut netlink = Netlink::open()?;
        // Devices and routes first: a lease is there before its device and gone after it, so whatever has no lease by
        // now is nobody's.
        let links: HashMap<String, _> = netlink
            .links()?
            .into_iter()
            .filter(pod_link::is_host_device)
            .map(|link| (link.name.clone(), link))
            .collect();
        let routes: Vec<Route> = netlink.routes()?.into_iter().filter(|route| route.protocol == OWN_PROTOCOL).collect();
        let (alive, gone): (Vec<Lease>, Vec<Lease>) =
            self.ipam.leases()?.into_iter().partition(|lease| netns::is_namespace(&lease.namespace));

        let mut done = Reconciled { pods: alive.len(), ..Reconciled::default() };
        for lease in &gone {
            let device = pod_link::host_device_name(&lease.container, &lease.interface);
            let _lock = self.ipam.lock_pod(&device)?;
            // Deleted, or given to another sandbox, since the leases were read.
            if self.ipam.find(&lease.container, &lease.interface)?.as_ref() == Some(lease) {
                netlink.delete_link(&device)?;
                self.ipam.release(&lease.container, &lease.interface)?;
                done.leases_removed += 1;
            }
        }
        let owners: HashMap<String, &Lease> =
            alive.iter().map(|lease| (pod_link::host_device_name(&lease.container, &lease.interface), lease)).collect();
        for (name, _) in links.iter().filter(|(name, _)| !owners.contains_key(*name)) {
            done.leftovers_removed += usize::from(netlink.delete_link(name)?);
        }
        for (name, lease) in owners {
            match self.repair(&mut netlink, &name, lease, links.get(&name), &routes) {
                Ok(repaired) => done.repaired += usize::from(repaired),
                Err(error) => {
                    tracing::warn!(container = %lease.container, addresses = %lease.addresses, %error, "cannot repair the pod's network");
                }
            }
        }
        done.leftovers_removed += self.closed.keep(&mut netlink)?;
        Ok(done)
    }

    /// Puts one pod's wiring right; returns whether something was missing.
    fn repair(
        &self,
        netlink: &mut Netlink,
        device: &str,
        lease: &Lease,
        seen: Option<&Link>,
        routes: &[Route],
    ) -> Result<bool> {
        let _lock = self.ipam.lock_pod(device)?;
        // Deleted, or given to another sandbox, since the leases were read.
        if self.ipam.find(&lease.container, &lease.interface)?.as_ref() != Some(lease) {
            return Ok(false);
        }
        let wiring = self.wiring();
        if netlink.link(device)?.is_none() {
            // Both ends are gone: they go together, and the limits with them.
            pod_link::connect(lease, &wiring)?;
            bandwidth::limit(lease)?;
            return Ok(true);
        }
        let has_routes =
            |link: &Link| pod_link::host_routes(link.index, lease, &wiring).all(|way| routes.contains(&way));
        let looked_whole = seen.is_some_and(|link| link.up && has_routes(link));
        // What looked broken may only have been in the making: now, under the lock, it counts.
        let broken = !looked_whole && pod_link::check_host(netlink, lease, &wiring).is_err();
        // Also where all is well: the neighbour entries were not looked at, and replacing them costs little.
        pod_link::configure_host(netlink, lease, &wiring)?;
        Ok(broken)
    }

    /// Removes everything [`Network::setup`] and the plugin made: configuration first, so that no pod is added any more,
    /// then devices, routes, leases, plugin. Pods that still run lose their network. IP forwarding stays on: others may
    /// have come to need it.
    ///
    /// # Errors
    /// The first that occurs; what could be removed is.
    pub fn teardown(self) -> Result<()> {
        let mut results = vec![files::remove(&self.config.cni_conf_dir.join(CONFLIST_NAME)).map(|_| ())];
        results.push(Netlink::open().and_then(|mut netlink| {
            for link in netlink.links()?.iter().filter(|link| pod_link::is_host_device(link)) {
                netlink.delete_link(&link.name)?;
            }
            for route in netlink.routes()?.iter().filter(|route| route.protocol == OWN_PROTOCOL) {
                netlink.delete_route(route)?;
            }
            peers::remove(&mut netlink)
        }));
        results.push(self.remove_plugin());
        results.push(self.ipam.destroy());
        results.into_iter().collect()
    }

    fn write_conflist(&self) -> Result<()> {
        let path = self.config.cni_conf_dir.join(CONFLIST_NAME);
        let plugin = cni::plugin_config(&self.config.pod_cidrs, &self.config.data_dir, &self.wiring());
        let conflist =
            json!({ "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "skep", "plugins": [plugin] });
        let text = format!("{conflist:#}\n");
        if fs::read_to_string(&path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        files::write(&path, text.as_bytes(), 0o644)
    }

    /// Puts the plugin, and a `loopback` if there is none (containerd wants one), into the plugin directory.
    fn install_plugin(&self) -> Result<()> {
        let program = self.config.plugin.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let plugin = self.config.cni_bin_dir.join(PLUGIN_NAME);
        install(&program, &plugin)?;
        let loopback = self.config.cni_bin_dir.join(cni::LOOPBACK_NAME);
        // Ours of before is replaced by ours of now; somebody else's stays.
        if !loopback.exists() || self.marker().exists() {
            files::write(&self.marker(), b"", 0o600)?;
            install(&plugin, &loopback)?;
        }
        Ok(())
    }

    fn remove_plugin(&self) -> Result<()> {
        files::remove(&self.config.cni_bin_dir.join(PLUGIN_NAME))?;
        if files::remove(&self.marker())? {
            files::remove(&self.config.cni_bin_dir.join(cni::LOOPBACK_NAME))?;
        }
        Ok(())
    }

    /// A file that says that `loopback` in the plugin directory is ours.
    fn marker(&self) -> PathBuf {
        self.config.data_dir.join("loopback-installed")
    }
}

/// Where leases are, below the data directory.
pub(crate) fn ipam_dir(config: &Config) -> PathBuf {
    config.data_dir.join(cni::IPAM_DIR)
}

/// At most two, and of different families.
pub(crate) fn check_families(what: &str, addresses: impl Iterator<Item = IpAddr>) -> Result<()> {
    let v4: Vec<bool> = addresses.map(|address| address.is_ipv4()).collect();
    match v4.as_slice() {
        [] | [_] => Ok(()),
        [first, second] if first != second => Ok(()),
        _ => Err(Error::Config(format!("more than one of the {what} are of one family"))),
    }
}

fn pod_mtu(netlink: &mut Netlink, config: &Config, overhead: u32) -> Result<u32> {
    match config.mtu {
        Some(mtu) => Ok(mtu),
        None => Ok(device_mtu(netlink, &config.node_ips)?.saturating_sub(overhead).max(MIN_MTU)),
    }
}

/// Puts `program` at `target`: as a hard link where that is possible, else as a copy.
fn install(program: &Path, target: &Path) -> Result<()> {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let source = fs::metadata(program).map_err(Error::io("read", program))?;
    if fs::metadata(target).is_ok_and(|present| same(&present, &source)) {
        return Ok(());
    }
    let temporary = files::temporary(target);
    let installed = (|| {
        // A link to what the path leads to; it may meanwhile be another file than the running program.
        let linked = fs::canonicalize(program).and_then(|path| fs::hard_link(path, &temporary));
        let right = linked.is_ok() && fs::metadata(&temporary).is_ok_and(|linked| same(&linked, &source));
        if !right {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // Copies the permissions too.
            fs::copy(program, &temporary)?;
        }
        fs::rename(&temporary, target)
    })();
    installed.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        Error::io("install", target)(source)
    })
}

/// The smallest MTU of the devices that have `addresses`, else that of the default route's, else Ethernet's.
pub(crate) fn device_mtu(netlink: &mut Netlink, addresses: &[IpAddr]) -> Result<u32> {
    let owners = netlink.addresses()?.into_iter().filter(|(_, own)| addresses.contains(own));
    let mut indices: Vec<u32> = owners.map(|(index, _)| index).collect();
    if indices.is_empty() {
        let mut defaults = netlink.routes()?.into_iter().filter(|route| route.destination.prefix_len() == 0);
        indices.extend(defaults.find_map(|route| match route.via {
            Via::Link(index) | Via::Gateway(index, _) => Some(index),
            Via::Unreachable => None,
        }));
    }
    // The loopback device's 64 KiB are for nobody else.
    let links = netlink.links()?.into_iter().filter(|link| indices.contains(&link.index) && link.name != "lo");
    Ok(links.map(|link| link.mtu).min().unwrap_or(1500))
}
