//! Watches the TCP connections that this node's sockets have to Services: bytes, round trips, retransmits. It is attached
//! only while somebody looks, and sees connections that begin meanwhile.
//!
//! Minimum kernel: 5.10 (`BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG`, the only call that comes with received data).
#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext,
    bindings::{
        BPF_F_NO_PREALLOC, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG,
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB, BPF_SOCK_OPS_RETRANS_CB, BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_RTT_CB,
        BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_TCP_CLOSE, bpf_sock_ops,
    },
    helpers::generated::bpf_get_socket_cookie,
    macros::{map, sock_ops},
    maps::{HashMap, LruHashMap, PerCpuHashMap},
    programs::SockOpsContext,
};
use skep_ebpf_common::{
    Address, FrontendKey, FrontendValue, PeerKey, PeerValue, TCP, mapped,
    tcp::{TcpSocket, TcpTotals},
};

/// That of the socket hooks, which are attached before.
#[map]
static FRONTENDS: HashMap<FrontendKey, FrontendValue> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// That of the socket hooks.
#[map]
static TCP_PEERS: LruHashMap<PeerKey, PeerValue> = LruHashMap::with_max_entries(1, 0);

/// Socket cookie -> what has been counted of it.
#[map]
static TCP_SOCKETS: LruHashMap<u64, TcpSocket> = LruHashMap::with_max_entries(65_536, 0);

/// Service id -> what its connections came to.
#[map]
static TCP_TOTALS: PerCpuHashMap<u32, TcpTotals> = PerCpuHashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

const AF_INET: u32 = 2;

/// What a connection to a Service is to report from now on.
const REPORTS: u32 = BPF_SOCK_OPS_RTT_CB_FLAG
    | BPF_SOCK_OPS_RETRANS_CB_FLAG
    | BPF_SOCK_OPS_STATE_CB_FLAG
    | BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG;

#[sock_ops]
fn watch_tcp(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => begin(&ctx),
        BPF_SOCK_OPS_RTT_CB => count(&ctx, true),
        BPF_SOCK_OPS_RETRANS_CB | BPF_SOCK_OPS_PARSE_HDR_OPT_CB => count(&ctx, false),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => {
            count(&ctx, false);
            end(&ctx);
        }
        _ => {}
    }
    1
}

/// Asks for reports of a connection if it is one to a Service.
#[inline(always)]
fn begin(ctx: &SockOpsContext) {
    let Some(service) = service(ctx) else { return };
    let (sent, received, retransmits) = figures(ctx);
    let socket = TcpSocket { sent, received, retransmits, service };
    if TCP_SOCKETS.insert(&cookie(ctx), &socket, 0).is_err() || ctx.set_cb_flags(REPORTS as i32).is_err() {
        return;
    }
    add(service, |totals| totals.opened += 1);
}

/// Adds what is new since the last report.
#[inline(always)]
fn count(ctx: &SockOpsContext, round_trip: bool) {
    // SAFETY: only this socket's reports write it, and they come one after another. One that the map has given to another
    // socket meanwhile counts a few bytes for the wrong Service.
    let Some(socket) = TCP_SOCKETS.get_ptr_mut(&cookie(ctx)).map(|socket| unsafe { &mut *socket }) else { return };
    let (sent, received, retransmits) = figures(ctx);
    let more = TcpSocket {
        sent: sent.saturating_sub(socket.sent),
        received: received.saturating_sub(socket.received),
        retransmits: retransmits.saturating_sub(socket.retransmits),
        service: socket.service,
    };
    socket.sent = sent;
    socket.received = received;
    socket.retransmits = retransmits;
    // SAFETY: the kernel hands a valid context to the program. The kernel keeps eight times the time.
    let rtt = u64::from(unsafe { (&raw const (*ctx.ops).srtt_us).read_volatile() } >> 3);
    add(more.service, |totals| {
        totals.sent += more.sent;
        totals.received += more.received;
        totals.retransmits += u64::from(more.retransmits);
        if round_trip {
            totals.rtt_sum += rtt;
            totals.rtts += 1;
        }
    });
}

