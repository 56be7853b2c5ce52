//! What can be chosen.

use std::{path::PathBuf, sync::Arc};

use crate::Bypass;

/// Configuration of the enforcement.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder, on a BPF file system, below which maps and links are pinned (in `policy/`). Default `/sys/fs/bpf/skep`.
    pub bpf_root: PathBuf,
    /// This node's name: decides which pods are enforced here.
    pub node_name: String,
    /// UDP port of the tunnel between nodes, which no pod may send to at a node. `None`: there is none.
    pub tunnel: Option<u16>,
    /// A way to pods that the programs do not see, to be kept closed where they must. `None`: there is none.
    pub bypass: Option<Arc<dyn Bypass>>,
    /// Capacities of the maps.
    pub sizes: Sizes,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bpf_root: PathBuf::from("/sys/fs/bpf/skep"),
            node_name: String::new(),
            tunnel: None,
            bypass: None,
            sizes: Sizes::default(),
        }
    }
}

/// Capacities, in entries. They count when a map is first created; pinned maps keep theirs.
///
/// Nothing is created before there is a NetworkPolicy in the cluster. Kernel memory of the defaults then, empty: some 10 MiB,
/// of which 8 are preallocated flows. Prefixes and rules are allocated as they come, some 100 bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Addresses of pods in the whole cluster and prefixes of `ipBlock`s; twice that many for the moment in which a new
    /// daemon takes over.
    pub identities: u32,
    /// What tables allow: one for each peer that policies can tell apart and each port (a range takes up to 30).
    pub rules: u32,
    /// Connections of isolated pods. A full map forgets the longest unused one.
    pub flows: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { identities: 262_144, rules: 262_144, flows: 65_536 }
    }
}
