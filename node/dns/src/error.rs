//! Everything that can go wrong, in words a person can act on.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// Errors of the DNS server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's domain is not a domain.
    #[error("{domain:?} is not a DNS domain: {reason}")]
    Domain {
        /// What was given.
        domain: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An address cannot be listened on.
    #[error("cannot answer DNS on {address}: {source}; is another DNS server running there?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A socket broke.
    #[error("the DNS socket on {address} broke: {source}")]
    Socket {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The loopback device cannot be given an address, or cannot lose it.
    #[error("cannot {action} {address} on the loopback device: {reason}; CAP_NET_ADMIN is needed")]
    Address {
        /// "put" or "remove".
        action: &'static str,
        /// The address.
        address: IpAddr,
        /// Why.
        reason: String,
    },
}

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
