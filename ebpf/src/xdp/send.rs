//! Sending a packet of the fast lane on.

use aya_ebpf::{bindings::xdp_action::XDP_TX, helpers::generated::bpf_redirect, programs::XdpContext};
use skep_ebpf_common::packet::{Device, Path};

use super::{
    maps::DEVICES,
    packet::{Ethernet, Frame, Packet},
    rewrite, way,
};
use crate::{flows::Target, tc::count_path};

/// Translates a packet and sends it on its way; `None` if its way is none for this program. It is as it came then.
#[inline(always)]
pub(super) fn send<const IP6: bool>(
    ctx: &XdpContext,
    frame: &Frame,
    packet: &Packet,
    target: &Target<'_>,
    now: u64,
) -> Option<u32> {
    let exit = way::find::<IP6>(ctx, packet, target, now)?;
    let ethernet = frame.at::<Ethernet>(0)?;
    let device = ctx.ingress_ifindex() as u32;
    let leaves_as_it_came = exit.device == device;
    let own = if leaves_as_it_came {
        exit.source
    } else {
        // SAFETY: entries of the map are not changed in place.
        let (from, to) = unsafe { (DEVICES.get(device)?, DEVICES.get(exit.device)?) };
        if from.flags & Device::HANDS_TO_ALL == 0 && to.flags & Device::TAKES == 0 {
            return None;
        }
        from.address
    };
    // SAFETY: `at` has checked the bounds.
    if unsafe { (*ethernet).destination } != own {
        // For another host: a bridge shows those.
        return None;
    }
    rewrite::rewrite::<IP6>(frame, packet, target)?;
    // SAFETY: as above.
    unsafe {
        (*ethernet).destination = exit.destination;
        (*ethernet).source = exit.source;
    }
    count_path(Path::Xdp);
    if leaves_as_it_came {
        return Some(XDP_TX);
    }
    // SAFETY: the helper takes numbers only.
    Some(unsafe { bpf_redirect(exit.device, 0) } as u32)
}
