//! The maps. User space pins each under its name and may change its capacity when it first creates it.
//!
//! `BPF_F_NO_PREALLOC` everywhere but in the LRU maps (which must preallocate): memory follows the number of entries,
//! and an update publishes a whole new element instead of changing one under a reader.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{HashMap, LpmTrie, LruHashMap, PerCpuHashMap},
};
use skep_ebpf_common::{
    Address, AddressValue, AffinityKey, AffinityValue, BackendValue, FrontendKey, FrontendValue, PeerKey, PeerValue,
    ServiceCounters, ServiceInfo, ServiceValue, SlotKey, SlotValue, SourceRange, StickyKey, StickyValue, dsr::LocalKey,
};

/// Address and port -> service id.
#[map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, FrontendValue> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Address -> what is known of it besides its frontends. Tells "no such port of a Service" from "no Service".
#[map]
pub(crate) static ADDRESSES: HashMap<Address, AddressValue> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

/// Service id -> live generation.
#[map]
pub(crate) static SERVICES: HashMap<u32, ServiceValue> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Place in a generation -> backend id.
#[map]
pub(crate) static SLOTS: HashMap<SlotKey, SlotValue> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Backend id -> where it is.
#[map]
pub(crate) static BACKENDS: HashMap<u32, BackendValue> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Endpoint of this node as a service port names it -> backend id.
#[map]
pub(crate) static LOCALS: HashMap<LocalKey, u32> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Service id and source range -> 1.
#[map]
pub(crate) static SOURCE_RANGES: LpmTrie<SourceRange, u32> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Client and service id -> the backend it had.
#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, AffinityValue> = LruHashMap::with_max_entries(32_768, 0);

/// Unconnected UDP socket and virtual address -> the backend it got.
#[map]
pub(crate) static STICKY: LruHashMap<StickyKey, StickyValue> = LruHashMap::with_max_entries(32_768, 0);

/// UDP socket and backend -> the virtual address to show. Apart from TCP's, so that many connects cannot push it out.
#[map]
pub(crate) static UDP_PEERS: LruHashMap<PeerKey, PeerValue> = LruHashMap::with_max_entries(32_768, 0);

/// TCP socket and backend -> the virtual address to show.
#[map]
pub(crate) static TCP_PEERS: LruHashMap<PeerKey, PeerValue> = LruHashMap::with_max_entries(32_768, 0);

/// Service id -> counters.
#[map]
pub(crate) static SERVICE_STATS: PerCpuHashMap<u32, ServiceCounters> =
    PerCpuHashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Backend id -> how often it was chosen.
#[map]
pub(crate) static BACKEND_STATS: PerCpuHashMap<u32, u64> = PerCpuHashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Service id -> names. Only user space reads and writes it; it is declared here to be created with the others.
#[map]
pub(crate) static SERVICE_INFO: HashMap<u32, ServiceInfo> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// 1 where the kernel has `bpf_set_retval` (5.18). Set before loading; the verifier then drops the other branch.
#[unsafe(no_mangle)]
pub(crate) static HAS_SET_RETVAL: Global<u8> = Global::new(0);
