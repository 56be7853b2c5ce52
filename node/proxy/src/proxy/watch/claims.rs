//! Whose a service port is, while two Services name the same one: an address freed by one and given to another is seen of
//! the new owner first when the old one's end was missed and only a new list tells of it.

use std::collections::HashMap;

use crate::{service::Frontend, tracker::ServiceKey};

/// Claims on service ports: the newest counts, and when it ends the one before it does.
#[derive(Debug, Default)]
pub(super) struct Claims {
    owners: HashMap<Frontend, ServiceKey>,
    /// Older claims, oldest first. Almost always empty.
    older: HashMap<Frontend, Vec<ServiceKey>>,
}

/// What became of a service port that was given up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// Nobody else claims it.
    Free,
    /// It is this one's now.
    Inherited(ServiceKey),
    /// It was another's already.
    NotOwned,
}

impl Claims {
    /// Claims a service port. Returns whether it is that Service's: not if a newer claim stands. To repeat a claim does not
    /// make it newer.
    pub(super) fn claim(&mut self, frontend: &Frontend, service: &ServiceKey) -> bool {
        match self.owners.get_mut(frontend) {
            None => {
                self.owners.insert(*frontend, service.clone());
                true
            }
            Some(owner) if owner == service => true,
            Some(owner) => {
                let older = self.older.entry(*frontend).or_default();
                if older.contains(service) {
                    return false;
                }
                tracing::debug!(%frontend, from = %owner.name, to = %service.name, "a service port changes hands");
                older.push(std::mem::replace(owner, service.clone()));
                true
            }
        }
    }

    /// Gives up a claim.
    pub(super) fn release(&mut self, frontend: &Frontend, service: &ServiceKey) -> Released {
        let owned = self.owners.get(frontend) == Some(service);
        let Some(older) = self.older.get_mut(frontend) else {
            if owned {
                self.owners.remove(frontend);
            }
            return if owned { Released::Free } else { Released::NotOwned };
        };
        let heir = if owned { older.pop() } else { None };
        older.retain(|other| other != service);
        if older.is_empty() {
            self.older.remove(frontend);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Protocol;

    #[test]
    fn the_newest_claim_counts_and_the_one_before_inherits() {
        let at = Frontend { address: [10, 96, 0, 1].into(), port: 80, protocol: Protocol::Tcp };
        let [a, b, c] = ["a", "b", "c"].map(|name| ServiceKey { namespace: "ns".into(), name: name.into() });
        let mut claims = Claims::default();
        assert!(claims.claim(&at, &a) && claims.claim(&at, &a));
        assert!(claims.claim(&at, &b) && claims.claim(&at, &c));
        assert!(!claims.claim(&at, &a), "an old claim does not become new by being repeated");
        assert_eq!(claims.release(&at, &b), Released::NotOwned);
        assert_eq!(claims.release(&at, &c), Released::Inherited(a.clone()));
        assert!(claims.claim(&at, &a));
        assert_eq!(claims.release(&at, &b), Released::NotOwned);
        assert_eq!(claims.release(&at, &a), Released::Free);
        assert!(claims.owners.is_empty() && claims.older.is_empty());
    }
}
