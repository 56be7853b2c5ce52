//! What the kernel says about a device: its hardware address and kind (`rtnetlink(7)`), and whether its driver takes packets that
//! are redirected to it (`linux/netdev.h`, kernel 6.3).

use std::io;

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const RTM_GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// The family that knows the other families, and how one is asked for by name.
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`.
const NDO_XMIT: u64 = 4;

/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// Lengths of `ifinfomsg` and of `genlmsghdr`, which come before the attributes.
const LINK: usize = 16;
const GENERIC: usize = 4;
/// More than an answer about one device.
const BUFFER: usize = 64 * 1024;

/// The hardware address of an Ethernet device of this thread's network namespace.
pub(super) fn hardware_address(index: u32) -> io::Result<[u8; 6]> {
    let attributes = attributes(index)?;
    let address = attribute(&attributes, IFLA_ADDRESS);
    address.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Of one of a pair (veth): does the other end take frames of a driver? It does with an XDP program or with GRO; else what this
/// one sends back is lost. `None` for other devices.
pub(super) fn is_heard(index: u32) -> Option<bool> {
    let attributes = attributes(index).ok()?;
    let kind = attribute(attribute(&attributes, IFLA_LINKINFO)?, IFLA_INFO_KIND)?;
    kind.starts_with(b"veth").then(|| takes_redirected(index))
}

fn attributes(index: u32) -> io::Result<Vec<u8>> {
    let mut body = vec![0; LINK];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let answer = ask(NETLINK_ROUTE, RTM_GETLINK, &body)?;
    Ok(answer.get(LINK..).unwrap_or_default().to_vec())
}

/// Does its driver take redirected packets as it is now? Kernels that do not tell are taken for a no.
pub(super) fn takes_redirected(index: u32) -> bool {
    features(index).is_ok_and(|features| features & NDO_XMIT != 0)
}

fn features(index: u32) -> io::Result<u64> {
    let name = generic(CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answer = ask(NETLINK_GENERIC, GENL_ID_CTRL, &name)?;
    let family: [u8; 2] = read(&answer, CTRL_ATTR_FAMILY_ID)?;
    let device = generic(NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    let answer = ask(NETLINK_GENERIC, u16::from_ne_bytes(family), &device)?;
    read(&answer, NETDEV_A_DEV_XDP_FEATURES).map(u64::from_ne_bytes)
}

/// A command of a generic family with one attribute.
fn generic(command: u8, kind: u16, value: &[u8]) -> Vec<u8> {
    let mut body = vec![command, 1, 0, 0];
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
    body
}

fn read<const N: usize>(answer: &[u8], kind: u16) -> io::Result<[u8; N]> {
    let value = attribute(answer.get(GENERIC..).unwrap_or_default(), kind);
    value.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Asks one question; the body of the one answer.
fn ask(protocol: isize, kind: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    socket.send(&message, 0)?;
    let mut answer = Vec::with_capacity(BUFFER);
    socket.recv(&mut answer, 0)?;
    unpack(&answer)
}

/// The body of a message, or the error it tells of.
fn unpack(message: &[u8]) -> io::Result<Vec<u8>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = u16::from_ne_bytes(message.get(4..6).and_then(|bytes| bytes.try_into().ok()).ok_or_else(invalid)?);
    let body = message.get(HEADER..).ok_or_else(invalid)?;
    if kind == NLMSG_ERROR {
        let code = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    Ok(body.to_vec())
}

/// The value of the first attribute of that kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(attributes.get(..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        // The upper bits are flags.
        if found & 0x3fff == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_an_address_of_zeros_and_takes_nothing() {
        assert_eq!(hardware_address(1).unwrap(), [0; 6]);
        assert!(!takes_redirected(1));
        assert_eq!(hardware_address(i32::MAX as u32).unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn attributes_are_found_and_cut_ones_are_no_panic() {
        let body = [&[5, 0, 7, 0, 1, 0, 0, 0][..], &[8, 0, 3, 0x80, 1, 2, 3, 4]].concat();
        assert_eq!(attribute(&body, 7), Some(&[1][..]));
        assert_eq!(attribute(&body, 3), Some(&[1, 2, 3, 4][..]));
        assert_eq!(attribute(&body, 9), None);
        for length in 0..body.len() {
            assert_eq!(attribute(&body[..length], 3), None);
        }
        assert_eq!(attribute(&[0; 8], 1), None);
        assert!(unpack(&[0; 3]).is_err());
    }
}
