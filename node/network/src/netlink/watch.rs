//! Hearing of changes that others make.

use std::io::ErrorKind;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::{Error, Result};

/// Links, queues, addresses and routes of both families (`RTMGRP_*` of `linux/rtnetlink.h`). Neighbours are left out: each pod
/// that speaks with another would be a change.
const GROUPS: u32 = 0x1 | 0x8 | 0x10 | 0x40 | 0x100 | 0x400;

/// Tells that links, their queues, addresses or routes of a network namespace have changed, ours included.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Watches the calling thread's network namespace from now on.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self> {
        let opened = (|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, GROUPS))?;
            Ok(socket)
        })();
        let failed = |source| Error::Netlink { action: "watch links and routes".to_owned(), source };
        Ok(Self { socket: opened.map_err(failed)? })
    }

    /// Waits until there is something to hear.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn wait(&self) -> Result<()> {
        let mut buffer = Vec::with_capacity(super::BUFFER);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => return Ok(()),
                // More has changed than the socket holds: that is all there is to know.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Netlink { action: "watch links and routes".to_owned(), source }),
            }
        }
    }
}
