//! Which API servers write to this etcd, and whether this one is alone.
//!
//! A server that is alone knows every write that was ever acknowledged: its own. It need not ask etcd how far its cache must
//! be for a linearizable read, it only has to be past its own last write. So each server keeps a key with a lease,
//! `/registry/skep-servers/<id>`, that says `alone` or `shared`, and:
//!
//! - who comes enters a key (`shared`) and then writes nothing until no other server's key says `alone`;
//! - who is alone and sees somebody come asks etcd from now on, and only then rewrites its own key as `shared`;
//! - every transaction requires the key of its writer, as it was admitted: whoever has lost it (its lease ran out while it
//!   was cut off) cannot write any more, and enters anew;
//! - who holds `alone` relies on it only until shortly before its lease can end by its own clock.
//!
//! A server of upstream's does not take part in this. It is known by its key under `/registry/masterleases/`: while there is
//! one of an address that is not ours, nobody is alone. Between its first write and our next look ([`participant`]) a read
//! here may miss what it wrote in the last moments (as long as the watch takes).
//!
//! Leases that serve reads are an old idea: Gray and Cheriton, "Leases", 1989; Raft's thesis, 6.4.1.

mod participant;

use crate::error::{Error, Result};
use nix::time::{ClockId, clock_gettime};
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) use participant::{Participant, leave};

/// This server among those that write to the same etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its own for ever, and nobody else's at any time: after a crash it takes its old place at once.
    pub id: String,
    /// The address it gives itself under `/registry/masterleases/`.
    pub address: IpAddr,
}

/// What the participant finds out and everybody uses.
#[derive(Debug)]
pub(crate) struct Servers {
    /// Whether there is a participant at all. Without one every read asks, and writes carry no condition.
    takes_part: bool,
    /// Until when this server is surely alone, in milliseconds by [`now`]; 0: it is not.
    alone_until: AtomicU64,
    /// The newest revision this process has told anybody of.
    told: AtomicI64,
    /// Creation of this server's key, once it may write.
    admission: watch::Sender<Option<i64>>,
}

impl Servers {
    pub(crate) fn new(takes_part: bool) -> Self {
        Self {
            takes_part,
            alone_until: AtomicU64::new(0),
            told: AtomicI64::new(0),
            admission: watch::Sender::new(None),
        }
    }

    /// While this server is alone: the revision that every acknowledged write is within.
    pub(crate) fn revision_if_alone(&self) -> Option<i64> {
        // The clock first: whoever comes is admitted only after that time, so what is read later is new enough.
        let alone = millis(now()) < self.alone_until.load(Ordering::SeqCst);
        alone.then(|| self.told.load(Ordering::SeqCst))
    }

    /// To be called before anybody learns of a revision.
    pub(crate) fn tell(&self, revision: i64) {
        self.told.fetch_max(revision, Ordering::SeqCst);
    }

    /// What a transaction must require of this server's key: its creation. Waits until the server is admitted.
    pub(crate) async fn admission(&self, limit: Duration) -> Result<Option<i64>> {
        let now = *self.admission.borrow();
        if now.is_some() || !self.takes_part {
            return Ok(now);
        }
        let mut admission = self.admission.subscribe();
        let admitted = tokio::time::timeout(limit, admission.wait_for(Option::is_some)).await;
        match admitted {
            Ok(Ok(admitted)) => Ok(*admitted),
            Ok(Err(_)) => Err(Error::Closed),
            Err(_) => Err(Error::Unavailable("another API server has not yet made room for this one".into())),
        }
    }

    /// A transaction was refused because this admission is no longer valid.
    pub(crate) fn lost(&self, admission: i64) {
        self.admission.send_if_modified(|current| current.take_if(|current| *current == admission).is_some());
    }

    fn admit(&self, created: i64) {
        self.admission.send_replace(Some(created));
    }

    fn expel(&self) {
        self.not_alone();
        self.admission.send_replace(None);
    }

    fn alone(&self, until: Duration) {
        self.alone_until.store(millis(until), Ordering::SeqCst);
    }

    fn not_alone(&self) {
        self.alone_until.store(0, Ordering::SeqCst);
    }

    /// etcd stands at this revision while nobody here can write: more cannot have been told, unless etcd was restored from
    /// a backup.
    fn forget_beyond(&self, revision: i64) {
        self.told.fetch_min(revision, Ordering::SeqCst);
    }
}

/// The time since the machine was started, its sleep included: a lease ends meanwhile.
fn now() -> Duration {
    // Linux has had this clock since 2.6.39; without it nobody would be taken for alone.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The key of a server; of the empty id, the one that every entry moves on.
pub(crate) fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

const PREFIX: &str = "/registry/skep-servers/";

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_is_alone_knows_without_asking_and_only_for_a_while() {
        let servers = Servers::new(true);
        servers.tell(7);
        assert_eq!(servers.revision_if_alone(), None);
        servers.alone(now() + Duration::from_secs(3600));
        assert_eq!(servers.revision_if_alone(), Some(7));
        servers.tell(9);
        servers.tell(8);
        assert_eq!(servers.revision_if_alone(), Some(9), "answers may come in any order");
        servers.alone(now());
        assert_eq!(servers.revision_if_alone(), None, "the lease may have ended");
    }

    #[tokio::test]
    async fn writers_wait_for_admission_and_an_old_one_is_not_taken_for_the_new() {
        let servers = Servers::new(true);
        assert!(matches!(servers.admission(Duration::ZERO).await, Err(Error::Unavailable(_))));
        servers.admit(5);
        assert_eq!(servers.admission(Duration::ZERO).await.unwrap(), Some(5));
        servers.lost(4);
        assert_eq!(servers.admission(Duration::ZERO).await.unwrap(), Some(5));
        servers.lost(5);
        assert!(servers.admission(Duration::ZERO).await.is_err());
        assert_eq!(Servers::new(false).admission(Duration::ZERO).await.unwrap(), None);
    }
}
