//! The kernel's list of filters on a device's clsact qdisc (`rtnetlink(7)`, `linux/pkt_cls.h`), where programs are on kernels
//! before 6.6.

use std::{ffi::CStr, io};

use aya::programs::{SchedClassifier, TcAttachType};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Hook, ON_NODE, ON_POD, attach, names};
use crate::{Error, Result, sys};

const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;

const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_TAG: u16 = 10;
const TCA_BPF_ID: u16 = 11;

/// The parents of a clsact qdisc's filters.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// Length of `tcmsg`: family and padding 4, device 4, handle 4, parent 4, priority and protocol 4.
const TCMSG: usize = 20;
/// The kernel's dump messages are at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// One program that is a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Its name, as whoever put it there called it.
    pub(crate) program: String,
    /// Of several, the lowest runs first.
    pub(crate) priority: u16,
    /// The kernel's number of the program; absent where the filter has lost it.
    pub(crate) id: Option<u32>,
    /// Checksum of its instructions.
    pub(crate) tag: Option<u64>,
}

/// The programs that are filters on that side of a device, in this thread's network namespace; none on a device that is gone.
///
/// # Errors
/// When the kernel cannot be asked.
fn on(device: &str, side: TcAttachType) -> io::Result<Vec<Filter>> {
    let Some(index) = sys::interface_index(device) else { return Ok(Vec::new()) };
    let parent = if side == TcAttachType::Egress { EGRESS } else { INGRESS };
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&question(index, parent), 0)?;
    let (mut filters, mut buffer) = (Vec::new(), Vec::with_capacity(BUFFER));
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        if let Some(end) = read(&buffer, &mut filters) {
            return end.map(|()| filters);
        }
    }
}

/// The programs that are filters of any device, and on which side, in this thread's network namespace.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn all() -> Result<Vec<(String, TcAttachType, Filter)>> {
    let mut all = Vec::new();
    for device in names()? {
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            let found = on(&device, side).map_err(Error::io(format!("list the filters of {device}")))?;
            all.extend(found.into_iter().map(|filter| (device.clone(), side, filter)));
        }
    }
    Ok(all)
}

/// A program of [`super::programs`] that is a filter.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    device: String,
    hook: Hook,
    priority: u16,
}

impl Placed {
    /// The program's name.
    pub(crate) fn program(&self) -> &'static str {
        self.hook.program
    }

    /// Puts another program in its place, with a short gap.
    pub(crate) fn replace(&self, program: &mut SchedClassifier) -> Result<()> {
        attach::filter(program, self.hook, self.priority, &self.device)
    }
}

/// The filters of this thread's network namespace that are programs of ours.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn ours() -> Result<Vec<Placed>> {
    let placed = all()?.into_iter().filter_map(|(device, side, filter)| {
        let mut hooks = ON_NODE.iter().chain(ON_POD);
        let hook = hooks.find(|hook| hook.side == side && hook.program == filter.program)?;
        Some(Placed { device, hook: *hook, priority: filter.priority })
    });
    Ok(placed.collect())
}

fn question(index: u32, parent: u32) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + TCMSG);
    message.extend(((HEADER + TCMSG) as u32).to_ne_bytes());
    message.extend(RTM_GETTFILTER.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    for word in [index, 0, parent, 0] {
        message.extend(word.to_ne_bytes());
    }
    message
}

/// Reads the messages of one datagram. `None`: there is more to come.
fn read(mut rest: &[u8], filters: &mut Vec<Filter>) -> Option<io::Result<()>> {
    while let Some(header) = rest.get(..HEADER) {
        let length = (word(header, 0) as usize).clamp(HEADER, rest.len());
        let (body, kind) = (&rest[HEADER..length], word(header, 4) as u16);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        match kind {
            RTM_NEWTFILTER => filters.extend(filter(body)),
            NLMSG_DONE | NLMSG_ERROR => {
                let code = word(body, 0).cast_signed();
                return Some(if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_neg())) } else { Ok(()) });
            }
            _ => {}
        }
    }
    None
}

/// From a `tcmsg` and its attributes. The heads of the kernel's lists, which name no program, are none.
fn filter(body: &[u8]) -> Option<Filter> {
    let options = attributes(body.get(TCMSG..)?).find(|(kind, _)| *kind == TCA_OPTIONS)?.1;
    let option = |wanted: u16| attributes(options).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let name = CStr::from_bytes_until_nul(option(TCA_BPF_NAME)?).ok()?.to_str().ok()?;
    Some(Filter {
        program: name.to_owned(),
        priority: (word(body, 16) >> 16) as u16,
        id: option(TCA_BPF_ID).map(|value| word(value, 0)),
        // Bytes in the order in which everybody writes it.
        tag: option(TCA_BPF_TAG).and_then(|value| value.try_into().ok()).map(u64::from_be_bytes),
    })
}

/// Each attribute's kind and value.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let half = |at: usize| rest.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        let (length, kind) = (usize::from(half(0)?).max(4), half(2)?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The upper bits say how the value is written.
        Some((kind & 0x3fff, value))
    })
}

/// Four bytes as a number; zero past the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_without_a_qdisc_and_without_existence_have_none() {
        assert_eq!(on("no-such-device", TcAttachType::Ingress).unwrap(), []);
        assert_eq!(on("lo", TcAttachType::Egress).unwrap(), []);
    }

    #[test]
    fn any_bytes_are_read_without_a_fault() {
        for length in 0..80_usize {
            for byte in [0, 1, 2, 3, 4, 7, 44, 0xff] {
                let bytes = vec![byte; length];
                let _ = read(&bytes, &mut Vec::new());
                let _ = filter(&bytes);
                assert!(attributes(&bytes).count() <= length);
            }
        }
    }
}
