//! The server's address on the loopback device: pods reach it over their default route, and it never leaves the node.

use std::net::IpAddr;

use futures::TryStreamExt;
use rtnetlink::{Handle, LinkMessageBuilder, packet_route::address::AddressAttribute};

use crate::{Error, Result};

/// Index of the loopback device, in every network namespace.
const LOOPBACK: u32 = 1;

/// Gives the loopback device of this network namespace an address, if it does not have it.
///
/// # Errors
/// When the kernel refuses, as it does without CAP_NET_ADMIN.
pub async fn assign(address: IpAddr) -> Result<()> {
    let failed = |reason: String| Error::Address { action: "put", address, reason };
    with_netlink(async |netlink| {
        let up = LinkMessageBuilder::<rtnetlink::LinkUnspec>::new().index(LOOPBACK).up().build();
        netlink.link().set(up).execute().await?;
        netlink.address().add(LOOPBACK, address, host_prefix(address)).replace().execute().await
    })
    .await
    .map_err(failed)
}

/// Takes the address off the loopback device; fine if it is not there.
///
/// # Errors
/// When the kernel refuses, as it does without CAP_NET_ADMIN.
pub async fn remove(address: IpAddr) -> Result<()> {
    let failed = |reason: String| Error::Address { action: "remove", address, reason };
    with_netlink(async |netlink| {
        let mut addresses = netlink.address().get().set_link_index_filter(LOOPBACK).execute();
        while let Some(message) = addresses.try_next().await? {
            let same = message.attributes.iter().any(
                |known| matches!(known, AddressAttribute::Local(ip) | AddressAttribute::Address(ip) if *ip == address),
            );
            if same && message.header.index == LOOPBACK && message.header.prefix_len == host_prefix(address) {
                netlink.address().del(message).execute().await?;
            }
        }
        Ok(())
    })
    .await
    .map_err(failed)
}

async fn with_netlink(work: impl AsyncFnOnce(Handle) -> Result<(), rtnetlink::Error>) -> Result<(), String> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
    tokio::select! {
        () = connection => Err("netlink went away".to_owned()),
        done = work(handle) => done.map_err(|error| error.to_string()),
    }
}

fn host_prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
