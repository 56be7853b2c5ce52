//! Whose a frontend is, while several want it. Of two Services the one that claimed it last: an address freed by one and
//! given to another is seen of the new owner first when the old one's end was missed and only a new list tells of it. A pod's
//! host port waits for Services: upstream's proxy puts its rules before those of the plugin `portmap`.

use std::collections::HashMap;

use crate::{service::Frontend, tracker::Owner};

/// Claims on frontends: the newest of a Service counts, and when it ends the one before it does.
#[derive(Debug, Default)]
pub(super) struct Claims {
    owners: HashMap<Frontend, Owner>,
    /// Claims that wait, the next one last: pods before Services, older ones before newer ones. Almost always empty.
    waiting: HashMap<Frontend, Vec<Owner>>,
}

/// What became of a claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// It is the claimant's, as it was before, or was nobody's.
    Own,
    /// It is the claimant's, and this one's no more.
    From(Owner),
    /// It is another's.
    Waits,
}

/// What became of a frontend that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// Nobody else claims it.
    Free,
    /// It is this one's now.
    Inherited(Owner),
    /// It was another's already.
    NotOwned,
}

impl Claims {
    /// Claims a frontend. To repeat a claim does not make it newer.
    pub(super) fn claim(&mut self, frontend: &Frontend, claimant: &Owner) -> Claimed {
        let Some(owner) = self.owners.get_mut(frontend) else {
            self.owners.insert(*frontend, claimant.clone());
            return Claimed::Own;
        };
        if owner == claimant {
            return Claimed::Own;
        }
        let waiting = self.waiting.entry(*frontend).or_default();
        if waiting.contains(claimant) {
            return Claimed::Waits;
        }
        if is_pod(claimant) && !is_pod(owner) {
            let place = waiting.partition_point(is_pod);
            waiting.insert(place, claimant.clone());
            return Claimed::Waits;
        }
        tracing::debug!(%frontend, from = ?owner, to = ?claimant, "a frontend changes hands");
        let former = std::mem::replace(owner, claimant.clone());
        waiting.push(former.clone());
        Claimed::From(former)
    }

    /// Whose a frontend is.
    pub(super) fn owner(&self, frontend: &Frontend) -> Option<&Owner> {
        self.owners.get(frontend)
    }

    /// Gives up a claim.
    pub(super) fn release(&mut self, frontend: &Frontend, claimant: &Owner) -> Released {
        let owned = self.owners.get(frontend) == Some(claimant);
        let Some(waiting) = self.waiting.get_mut(frontend) else {
            if owned {
                self.owners.remove(frontend);
            }
            return if owned { Released::Free } else { Released::NotOwned };
        };
        let heir = if owned { waiting.pop() } else { None };
        waiting.retain(|other| other != claimant);
        if waiting.is_empty() {
            self.waiting.remove(frontend);
        }
        match heir {
            Some(heir) => {
                self.owners.insert(*frontend, heir.clone());
                Released::Inherited(heir)
            }
            None => Released::NotOwned,
        }
    }
}

fn is_pod(owner: &Owner) -> bool {
    matches!(owner, Owner::Pod(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{service::Protocol, tracker::ServiceKey};

    const AT: Frontend = Frontend {
        address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1)),
        port: 80,
        protocol: Protocol::Tcp,
    };

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: "ns".into(), name: name.into() }
    }

    #[test]
    fn the_newest_claim_counts_and_the_one_before_inherits() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Owner::Service(key(name)));
        let mut claims = Claims::default();
        assert_eq!([claims.claim(&AT, &a), claims.claim(&AT, &a)], [Claimed::Own, Claimed::Own]);
        assert_eq!(claims.claim(&AT, &b), Claimed::From(a.clone()));
        assert_eq!(claims.claim(&AT, &c), Claimed::From(b.clone()));
        assert_eq!(claims.claim(&AT, &a), Claimed::Waits, "an old claim does not become new by being repeated");
        assert_eq!(claims.release(&AT, &b), Released::NotOwned);
        assert_eq!(claims.release(&AT, &c), Released::Inherited(a.clone()));
        assert_eq!(claims.claim(&AT, &a), Claimed::Own);
        assert_eq!(claims.release(&AT, &b), Released::NotOwned);
        assert_eq!(claims.release(&AT, &a), Released::Free);
        assert!(claims.owners.is_empty() && claims.waiting.is_empty());
    }

    #[test]
    fn pods_wait_for_services_in_their_own_order() {
        let [p, q] = ["p", "q"].map(|name| Owner::Pod(key(name)));
        let [a, b] = ["p", "b"].map(|name| Owner::Service(key(name)));
        let mut claims = Claims::default();
        assert_eq!(claims.claim(&AT, &p), Claimed::Own);
        assert_eq!(claims.claim(&AT, &a), Claimed::From(p.clone()), "a Service of the same name is another");
        assert_eq!(claims.claim(&AT, &b), Claimed::From(a.clone()));
        assert_eq!(claims.claim(&AT, &q), Claimed::Waits);
        assert_eq!(claims.release(&AT, &b), Released::Inherited(a.clone()));
        assert_eq!(claims.release(&AT, &a), Released::Inherited(q.clone()));
        assert_eq!(claims.release(&AT, &q), Released::Inherited(p));
    }
}
