//! The maps. User space pins each under its name and may change its capacity when it first creates it.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, bpf_fib_lookup},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use skep_ebpf_common::{
    conntrack::{FragmentKey, FragmentPorts, Tuple},
    policy::{DeviceKey, DeviceValue, IdentityKey, IdentityName, PodName, PolicyFlow, PolicyState, RuleKey, Verdict},
};

use crate::parse::Packet;

/// The switch.
#[map(name = "POLICY_STATE")]
pub(crate) static STATE: Array<PolicyState> = Array::with_max_entries(1, 0);

/// A pod's device -> its addresses and its table.
#[map(name = "POLICY_DEVICES")]
pub(crate) static DEVICES: HashMap<DeviceKey, DeviceValue> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// Prefix -> identity.
#[map(name = "POLICY_IDENTITIES")]
pub(crate) static IDENTITIES: LpmTrie<IdentityKey, u32> = LpmTrie::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// What is allowed -> 1.
#[map(name = "POLICY_RULES")]
pub(crate) static RULES: LpmTrie<RuleKey, u32> = LpmTrie::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Connections of isolated pods.
#[map(name = "POLICY_FLOWS")]
pub(crate) static FLOWS: LruHashMap<Tuple, PolicyFlow> = LruHashMap::with_max_entries(65_536, 0);

/// A datagram in pieces -> its ports.
#[map(name = "POLICY_FRAGMENTS")]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(4096, 0);

/// Verdict and direction (`2 * verdict + direction - 1`) -> packets; of those allowed, connections.
#[map(name = "POLICY_COUNTERS")]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2 * Verdict::ALL.len() as u32, 0);

/// Until when somebody listens to the events, nanoseconds since the node started.
#[map(name = "POLICY_LISTEN")]
pub(crate) static LISTEN: Array<u64> = Array::with_max_entries(1, 0);

/// Second of the last events, and how many there were in it.
#[map(name = "POLICY_TOLD")]
pub(crate) static TOLD: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// [`skep_ebpf_common::policy::PolicyEvent`]s.
#[map(name = "POLICY_EVENTS")]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Device -> its pod. Only user space reads and writes it; it is declared here to be created with the others.
#[map(name = "POLICY_PODS")]
pub(crate) static PODS: HashMap<u32, PodName> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

/// Identity -> what it stands for. As above.
#[map(name = "POLICY_NAMES")]
pub(crate) static NAMES: HashMap<u32, IdentityName> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// Where a program keeps what its stack (512 bytes) has no room for.
#[map(name = "POLICY_SCRATCH")]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// See [`SCRATCH`].
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) state: PolicyState,
    pub(crate) device: DeviceValue,
    pub(crate) packet: Packet,
    /// A flow and its key.
    pub(crate) flow: PolicyFlow,
    pub(crate) key: Tuple,
    /// The device's number.
    pub(crate) index: u32,
    /// The peer's identity, once it was looked up.
    pub(crate) identity: u32,
    /// One of [`skep_ebpf_common::policy::direction`]: where the packet is judged.
    pub(crate) side: u8,
    pub(crate) fib: bpf_fib_lookup,
}
