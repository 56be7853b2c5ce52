//! From a frontend to a backend: the one function behind every hook.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_ktime_get_boot_ns, maps::lpm_trie};
use aya_log_ebpf::warn;
use skep_ebpf_common::{
    Address, AffinityKey, AffinityValue, BackendValue, FrontendKey, Segment, ServiceValue, SlotKey, SourceRange,
    address_bits, host_port, kind,
    load::{LoadKey, two_places},
    service_flags, unspecified,
};

use crate::{
    load,
    maps::{ADDRESSES, AFFINITY, BACKENDS, FRONTENDS, SERVICES, SLOTS, SOURCE_RANGES},
    stats,
};

/// How often a lookup is tried when it met a service in the middle of a change. One retry is enough unless this program
/// is held up between two lookups for as long as user space needs for a whole change, that many times in a row.
const ATTEMPTS: u32 = 4;

const NANOSECONDS: u64 = 1_000_000_000;

/// Where traffic comes from, which decides what a service may choose from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A pod of the cluster, or this node itself.
    Internal,
    /// Anybody else. (Sockets are never that.)
    #[allow(dead_code, reason = "for the programs that see packets")]
    External,
}

/// Whoever asks. Each question costs a helper call, so it is put only when the answer matters.
pub(crate) trait Client {
    /// Who it is, for `sessionAffinity: ClientIP` and source ranges: the address, or [`AffinityKey::netns`].
    fn address(&self) -> Address;
    /// Cookie of the network namespace the address is meant in; zero if none can be.
    fn netns(&self) -> u64;
    /// Spreads choices: random, or the same for all packets of a flow.
    fn hash(&self) -> u32;
    /// The backend this very flow got from that service before; zero for none. It is kept while it lives.
    fn remembered(&self, service: u32) -> u32;
    /// A backend was chosen that [`Client::remembered`] shall return.
    fn remember(&self, service: u32, backend: u32);
}

/// Why nobody answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The address is a Service's own, and has no such port.
    NoPort,
    /// There is no backend anywhere.
    NoEndpoints,
    /// There are backends, but none that this traffic may use (policy `Local`). Upstream drops here.
    NoLocalEndpoints,
    /// The source is in none of `loadBalancerSourceRanges` (or in one of them, where they deny). Upstream drops here.
    SourceDenied,
    /// The maps are damaged.
    Torn,
}

/// The backend that was chosen.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "sockets need less than the programs that see packets")]
pub(crate) struct Chosen {
    /// Key of `BACKENDS`.
    pub(crate) id: u32,
    /// Key of `SERVICES`.
    pub(crate) service: u32,
    /// One of [`kind`].
    pub(crate) kind: u32,
    /// Some of [`service_flags`].
    pub(crate) service_flags: u32,
    /// Where it is, and whether on this node.
    pub(crate) backend: BackendValue,
}

