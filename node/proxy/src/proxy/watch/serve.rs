//! Writing what is wanted: in turn, again where it failed, and with an eye on how full the maps are.

use std::{
    collections::{HashSet, VecDeque},
    path::Path,
    time::Instant,
};

use super::{
    CHUNK, Keeper, NEARLY_FULL, RETRY, chain,
    claims::{Claimed, Released},
};
use crate::{
    Error, Result, bpffs,
    programmer::Writes,
    service::{Frontend, Service as Desired, ServicePort},
    sockets,
    tracker::Owner,
};

impl Keeper {
    /// Writes what is wanted for these Services and pods.
    pub(super) async fn serve(&mut self, owners: Vec<Owner>) {
        if !self.ready() {
            return;
        }
        if owners.is_empty() && self.stale.is_empty() {
            return self.note_served();
        }
        let started = Instant::now();
        let mut queue = VecDeque::from(owners);
        let mut done = 0_usize;
        while let Some(owner) = queue.pop_front() {
            done += 1;
            if done.is_multiple_of(CHUNK) {
                tokio::task::yield_now().await;
            }
            let started = Instant::now();
            match self.serve_one(&owner, &mut queue) {
                Ok(()) => {
                    self.failed.remove(&owner);
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    self.room.note(&error);
                    let waits = matches!(error, Error::MapFull { .. });
                    // Said once; of a full map another word is said, for all its Services.
                    if self.failed.insert(owner.clone()) && !waits {
                        tracing::error!(?owner, error = %chain(&error), "a service cannot be written, trying again");
                    }
                }
            }
            // Not before an heir has what it inherits: it takes the frontend over without a gap.
            if queue.is_empty() || done.is_multiple_of(CHUNK) {
                self.remove_stale();
            }
            self.metrics.change.observe(started.elapsed().as_secs_f64());
        }
        self.remove_stale();
        self.see_to_room();
        if self.failed.is_empty() && self.stale.is_empty() {
            self.retry_at = None;
        } else if self.retry_at.is_none_or(|time| time <= Instant::now()) {
            self.retry_at = Some(Instant::now() + RETRY);
        }
        for family in std::mem::take(&mut self.touched) {
            self.metrics.synced(family, started.elapsed());
        }
        self.note_served();
        self.cut_sockets();
        self.watch_capacity();
    }

    /// Sees to the sockets of backends that a former daemon left to them until those would serve no more.
    pub(super) fn note_former_sockets(&mut self, bpf_root: &Path) {
        match sockets::asked(&bpffs::Paths::new(bpf_root).maps) {
            Ok(asked) => {
                asked.into_iter().for_each(|(address, backend)| self.programmer.note_asked(address, backend));
                self.cut_sockets();
            }
            Err(error) => tracing::error!(error = %chain(&error), "UDP sockets may keep backends that are gone"),
        }
    }

    /// Cuts off the sockets of backends that are gone. Those of a backend that is only not chosen any more, as one that
    /// terminates and still serves (KEP-1669), stay as connections do, until it stops.
    fn cut_sockets(&mut self) {
        let (claims, tracker) = (&self.claims, &self.tracker);
        let gone = self.programmer.take_gone(|frontend, backend| match claims.owner(frontend) {
            Some(Owner::Service(key)) => tracker.serves(key, frontend.protocol, backend),
            _ => false,
        });
        if let Some(cutter) = &self.cutter
            && !gone.is_empty()
        {
            cutter.cut(gone);
        }
    }

    /// What was seen so far is served, or needs nothing, or has failed.
    fn note_served(&self) {
        self.metrics.nothing_pending();
        if self.failed.is_empty() {
            self.health.updated();
        }
    }

    /// Writes one Service or pod. Whoever gets a frontend from it, or loses one to it, is put into the queue.
    fn serve_one(&mut self, owner: &Owner, queue: &mut VecDeque<Owner>) -> Result<()> {
        let desired = match owner {
            Owner::Service(key) => {
                self.health.note_service(key, self.tracker.health(key));
                self.tracker.desired(key)
            }
            Owner::Pod(key) => self.host_ports.desired(key),
        };
        let before = self.programmer.writes();
        let mut result = Ok(());
        let wanted: HashSet<Frontend> =
            desired.iter().flat_map(|(_, service)| service.frontends.keys().copied()).collect();
        for (port, frontends) in self.served.remove(owner).unwrap_or_default() {
            self.touched.insert(port.family);
            for frontend in frontends.iter().filter(|frontend| !wanted.contains(frontend)) {
                if let Released::Inherited(heir) = self.claims.release(frontend, owner) {
                    queue.push_back(heir);
                }
            }
            if !desired.iter().any(|(wanted, _)| *wanted == port) {
                self.stale.insert(port);
            }
        }
        let mut served = Vec::with_capacity(desired.len());
        for (port, service) in desired {
            let frontends: Vec<Frontend> = service.frontends.keys().copied().collect();
            self.stale.remove(&port);
            self.touched.insert(port.family);
            result = result.and(self.apply(owner, &port, service, queue));
            served.push((port, frontends));
        }
        if !served.is_empty() {
            self.served.insert(owner.clone(), served);
        }
        self.count_writes(before);
        result
    }

    /// Writes one service port with those of its frontends that are its own. Whoever loses one is put into the queue: it may
    /// be left with none.
    fn apply(
        &mut self,
        owner: &Owner,
        port: &ServicePort,
        mut service: Desired,
        queue: &mut VecDeque<Owner>,
    ) -> Result<()> {
        service.frontends.retain(|frontend, _| match self.claims.claim(frontend, owner) {
            Claimed::Own => true,
            Claimed::From(former) => {
                queue.push_back(former);
                true
            }
            Claimed::Waits => false,
        });
        if service.frontends.is_empty() {
            // All of them are another's.
            self.stale.insert(port.clone());
            return Ok(());
        }
        self.programmer.apply(port, &service).map(drop)
    }

    /// Removes service ports that are gone; those that cannot be removed stay on the list.
    pub(super) fn remove_stale(&mut self) {
        let before = self.programmer.writes();
        for port in std::mem::take(&mut self.stale) {
            if let Err(error) = self.programmer.remove(&port) {
                self.metrics.failures.inc();
                tracing::error!(%port, error = %chain(&error), "a service port cannot be removed, trying again");
                self.stale.insert(port);
            }
        }
        self.count_writes(before);
    }

    pub(super) fn count_writes(&self, before: Writes) {
        let after = self.programmer.writes();
        self.metrics.updates.inc_by(after.updates - before.updates);
        self.metrics.deletes.inc_by(after.deletes - before.deletes);
    }

    /// A map that fills up is heard of before it is full.
    fn watch_capacity(&mut self) {
        for fill in self.programmer.fill() {
            self.metrics.filled(&fill);
            if fill.used * 100 >= fill.capacity * NEARLY_FULL {
                if self.nearly_full.insert(fill.map) {
                    tracing::error!(
                        map = fill.map,
                        used = fill.used,
                        capacity = fill.capacity,
                        "a service map is nearly full"
                    );
                }
            } else {
                self.nearly_full.remove(fill.map);
            }
        }
    }
}
