//! The kernel's lists of sockets (`sock_diag(7)`, `linux/inet_diag.h`), and the order to destroy one.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_sys::{Socket, SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `TCP_ESTABLISHED`, the state of a connected UDP socket, as a bit.
const CONNECTED: u32 = 1 << 1;
/// States of a TCP socket from SYN sent to the last acknowledgement awaited, as bits: not TIME_WAIT, CLOSE and LISTEN.
const ALIVE: u32 = (1 << 12) - 2 - (1 << 6) - (1 << 7) - (1 << 10);

/// Length of `nlmsghdr`.
const HEADER: usize = 16;
/// Length of `inet_diag_sockid`: ports 2 + 2, addresses 16 + 16, device 4, cookie 8.
const ID: usize = 48;
/// The kernel's dump messages are at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// A socket of the kernel's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    family: u8,
    id: [u8; ID],
}

impl Found {
    /// From the body of a message (`inet_diag_msg`): family, state, two more, then the identification.
    fn read(body: &[u8]) -> Option<Self> {
        let id = body.get(4..4 + ID)?.try_into().ok()?;
        Some(Self { family: *body.first()?, id })
    }

    /// The kernel's number of the socket.
    pub(super) fn cookie(&self) -> u64 {
        let half = |at: usize| u64::from(u32::from_ne_bytes(self.bytes(at)));
        half(40) | (half(44) << 32)
    }

    /// Where it is connected to.
    pub(super) fn peer(&self) -> SocketAddr {
        let ip = match self.family {
            AF_INET => IpAddr::from(Ipv4Addr::from(self.bytes::<4>(20))),
            _ => IpAddr::from(Ipv6Addr::from(self.bytes::<16>(20))).to_canonical(),
        };
        SocketAddr::new(ip, u16::from_be_bytes(self.bytes(2)))
    }

    /// `N` bytes of the identification; zeros past its end.
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(found) = self.id.get(at..at + N) {
            bytes.copy_from_slice(found);
        }
        bytes
    }
}

/// A socket to ask about sockets.
pub(super) struct Diag {
    socket: Socket,
    sequence: u32,
}

impl Diag {
    /// Of the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.connect(&NetlinkAddress::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Every connected UDP socket of both families.
    pub(super) fn connected_udp(&mut self) -> io::Result<Vec<Found>> {
        self.connected(IPPROTO_UDP, CONNECTED)
    }

    /// Every TCP socket of both families that has a peer, or is about to have one.
    pub(super) fn connected_tcp(&mut self) -> io::Result<Vec<Found>> {
        self.connected(IPPROTO_TCP, ALIVE)
    }

    fn connected(&mut self, protocol: u8, states: u32) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let any = Found { family, id: [0; ID] };
            self.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &any, (protocol, states), &mut found)?;
        }
        Ok(found)
    }

    /// Destroys a socket. Returns whether it was still there.
    pub(super) fn destroy(&mut self, socket: &Found) -> io::Result<bool> {
        match self.ask(SOCK_DESTROY, NLM_F_ACK, socket, (IPPROTO_UDP, CONNECTED), &mut Vec::new()) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a question about `socket` and gathers the answers up to the closing message.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        socket: &Found,
        which: (u8, u32),
        found: &mut Vec<Found>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&question(kind, flags, self.sequence, socket, which), 0)?;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            if let Some(end) = read(&buffer, self.sequence, found) {
                return end;
            }
        }
    }
}

/// A message with an `inet_diag_req_v2`, for sockets of that protocol and those states.
fn question(kind: u16, flags: u16, sequence: u32, socket: &Found, (protocol, states): (u8, u32)) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + 8 + ID);
    message.extend(((HEADER + 8 + ID) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend([socket.family, protocol, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend(socket.id);
    message
}

/// Reads the messages of one datagram. `None`: there is more to come.
fn read(mut rest: &[u8], sequence: u32, found: &mut Vec<Found>) -> Option<io::Result<()>> {
    while let Some(header) = rest.get(..HEADER) {
        let word =
            |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let length = (word(0) as usize).clamp(HEADER, rest.len());
        let (message, kind) = (&rest[..length], word(4) as u16);
        // Messages are padded to four bytes; the last one need not be.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if word(8) != sequence {
            continue;
        }
        let body = message.get(HEADER..).unwrap_or_default();
        match kind {
            SOCK_DIAG_BY_FAMILY => found.extend(Found::read(body)),
            NLMSG_DONE | NLMSG_ERROR => {
                let code = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
                return Some(if code < 0 { Err(io::Error::from_raw_os_error(code.saturating_neg())) } else { Ok(()) });
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const UDP: (u8, u32) = (IPPROTO_UDP, CONNECTED);

    #[test]
    fn a_connected_socket_is_found_by_its_peer_and_an_unconnected_one_is_not() {
        let (server, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let peer = server.local_addr().unwrap();
        client.connect(peer).unwrap();
        let mut diag = Diag::open().unwrap();
        let found = diag.connected_udp().unwrap();
        let ours: Vec<&Found> = found.iter().filter(|socket| socket.peer() == peer).collect();
        assert_eq!(ours.len(), 1, "{found:?}");
        assert_ne!(ours[0].cookie(), 0);
        let local = client.local_addr().unwrap();
        assert!(found.iter().all(|socket| socket.peer() != local), "the server is not connected");
    }

    #[test]
    fn an_answer_that_is_cut_short_ends_without_harm() {
        let (mut found, any) = (Vec::new(), Found { family: AF_INET, id: [7; ID] });
        let mut message = question(SOCK_DIAG_BY_FAMILY, 0, 1, &any, UDP);
        for length in 0..message.len() {
            assert!(read(&message[..length], 1, &mut found).is_none());
        }
        message[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(read(&message, 1, &mut found).is_none());
        assert!(read(&question(NLMSG_ERROR, 0, 2, &any, UDP), 1, &mut found).is_none(), "of another question");
        let refused = [&question(NLMSG_ERROR, 0, 1, &any, UDP)[..HEADER], &(-libc::ENOENT).to_ne_bytes()].concat();
        let error = read(&refused, 1, &mut found).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
