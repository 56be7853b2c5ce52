//! Larger maps for a cluster that grows.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{Keeper, chain};
use crate::{Error, MapSizes, Result, bpffs::Paths, growth::Growth, programmer::Refused, tracker::Owner};

/// When maps that could not be made larger are tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// Larger maps that are on their way, and what they are for.
#[derive(Debug)]
pub(super) struct Room {
    root: PathBuf,
    /// How large they may become; `None`: no larger than they are.
    most: Option<MapSizes>,
    maglev: u32,
    /// What had no room since the last look.
    refused: Option<Refused>,
    preparing: Option<JoinHandle<Result<Growth>>>,
    /// Not before that, after a failure.
    not_before: Option<Instant>,
    /// Maps of which it was said that they are as large as they get.
    told: HashSet<&'static str>,
}

impl Room {
    pub(super) fn new(bpf_root: &Path, most: Option<MapSizes>, maglev: u32) -> Self {
        Self {
            root: bpf_root.to_owned(),
            most,
            maglev,
            refused: None,
            preparing: None,
            not_before: None,
            told: HashSet::new(),
        }
    }

    /// Notes a change that found no room.
    pub(super) fn note(&mut self, error: &Error) {
        self.refused = Refused::of(error).or(self.refused);
    }

    /// Is room on its way? What failed for want of it is then no error yet.
    pub(super) fn comes(&self) -> bool {
        self.preparing.is_some()
    }

    /// Waits until larger maps are ready to take their places; for ever if there are none.
    pub(super) async fn ready(&mut self) -> Result<Growth> {
        let Some(task) = &mut self.preparing else { return std::future::pending().await };
        let result = task.await;
        self.preparing = None;
        result.unwrap_or_else(|error| Err(Error::io("wait for larger maps")(std::io::Error::other(error))))
    }
}

impl Keeper {
    /// Has larger maps made where they fill up. Everything goes on meanwhile.
    pub(super) fn see_to_room(&mut self) {
        if self.room.comes() || self.room.not_before.is_some_and(|time| time > Instant::now()) {
            return;
        }
        let refused = self.room.refused.take();
        let more = if refused.is_some() { self.failed.len() } else { 0 };
        let Room { most, maglev, .. } = &self.room;
        let larger = most.map(|most| self.programmer.larger(refused, more, &most, *maglev)).unwrap_or_default();
        if larger.is_empty() {
            if let Some(refused) = refused {
                self.note_ceiling(refused);
            }
            return;
        }
        tracing::info!(?larger, "service maps fill up and are made larger");
        let root = self.room.root.clone();
        self.room.preparing = Some(tokio::task::spawn_blocking(move || Growth::prepare(&root, &larger)));
    }

    /// Puts larger maps into their places, and writes what had no room.
    pub(super) async fn use_room(&mut self, growth: Result<Growth>) {
        let done = match growth {
            Ok(growth) => self.take_over(growth).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                self.metrics.growths.inc();
                self.room.not_before = None;
                self.room.told.clear();
                tracing::info!("service maps were made larger");
            }
            // To be begun once more, at once.
            Err(Error::Superseded) => {}
            Err(error) => {
                self.metrics.failures.inc();
                self.room.not_before = Some(Instant::now() + AGAIN);
                tracing::error!(error = %chain(&error), "service maps cannot be made larger");
            }
        }
        let again: Vec<Owner> = self.failed.iter().cloned().collect();
        self.serve(again).await;
    }

    /// Nobody writes to the maps meanwhile: this task does, and waits.
    async fn take_over(&mut self, growth: Growth) -> Result<()> {
        let finished = tokio::task::spawn_blocking(move || growth.finish()).await;
        let finished = finished.unwrap_or_else(|error| Err(Error::io("exchange maps")(std::io::Error::other(error))));
        // Those that are in force by now, however far it came.
        finished.and(self.programmer.reopen(&Paths::new(&self.room.root).maps))
    }

    /// What finds no room stays out; the rest is served.
    fn note_ceiling(&mut self, refused: Refused) {
        let map = refused.map();
        self.metrics.ceiling(map);
        if self.room.told.insert(map) {
            tracing::error!(map, "a service map is as large as it gets: Services that find no room are not served");
        }
    }
}
