//! Changing a plain packet in place, with its checksums updated by the difference (RFC 1624).
//!
//! The packet's bounds were checked when it was read; they are asked again here, for the kernel's verifier forgets them.

use skep_ebpf_common::{
    Address, UDP,
    packet::{ETHERNET, fold},
};

use super::packet::{Frame, Halves, Ip4, Ip6, Packet, halves, transport};
use crate::flows::Target;

/// Gives a packet its addresses and ports, and one hop less to live. `None`: nothing was changed.
#[inline(always)]
pub(super) fn rewrite<const IP6: bool>(frame: &Frame, packet: &Packet, target: &Target<'_>) -> Option<()> {
    let ports = frame.at::<Halves>(transport::<IP6>())?;
    let check = frame.at::<u16>(packet.check)?;
    let tuple = &packet.tuple;
    let addresses = change::<IP6>(&tuple.source, target.source) + change::<IP6>(&tuple.destination, target.destination);
    if IP6 {
        ip6(frame, target)?
    } else {
        ip4(frame, target, addresses)?
    }
    let new = [target.source_port, target.destination_port];
    let all = addresses + half(tuple.source_port, new[0]) + half(tuple.destination_port, new[1]);
    // SAFETY: `at` has checked the bounds.
    unsafe {
        ports.write(new);
        let old = check.read();
        // None stays none (IPv4 only; over IPv6 the stack drops such a datagram, and shall).
        if tuple.protocol != UDP || old != 0 {
            let sum = updated(old, all);
            check.write(if tuple.protocol == UDP && sum == 0 { 0xffff } else { sum });
        }
    }
    Some(())
}

#[inline(always)]
fn ip4(frame: &Frame, target: &Target<'_>, addresses: u64) -> Option<()> {
    let header = frame.at::<Ip4>(ETHERNET as usize)?;
    // SAFETY: `at` has checked the bounds.
    unsafe {
        let ttl = (*header).ttl;
        (*header).ttl = ttl.wrapping_sub(1);
        // The byte at the even place of its half.
        let all = addresses + half(u16::from(ttl), u16::from(ttl.wrapping_sub(1)));
        (*header).check = updated((*header).check, all);
        (*header).source = halves(target.source[3]);
        (*header).destination = halves(target.destination[3]);
    }
    Some(())
}

#[inline(always)]
fn ip6(frame: &Frame, target: &Target<'_>) -> Option<()> {
    let header = frame.at::<Ip6>(ETHERNET as usize)?;
    // SAFETY: as above.
    unsafe {
        (*header).ttl = (*header).ttl.wrapping_sub(1);
        (*header).source = target.source.map(halves);
        (*header).destination = target.destination.map(halves);
    }
    Some(())
}

/// What a sum grows by when an address becomes another one: `~m + m'`.
#[inline(always)]
fn change<const IP6: bool>(from: &Address, to: &Address) -> u64 {
    let mut sum = 0;
    // Of a mapped IPv4 address the last word is all there is.
    for word in if IP6 { 0 } else { 3 }..4 {
        sum += u64::from(!from[word]) + u64::from(to[word]);
    }
    sum
}

/// The same for a half of a word.
#[inline(always)]
fn half(from: u16, to: u16) -> u64 {
    u64::from(!from) + u64::from(to)
}

/// The checksum after such changes: `~(~HC + ~m + m')`.
#[inline(always)]
fn updated(check: u16, changes: u64) -> u16 {
    !fold(u64::from(!check) + changes)
}
