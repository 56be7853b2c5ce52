//! What can be chosen.

use std::{net::IpAddr, path::PathBuf};

/// Configuration of the service data plane.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder, on a BPF file system, below which maps and links are pinned. Default `/sys/fs/bpf/skep`.
    pub bpf_root: PathBuf,
    /// The cgroup whose processes are served. Default: the root of the mounted cgroup2 file system.
    pub cgroup_root: Option<PathBuf>,
    /// This node's name; decides which endpoints are local for `internalTrafficPolicy: Local`.
    pub node_name: Option<String>,
    /// Which of this node's addresses serve node ports: those in one of these ranges (address and length of the prefix).
    /// Default: none given, which means all.
    pub node_port_addresses: Vec<(IpAddr, u8)>,
    /// Size of the Maglev table from which traffic from outside the cluster chooses its backend: one of
    /// [`crate::maglev::SIZES`], the same on all nodes. Zero, the default, chooses at random.
    /// A new map of slots has room for 512 tables besides the backends.
    pub maglev: u32,
    /// Capacities of the maps at first.
    pub maps: MapSizes,
    /// How large those that hold Services may become when they fill up; [`MapSizes::MOST`] is the default.
    pub most: MapSizes,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bpf_root: PathBuf::from("/sys/fs/bpf/skep"),
            cgroup_root: None,
            node_name: None,
            node_port_addresses: Vec::new(),
            maglev: 0,
            maps: MapSizes::default(),
            most: MapSizes::MOST,
        }
    }
}

/// Capacities, in entries. A pinned map that is smaller is made larger when the daemon starts (see [`crate::growth`]), one
/// that is larger stays so. Those of `services` and `backends` are made larger whenever they fill up, too.
///
/// Kernel memory of the defaults, empty, as the kernel accounts for it: 37 MiB, of which 23 are hash buckets (16 bytes per
/// entry, rounded up to a power of two) and 14 preallocated LRU entries. All other entries are allocated as they come: about
/// 0.5 KiB per service port (most of it names) and 0.2 KiB per backend. The per-packet path, once it is loaded, adds 21 MiB:
/// 328 bytes, all of them preallocated, for each of `flows`. A full LRU map forgets its oldest entry; the others, at their
/// ceiling, refuse new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Ports of Services.
    pub services: u32,
    /// Endpoints of all service ports together, plus once more those of the service that is being changed.
    pub backends: u32,
    /// (unconnected UDP socket, virtual address) pairs whose choice is remembered.
    pub sticky: u32,
    /// (UDP socket, backend) pairs that see the virtual address.
    pub udp_peers: u32,
    /// TCP sockets that see the virtual address with getpeername.
    pub tcp_peers: u32,
    /// Connected sockets that count for the choice of a backend with fewer connections; more than that are not counted. Zero:
    /// backends are not chosen like that, and the programs count nothing. See `ebpf/src/load.rs`.
    pub connections: u32,
    /// Flows from outside and past sockets that are remembered at once. Their maps are created by
    /// [`crate::devices::Devices`] only.
    pub flows: u32,
}

impl MapSizes {
    /// What maps can be made to hold: a million service ports and four million endpoints.
    pub const MOST: Self = Self {
        services: 1 << 20,
        backends: 1 << 22,
        sticky: 1 << 24,
        udp_peers: 1 << 24,
        tcp_peers: 1 << 24,
        connections: 1 << 24,
        flows: 1 << 24,
    };
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            services: 65_536,
            backends: 262_144,
            sticky: 32_768,
            udp_peers: 32_768,
            tcp_peers: 32_768,
            connections: 0,
            flows: 65_536,
        }
    }
}
