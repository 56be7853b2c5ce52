//! Which API servers there are: each keeps a key in etcd that expires without it, as upstream's lease reconciler does.
//!
//! `/registry/masterleases/<ip>` holds an Endpoints object with that one address, so servers of either make see each other.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::json;
use skep_storage::{Op, ResourceSchema, Storage, Txn};

use crate::error::Result;

const PREFIX: &str = "/registry/masterleases/";
/// How long a server that died stays in the list (upstream: 15 s); it is renewed every [`super::INTERVAL`].
const TTL: u64 = 15;

/// What the cache must hold for [`Masters`].
pub(crate) fn schema() -> ResourceSchema {
    ResourceSchema::new(PREFIX)
}

/// This server among the others.
pub(super) struct Masters<'a> {
    pub(super) storage: &'a Storage,
    pub(super) address: IpAddr,
}

impl Masters<'_> {
    fn key(&self) -> String {
        format!("{PREFIX}{}", self.address)
    }

    /// Says that this server lives; the addresses of all that do, its own among them. Only those of its own family: an
    /// EndpointSlice holds one.
    pub(super) async fn renew(&self) -> Result<BTreeSet<IpAddr>> {
        let lease = json!({
            "kind": "Endpoints",
            "apiVersion": "v1",
            "metadata": {},
            "subsets": [{"addresses": [{"ip": self.address.to_string()}]}],
        });
        let written = self.storage.commit(Txn::new().put(self.key(), lease.to_string(), Some(TTL))).await?;
        self.storage.wait_for(written.revision).await?;
        let mut living = self.living();
        living.insert(self.address);
        Ok(living)
    }

    /// Takes this server off the list; the addresses of the others.
    pub(super) async fn leave(&self) -> Result<BTreeSet<IpAddr>> {
        let mut txn = Txn::new();
        txn.ops.push(Op::Delete { key: self.key() });
        let written = self.storage.commit(txn).await?;
        self.storage.wait_for(written.revision).await?;
        let mut living = self.living();
        living.remove(&self.address);
        Ok(living)
    }

    fn living(&self) -> BTreeSet<IpAddr> {
        let Some(leases) = self.storage.resource(PREFIX) else { return BTreeSet::new() };
        let addresses = leases.snapshot();
        let addresses = addresses.iter().filter_map(|lease| lease.name().parse::<IpAddr>().ok());
        addresses.filter(|address| address.is_ipv4() == self.address.is_ipv4()).collect()
    }
}
