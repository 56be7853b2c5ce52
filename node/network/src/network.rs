//! The node's part: what is installed once, put right after a restart, and taken away in the end.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use serde_json::json;

use crate::netlink::{Link, Netlink, OWN_PROTOCOL, Route, Via};
use crate::pod_link::{self, Wiring};
use crate::{Error, Ipam, Lease, PLUGIN_NAME, Result, cni, files, netns, peers, sysctl};

/// File name of the network configuration the container runtime reads. It takes the first in the directory by name.
pub const CONFLIST_NAME: &str = "10-skep.conflist";

/// What IPv6 needs at least (RFC 8200, section 5).
pub(crate) const MIN_MTU: u32 = 1280;

/// How to set up the pod network.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's share of the cluster's pod addresses (`spec.podCIDR` of the Node). IPv4.
    pub pod_cidr: IpNet,
    /// The cluster's Service addresses, for the route that keeps an unknown one from leaving the node.
    pub service_cidr: Option<IpNet>,
    /// The node's own address: the source of its packets to pods, and what tells which device's MTU pods get.
    pub node_ip: Option<IpAddr>,
    /// MTU of pods; `None`: that of the device with `node_ip`, else of the default route's, else 1500, less `overhead`.
    pub mtu: Option<u32>,
    /// Bytes that the way to other nodes takes off each packet, see [`crate::Routing::overhead`].
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
    wiring: Wiring,
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
        let pod_cidr = ipv4(config.pod_cidr)?;
        if config
            .service_cidr
            .is_some_and(|services| services.contains(&config.pod_cidr) || config.pod_cidr.contains(&services))
        {
            return Err(Error::Config(format!("the pod CIDR {pod_cidr} and the Service addresses overlap")));
        }
        for dir in [&config.cni_bin_dir, &config.cni_conf_dir, &config.data_dir] {
            fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        }
        let ipam = Ipam::open(ipam_dir(&config), pod_cidr)?;
        let mut netlink = Netlink::open()?;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => device_mtu(&mut netlink, config.node_ip)?.saturating_sub(config.overhead).max(MIN_MTU),
        };
        let network = Self { wiring: Wiring { mtu, node_ip: config.node_ip }, ipam, config };
        sysctl::set("ipv4/ip_forward", "1")?;
        if sysctl::get("ipv4/conf/all/rp_filter")? == "2" {
            tracing::warn!(
                "net.ipv4.conf.all.rp_filter is 2 (loose), which overrules the strict check on pods' devices: a pod can send \
                 under another's address; set it to 0 or 1"
            );
        }
        for route in network.fixed_routes() {
            netlink.replace_route(&route)?;
        }
        network.install_plugin()?;
        network.write_conflist()?;
        tracing::info!(%pod_cidr, mtu, conf_dir = %network.config.cni_conf_dir.display(), "pod network is set up");
        Ok(network)
    }

    /// The MTU pods get.
    pub fn mtu(&self) -> u32 {
        self.wiring.mtu
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
                    tracing::warn!(container = %lease.container, address = %lease.address, %error, "cannot repair the pod's network");
                }
            }
        }
        let fixed = self.fixed_routes();
        for route in routes.iter().filter(|route| route.via == Via::Unreachable && !fixed.contains(route)) {
            netlink.delete_route(route)?;
            done.leftovers_removed += 1;
        }
        for route in fixed {
            netlink.replace_route(&route)?;
        }
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
        if netlink.link(device)?.is_none() {
            // Both ends are gone: they go together.
            pod_link::connect(lease, self.wiring)?;
            return Ok(true);
        }
        let looked_whole =
            seen.is_some_and(|link| link.up && routes.contains(&pod_link::host_route(link.index, lease, self.wiring)));
        // What looked broken may only have been in the making: now, under the lock, it counts.
        let broken = !looked_whole && pod_link::check_host(netlink, lease, self.wiring).is_err();
        // Also where all is well: the neighbour entry was not looked at, and replacing it costs little.
        pod_link::configure_host(netlink, lease, self.wiring)?;
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

    /// Unknown Service addresses and unused pod addresses lead nowhere, rather than to the default gateway.
    fn fixed_routes(&self) -> Vec<Route> {
        let unreachable = |cidr: IpNet| Route {
            destination: cidr.trunc(),
            via: Via::Unreachable,
            protocol: OWN_PROTOCOL,
            source: None,
        };
        self.config.service_cidr.into_iter().chain([self.config.pod_cidr]).map(unreachable).collect()
    }

    fn write_conflist(&self) -> Result<()> {
        let path = self.config.cni_conf_dir.join(CONFLIST_NAME);
        let plugin = cni::plugin_config(&self.config.pod_cidr, &self.config.data_dir, self.wiring);
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

fn ipv4(cidr: IpNet) -> Result<Ipv4Net> {
    match cidr {
        IpNet::V4(cidr) => Ok(cidr),
        IpNet::V6(cidr) => Err(Error::Config(format!("the pod CIDR {cidr} is IPv6, which is not supported yet"))),
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

/// The MTU of the device that has `address`, else of the default route's, else Ethernet's.
pub(crate) fn device_mtu(netlink: &mut Netlink, address: Option<IpAddr>) -> Result<u32> {
    let owner = match address {
        Some(address) => netlink.addresses()?.into_iter().find(|(_, own)| *own == address).map(|(index, _)| index),
        None => None,
    };
    let index =
        match owner {
            Some(index) => Some(index),
            None => netlink.routes()?.into_iter().find(|route| route.destination.prefix_len() == 0).and_then(|route| {
                match route.via {
                    Via::Link(index) | Via::Gateway(index, _) => Some(index),
                    Via::Unreachable => None,
                }
            }),
        };
    let link = netlink.links()?.into_iter().find(|link| Some(link.index) == index);
    // The loopback device's 64 KiB are for nobody else.
    Ok(link.filter(|link| link.name != "lo").map_or(1500, |link| link.mtu))
}
