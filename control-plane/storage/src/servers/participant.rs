//! The task that keeps this server's key, and looks who else is there.

use super::{Member, PREFIX, Servers, key, now};
use crate::error::{Error, Result};
use crate::etcd::{Kind, Pool, typed};
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, GetResponse, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
    WatchOptions, WatchStream,
};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

/// How long the key of a server that died remains, in seconds. Who comes meanwhile waits for its end before it writes.
const TTL: u32 = 10;
/// So much sooner a server stops to rely on its lease than etcd may end it: clocks differ in speed.
const MARGIN: Duration = Duration::from_secs(2);
/// How often the lease is renewed, and the others are looked at even if nothing was heard of them.
const RENEWAL: Duration = Duration::from_secs(2);
/// Between attempts to enter.
const PAUSE: Duration = Duration::from_millis(200);

const ALONE: &str = "alone";
const SHARED: &str = "shared";
/// Where API servers, upstream's among them, leave their addresses.
const ADDRESSES: &str = "/registry/masterleases/";

/// See the module above.
pub(crate) struct Participant {
    pub(crate) member: Member,
    pub(crate) servers: Arc<Servers>,
    pub(crate) pool: Arc<Pool>,
}

/// This server's place.
struct Place {
    lease: i64,
    /// Until when the lease surely lasts, by [`now`].
    until: Duration,
    /// Creation of the key.
    created: i64,
    admitted: bool,
    alone: bool,
}

/// What a look has shown.
#[derive(Debug, PartialEq, Eq)]
struct View {
    revision: i64,
    /// Last move of the entry key.
    entries: i64,
    /// Creation of our key.
    created: Option<i64>,
    /// Somebody else has a key.
    others: bool,
    /// And it says `alone`.
    other_alone: bool,
    /// A server that has no key has left its address.
    strangers: bool,
}