#[inline(always)]
fn end(ctx: &SockOpsContext) {
    let key = cookie(ctx);
    // SAFETY: as in `count`.
    let Some(service) = TCP_SOCKETS.get_ptr(&key).map(|socket| unsafe { (*socket).service }) else { return };
    // It may have made room for another one by now.
    let _ = TCP_SOCKETS.remove(&key);
    add(service, |totals| totals.closed += 1);
}

/// The Service port that this socket asked for.
#[inline(always)]
fn service(ctx: &SockOpsContext) -> Option<u32> {
    let (address, port) = remote(ctx);
    let peer = PeerKey { cookie: cookie(ctx), address, port, pad: [0; 3] };
    // SAFETY: the copy is only believed when its seal fits.
    let asked = unsafe { TCP_PEERS.get(&peer) }.copied().filter(|asked| asked.is_sealed_for(&peer))?;
    let mut key = FrontendKey::new(asked.address, asked.port, TCP);
    // SAFETY: as above.
    if let Some(frontend) = unsafe { FRONTENDS.get(&key) }.copied().filter(|frontend| frontend.is_sealed_for(&key)) {
        return Some(frontend.service);
    }
    // A node port has no address of its own.
    key.address = skep_ebpf_common::unspecified(&key.address);
    // SAFETY: as above.
    unsafe { FRONTENDS.get(&key) }.copied().filter(|frontend| frontend.is_sealed_for(&key)).map(|it| it.service)
}

/// The address and port at the other end. Every field is read on its own, and whatever the family: the verifier wants each
/// at a fixed place.
#[inline(always)]
fn remote(ctx: &SockOpsContext) -> (Address, u16) {
    let ops: *const bpf_sock_ops = ctx.ops;
    // SAFETY: the kernel hands a valid context to the program.
    let (family, ip4, ip6, port) = unsafe {
        (
            (&raw const (*ops).family).read_volatile(),
            (&raw const (*ops).remote_ip4).read_volatile(),
            [
                (&raw const (*ops).remote_ip6[0]).read_volatile(),
                (&raw const (*ops).remote_ip6[1]).read_volatile(),
                (&raw const (*ops).remote_ip6[2]).read_volatile(),
                (&raw const (*ops).remote_ip6[3]).read_volatile(),
            ],
            (&raw const (*ops).remote_port).read_volatile(),
        )
    };
    // The kernel keeps the port's two bytes at the end of the field.
    (if family == AF_INET { mapped(ip4) } else { ip6 }, (port >> 16) as u16)
}

/// Bytes acknowledged, bytes received, segments sent again, of this connection so far.
#[inline(always)]
fn figures(ctx: &SockOpsContext) -> (u64, u64, u32) {
    let ops: *const bpf_sock_ops = ctx.ops;
    // SAFETY: the kernel hands a valid context to the program.
    unsafe {
        (
            (&raw const (*ops).bytes_acked).read_volatile(),
            (&raw const (*ops).bytes_received).read_volatile(),
            (&raw const (*ops).total_retrans).read_volatile(),
        )
    }
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the context is the one this program was called with.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Changes what this CPU has counted for a Service.
#[inline(always)]
fn add(service: u32, change: impl FnOnce(&mut TcpTotals)) {
    if TCP_TOTALS.get_ptr_mut(&service).is_none() {
        let none = TcpTotals { opened: 0, closed: 0, sent: 0, received: 0, retransmits: 0, rtt_sum: 0, rtts: 0 };
        // Another CPU may have been faster. A full map counts no further Service.
        let _ = TCP_TOTALS.insert(&service, &none, u64::from(aya_ebpf::bindings::BPF_NOEXIST));
    }
    if let Some(totals) = TCP_TOTALS.get_ptr_mut(&service) {
        // SAFETY: a per-CPU value is this CPU's alone; at worst a count is lost to a program that interrupts this one.
        change(unsafe { &mut *totals });
    }
}

/// Nothing here can panic: the verifier would refuse the loop.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// As the other objects have.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
