//! One netlink socket, one question at a time. The socket stays in the network namespace it was opened in, whichever
//! thread uses it.

mod link;
mod qdisc;
mod route;
mod watch;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

pub use watch::Watch;

pub(crate) use link::{Link, Veth, Vxlan};
pub(crate) use route::{OWN_PROTOCOL, PEER_PROTOCOL, Route, Via};

use crate::{Error, Result};

/// The kernel's dump messages are at most 32 KiB.
const BUFFER: usize = 64 * 1024;

/// A route netlink socket.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self> {
        let opened = (|| {
            let socket = Socket::new(NETLINK_ROUTE)?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        })();
        let socket = opened.map_err(|source| Error::Netlink { action: "open a netlink socket".to_owned(), source })?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Makes a change and waits for the kernel's word on it. `action` completes "cannot ...".
    fn change(&mut self, message: RouteNetlinkMessage, flags: u16, action: impl FnOnce() -> String) -> Result<()> {
        self.exchange(message, NLM_F_ACK | flags)
            .map(|_| ())
            .map_err(|source| Error::Netlink { action: action(), source })
    }

    /// Asks for one object.
    fn get(
        &mut self,
        message: RouteNetlinkMessage,
        action: impl FnOnce() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_ACK)
            .map(|(answers, _)| answers)
            .map_err(|source| Error::Netlink { action: action(), source })
    }

    /// Asks for all objects; asks again when they changed meanwhile.
    fn dump(&mut self, message: RouteNetlinkMessage, action: &str) -> Result<Vec<RouteNetlinkMessage>> {
        let failed = |source| Error::Netlink { action: action.to_owned(), source };
        for _ in 0..8 {
            let (answers, consistent) = self.exchange(message.clone(), NLM_F_DUMP).map_err(failed)?;
            if consistent {
                return Ok(answers);
            }
        }
        Err(failed(io::Error::other("it changed each time it was read")))
    }

    /// Sends a request and gathers its answers up to the closing message; also whether they are of one moment.
    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let (mut answers, mut consistent) = (Vec::new(), true);
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::other(format!("the kernel's answer cannot be read: {error}")))?;
                // Messages are padded to four bytes; the last one need not be.
                let length = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len().max(4));
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    // A dump that breaks off says why in its closing message.
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    NetlinkPayload::Done(_) => return Ok((answers, consistent)),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok((answers, consistent)),
                            Some(_) => Err(error.to_io()),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}