impl Participant {
    /// Takes part for ever.
    pub(crate) async fn run(self) {
        loop {
            let Err(error) = self.take_part().await;
            self.servers.expel();
            self.pool.metrics.alone.set(0);
            warn!(%error, "lost this server's place among those that write to etcd; entering anew");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn take_part(&self) -> Result<Infallible> {
        let mut place = self.enter().await?;
        let mut admission = self.servers.admission.subscribe();
        let mut renewal = tokio::time::interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch: Option<WatchStream> = None;
        loop {
            let view = self.look().await?;
            self.settle(&mut place, &view).await?;
            tokio::select! {
                // Whatever it says, a look says more. Without one, the next renewal is soon enough.
                message = next(&mut watch) => if !matches!(message, Ok(Some(_))) { watch = None; },
                _ = renewal.tick() => {
                    self.renew(&mut place).await?;
                    if watch.is_none() {
                        watch = Some(self.watch(view.revision + 1).await?);
                    }
                }
                // A writer was refused: our key must be gone.
                () = expelled(&mut admission), if place.admitted => {}
            }
        }
    }

    /// Draws the conclusions of a look.
    async fn settle(&self, place: &mut Place, view: &View) -> Result<()> {
        if view.created != Some(place.created) {
            return Err(Error::Unavailable("the lease of this server's key has ended".into()));
        }
        let may_be_alone = !view.others && !view.strangers;
        if place.alone && !may_be_alone {
            // First for ourselves, then for the others to see.
            self.servers.not_alone();
            self.pool.metrics.alone.set(0);
            place.alone = false;
            self.write(place, SHARED, None).await?;
            info!("other API servers write to the same etcd: consistent reads ask it");
        } else if !place.alone && may_be_alone && self.write(place, ALONE, Some(view.entries)).await? {
            place.alone = true;
            self.servers.alone(place.until);
            self.pool.metrics.alone.set(1);
            info!("the only API server of this etcd: consistent reads need not ask it");
        }
        if !view.other_alone {
            place.admitted = true;
            self.servers.admit(place.created);
        }
        Ok(())
    }

    /// A lease, and a key that says `shared`.
    async fn enter(&self) -> Result<Place> {
        let sent = now();
        let grant = |client: &Client| {
            let mut leases = client.lease_client();
            async move { leases.grant(i64::from(TTL), None).await }
        };
        // A lease whose answer is lost ends by itself.
        let lease = self.pool.call("leaseGrant", Kind::Read, grant).await?.id();
        let own = key(&self.member.id);
        let response = self
            .transact(Txn::new().and_then([
                TxnOp::put(key(""), "", None),
                TxnOp::put(own.as_str(), SHARED, Some(PutOptions::new().with_lease(lease))),
                TxnOp::get(own.as_str(), None),
            ]))
            .await?;
        let created = gets(&response).next().and_then(|get| get.kvs().first().map(|kv| kv.create_revision()));
        let created = created.ok_or_else(|| Error::Etcd("a key that was just written is not there".into()))?;
        // Nobody here can write yet.
        self.servers.forget_beyond(response.header().map_or(0, |header| header.revision()));
        Ok(Place { lease, until: lasting(sent), created, admitted: false, alone: false })
    }

    /// Rewrites the key, if it is still ours and (as far as that is asked) nobody has entered since. Whether it was done.
    async fn write(&self, place: &Place, value: &str, entries: Option<i64>) -> Result<bool> {
        let own = key(&self.member.id);
        let mut conditions = vec![Compare::create_revision(own.as_str(), CompareOp::Equal, place.created)];
        conditions.extend(entries.map(|at| Compare::mod_revision(key(""), CompareOp::Equal, at)));
        let put = TxnOp::put(own, value, Some(PutOptions::new().with_lease(place.lease)));
        let response = self.transact(Txn::new().when(conditions).and_then([put])).await?;
        if response.succeeded() {
            // What others have written before this is what a lone reader must not miss.
            self.servers.tell(response.header().map_or(0, |header| header.revision()));
        }
        Ok(response.succeeded())
    }

    async fn look(&self) -> Result<View> {
        let keys_only = GetOptions::new().with_prefix().with_keys_only();
        let response = self
            .transact(Txn::new().and_then([
                TxnOp::get(PREFIX, Some(GetOptions::new().with_prefix())),
                TxnOp::get(ADDRESSES, Some(keys_only)),
            ]))
            .await?;
        let mut found = gets(&response);
        let (servers, addresses) = (found.next(), found.next());
        let (Some(servers), Some(addresses)) = (servers, addresses) else {
            return Err(Error::Etcd("an answer to two questions has fewer".into()));
        };
        Ok(self.view(response.header().map_or(0, |header| header.revision()), &servers, &addresses))
    }

    fn view(&self, revision: i64, servers: &GetResponse, addresses: &GetResponse) -> View {
        let (own, entry) = (key(&self.member.id), key(""));
        let own_address = format!("{ADDRESSES}{}", self.member.address);
        let mut view = View {
            revision,
            entries: 0,
            created: None,
            others: false,
            other_alone: false,
            strangers: addresses.kvs().iter().any(|kv| kv.key() != own_address.as_bytes()),
        };
        for kv in servers.kvs() {
            if kv.key() == entry.as_bytes() {
                view.entries = kv.mod_revision();
            } else if kv.key() == own.as_bytes() {
                view.created = Some(kv.create_revision());
            } else {
                view.others = true;
                view.other_alone |= kv.value() == ALONE.as_bytes();
            }
        }
        view
    }

    async fn renew(&self, place: &mut Place) -> Result<()> {
        let (sent, lease) = (now(), place.lease);
        let keep = |client: &Client| {
            let mut leases = client.lease_client();
            // This waits for the first answer, and fails if etcd no longer knows the lease.
            async move { leases.keep_alive(lease).await.map(drop) }
        };
        self.pool.call("leaseKeepAlive", Kind::Read, keep).await?;
        place.until = lasting(sent);
        if place.alone {
            self.servers.alone(place.until);
        }
        Ok(())
    }

    async fn watch(&self, from: i64) -> Result<WatchStream> {
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let mut client = self.pool.watch_client().watch_client();
        let opening = tokio::time::timeout(self.pool.timeout, client.watch(PREFIX, Some(options)));
        opening
            .await
            .map_err(|_| Error::Timeout { operation: "watch", after: self.pool.timeout })?
            .map_err(|error| typed(&error))
    }

    /// Each of these transactions may be sent twice: the second time it changes nothing, or its condition fails.
    async fn transact(&self, txn: Txn) -> Result<TxnResponse> {
        let send = |client: &Client| {
            let (mut kv, txn) = (client.kv_client(), txn.clone());
            async move { kv.txn(txn).await }
        };
        self.pool.call("servers", Kind::Read, send).await
    }
}

/// Gives up the key of a server, so that nobody waits for its lease to end.
pub(crate) async fn leave(pool: &Pool, member: &Member) -> Result<()> {
    let own = key(&member.id);
    let delete = |client: &Client| {
        let (mut kv, own) = (client.kv_client(), own.clone());
        async move { kv.delete(own, None).await }
    };
    pool.call("servers", Kind::Read, delete).await.map(drop)
}

/// Until when a lease can be relied on that was asked for at `sent`.
fn lasting(sent: Duration) -> Duration {
    sent.saturating_add(Duration::from_secs(u64::from(TTL)) - MARGIN)
}

fn gets(response: &TxnResponse) -> impl Iterator<Item = GetResponse> {
    response.op_responses().into_iter().filter_map(|op| match op {
        TxnOpResponse::Get(get) => Some(get),
        _ => None,
    })
}

async fn expelled(admission: &mut watch::Receiver<Option<i64>>) {
    // The sender is ours. The guard of the value must not outlive this.
    let _ = admission.wait_for(Option::is_none).await.map(drop);
}

/// The watch's next word; never without a watch.
async fn next(watch: &mut Option<WatchStream>) -> Result<Option<etcd_client::WatchResponse>, etcd_client::Error> {
    match watch {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
    }
}