/// What becomes of an address.
pub(crate) enum Verdict {
    /// Not a Service: leave it.
    Pass,
    /// A Service, but nobody answers for it.
    Refuse(#[allow(dead_code, reason = "sockets refuse in one way")] Reason),
    /// Go there instead.
    Backend(Chosen),
}

/// What the maps say of one address and port. All of it always has a value, or the verifier may meet a register without.
#[derive(Clone, Copy)]
struct Found {
    what: What,
    /// Of a frontend: key of `SERVICES`, else zero.
    service: u32,
    /// Of a frontend: one of [`kind`], else zero.
    kind: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Frontend,
    Nothing,
    /// A Service's address without that port.
    NoPort,
    Torn,
}

impl What {
    #[inline(always)]
    const fn alone(self) -> Found {
        Found { what: self, service: 0, kind: 0 }
    }
}

/// Chooses a backend for `key`. An address that is no Service's costs two map lookups.
#[inline(always)]
pub(crate) fn lookup<X: EbpfContext, C: Client>(ctx: &X, key: &FrontendKey, origin: Origin, client: &C) -> Verdict {
    let mut reason = Reason::Torn;
    for _ in 0..ATTEMPTS {
        let frontend = find(key, client);
        match frontend.what {
            What::Frontend => {}
            What::Nothing => return Verdict::Pass,
            // Or an update of a neighbour in the same bucket hid it for a moment: look again.
            What::NoPort => {
                reason = Reason::NoPort;
                continue;
            }
            What::Torn => {
                reason = Reason::Torn;
                continue;
            }
        }
        reason = Reason::Torn;
        // SAFETY: the map does not preallocate, and the copy is only believed when its seal fits.
        let Some(service) = (unsafe { SERVICES.get(frontend.service) }).copied() else { continue };
        if !service.is_sealed_for(frontend.service) {
            continue;
        }
        if origin == Origin::External
            && frontend.kind == kind::LOAD_BALANCER
            && service.flags & service_flags::SOURCE_RANGES != 0
            && in_ranges(frontend.service, client.address()) == (service.flags & service_flags::DENY_RANGES != 0)
        {
            return Verdict::Refuse(Reason::SourceDenied);
        }
        let segment = segment(&service, frontend.kind, origin);
        if segment.count == 0 {
            stats::refused(frontend.service);
            let any = service.flags & service_flags::HAS_ANY != 0;
            return Verdict::Refuse(if any { Reason::NoLocalEndpoints } else { Reason::NoEndpoints });
        }
        if let Some((id, backend)) = choose(frontend.service, &service, segment, client) {
            return Verdict::Backend(Chosen {
                id,
                service: frontend.service,
                kind: frontend.kind,
                service_flags: service.flags,
                backend,
            });
        }
    }
    if reason == Reason::Torn {
        warn!(
            ctx,
            "no consistent view of service port {} (last word of its address {:x}) after {} attempts, refused",
            host_port(key.port),
            u32::from_be(key.address[3]),
            ATTEMPTS
        );
    }
    Verdict::Refuse(reason)
}

/// Whose is that address and port?
#[inline(always)]
fn find<C: Client>(key: &FrontendKey, client: &C) -> Found {
    let exact = frontend(key);
    // A host port at one address: only at this node's own does it count, and after a node port of a Service. So it would be
    // with netfilter, where upstream's proxy comes before the plugin `portmap`, and that asks for local addresses.
    let host_port = exact.kind == kind::HOST_PORT;
    if exact.what != What::Nothing && !host_port {
        return exact;
    }
    // SAFETY: an aliased value is another address's word for a moment; the next attempt corrects it.
    let Some(known) = (unsafe { ADDRESSES.get(&key.address) }).copied() else {
        return What::Nothing.alone();
    };
    if known.bits & address_bits::NODE != 0 && (known.netns == 0 || known.netns == client.netns()) {
        let any = frontend(&FrontendKey { address: unspecified(&key.address), ..*key });
        if host_port && (any.what == What::Nothing || any.kind == kind::HOST_PORT) {
            return exact;
        }
        if any.what != What::Nothing {
            return any;
        }
    }
    if known.bits & address_bits::WHOLE != 0 { What::NoPort.alone() } else { What::Nothing.alone() }
}

#[inline(always)]
fn frontend(key: &FrontendKey) -> Found {
    // SAFETY: the map does not preallocate, and the copy is only believed when its seal fits.
    let Some(value) = (unsafe { FRONTENDS.get(key) }).copied() else { return What::Nothing.alone() };
    if value.is_sealed_for(key) {
        Found { what: What::Frontend, service: value.service, kind: value.kind }
    } else {
        What::Torn.alone()
    }
}

/// The service port that has that frontend, whosever address it is: a load balancer's, an external one, or (`is_node`) one
/// of a node, where node ports are.
#[inline(always)]
pub(crate) fn service_of(key: &FrontendKey, is_node: bool) -> Option<u32> {
    let exact = frontend(key);
    if matches!(exact.kind, kind::LOAD_BALANCER | kind::EXTERNAL_IP) {
        return Some(exact.service);
    }
    if !is_node {
        return None;
    }
    let any = frontend(&FrontendKey { address: unspecified(&key.address), ..*key });
    (any.kind == kind::NODE_PORT).then_some(any.service)
}

/// The slots this traffic may use. Inside the cluster a ClusterIP follows `internalTrafficPolicy`; at its other addresses
/// a Service looks as wide as the cluster, as upstream has it. `externalTrafficPolicy` is for those outside.
#[inline(always)]
fn segment(service: &ServiceValue, kind: u32, origin: Origin) -> Segment {
    if kind == kind::CLUSTER_IP {
        service.internal
    } else if origin == Origin::Internal {
        service.cluster
    } else if service.flags & service_flags::MAGLEV != 0 {
        service.maglev
    } else {
        service.external
    }
}

/// Is there a source range of that service around the address?
#[inline(always)]
fn in_ranges(service: u32, address: Address) -> bool {
    SOURCE_RANGES.get(lpm_trie::Key::new(32 + 128, SourceRange { service, address })).is_some()
}

/// The flow's or the client's former backend if it lives, else a new one. `None`: that generation is just going away.
#[inline(always)]
fn choose<C: Client>(id: u32, service: &ServiceValue, segment: Segment, client: &C) -> Option<(u32, BackendValue)> {
    let before = client.remembered(id);
    if before != 0
        && let Some(backend) = backend(before, id)
    {
        return Some((before, backend));
    }
    let chosen = match former(id, service, client) {
        0 => pick(id, service, segment, client.hash())?,
        former => former,
    };
    // The only copy: the stack is small.
    let backend = backend(chosen, id)?;
    if service.flags & service_flags::AFFINITY != 0 {
        let key = AffinityKey { client: client.address(), service: id };
        let value = AffinityValue { backend: chosen, used: seconds() };
        // SAFETY: an aliased value merely compares unequal.
        if unsafe { AFFINITY.get(&key) }.is_none_or(|known| *known != value) {
            // An LRU map makes room by itself; should it fail all the same, the next connection chooses anew.
            let _ = AFFINITY.insert(&key, &value, 0);
        }
    }
    stats::chosen(id, chosen);
    client.remember(id, chosen);
    Some((chosen, backend))
}

/// The backend that affinity gives the client, if it (still) belongs to the service; zero for none.
#[inline(always)]
fn former<C: Client>(id: u32, service: &ServiceValue, client: &C) -> u32 {
    if service.flags & service_flags::AFFINITY == 0 {
        return 0;
    }
    let key = AffinityKey { client: client.address(), service: id };
    // SAFETY: an aliased value names another backend; it is used only if that one belongs to this very service.
    let Some(value) = (unsafe { AFFINITY.get(&key) }).copied() else { return 0 };
    let lasts = seconds().wrapping_sub(value.used) < service.affinity;
    if lasts && backend(value.backend, id).is_some() { value.backend } else { 0 }
}

/// Seconds since the node started.
#[inline(always)]
fn seconds() -> u32 {
    // SAFETY: the helper takes no argument and always succeeds.
    (unsafe { bpf_ktime_get_boot_ns() } / NANOSECONDS) as u32
}

/// The id of a backend of that segment, as the client's hash falls.
#[inline(always)]
fn pick(id: u32, service: &ServiceValue, segment: Segment, hash: u32) -> Option<u32> {
    if load::is_on() && segment.count > 1 {
        return less_loaded(id, service, segment, hash);
    }
    slot(id, service, segment, ((u64::from(hash) * u64::from(segment.count)) >> 32) as u32)
}

/// Of the backends in two places of the segment the one with fewer open connections.
#[inline(always)]
fn less_loaded(id: u32, service: &ServiceValue, segment: Segment, hash: u32) -> Option<u32> {
    let [first, second] = two_places(hash, segment.count);
    let first = slot(id, service, segment, first)?;
    let before = load(first);
    if before == 0 {
        return Some(first);
    }
    let second = slot(id, service, segment, second)?;
    Some(if load(second) < before { second } else { first })
}

/// How many connections are open to the backend with that id. A function of its own, with a stack of its own.
#[inline(never)]
fn load(id: u32) -> u64 {
    // SAFETY: an aliased value is another backend's: its load decides once.
    unsafe { BACKENDS.get(id) }.map_or(0, |backend| load::of(&LoadKey::new(backend.address, backend.port)))
}

/// The id of the backend in a place of the segment.
#[inline(always)]
fn slot(id: u32, service: &ServiceValue, segment: Segment, place: u32) -> Option<u32> {
    let key = SlotKey { service: id, generation: service.generation, slot: segment.start.wrapping_add(place) };
    // SAFETY: the map does not preallocate, and the copy is only believed when its seal fits.
    let value = *unsafe { SLOTS.get(&key) }?;
    value.is_sealed_for(&key).then_some(value.backend)
}

/// The backend with that id, if it (still) belongs to that service.
#[inline(always)]
pub(crate) fn backend(id: u32, service: u32) -> Option<BackendValue> {
    // SAFETY: the map does not preallocate, and the copy is only believed when its seal fits.
    let backend = *unsafe { BACKENDS.get(id) }?;
    (backend.is_sealed_for(id) && backend.service == service).then_some(backend)
}
