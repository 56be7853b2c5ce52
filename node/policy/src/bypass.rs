//! A way to pods past `policy_to_pod`, and who may take it.
//!
//! Packets that are handed to a pod's device directly (`bpf_redirect_peer`) never pass the egress of the node's end. That is
//! right for pods that no policy selects. So the way is closed before a pod is isolated, and no program runs any more that
//! saw it open when the isolation comes into force; it is opened again when the isolation has gone.

use std::{collections::BTreeSet, error, fmt, net::IpAddr, sync::Arc};

use crate::{error::chain, kernel::wait_for_programs};

/// A pod's address behind a device (its number).
pub type Place = (u32, IpAddr);

/// What went wrong.
pub type BypassError = Box<dyn error::Error + Send + Sync>;

/// Such a way. Until it is told anything it stays as it is for devices it knows, and closed for others.
pub trait Bypass: fmt::Debug + Send + Sync {
    /// Closes it to all but these places, and opens it to nobody.
    ///
    /// # Errors
    /// When it may still be open to others.
    fn close_all_but(&self, places: &BTreeSet<Place>) -> Result<(), BypassError>;

    /// Opens it to these places and no others; `None`: to all, now and from now on.
    ///
    /// # Errors
    /// When it may be otherwise.
    fn open(&self, places: Option<&BTreeSet<Place>>) -> Result<(), BypassError>;
}

/// What the enforcement has said to the bypass, if there is one.
#[derive(Debug, Default)]
pub(crate) struct Around {
    bypass: Option<Arc<dyn Bypass>>,
    told: Option<BTreeSet<Place>>,
    /// Did it not do as it was told?
    is_behind: bool,
}

impl Around {
    pub(crate) fn new(bypass: Option<Arc<dyn Bypass>>) -> Self {
        Self { bypass, ..Self::default() }
    }

    /// Is there something to be tried again?
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// To be called before places beside these are isolated. What cannot be closed is said and tried again: the policies are
    /// enforced on all other ways meanwhile.
    pub(crate) fn narrow(&mut self, to: &BTreeSet<Place>) {
        let Some(bypass) = &self.bypass else { return };
        if self.told.as_ref().is_some_and(|told| told.is_subset(to)) {
            return;
        }
        let done = bypass.close_all_but(to);
        if self.done(done, "the direct way to isolated pods cannot be closed") {
            self.told = self.told.take().map(|told| &told & to);
            wait_for_programs();
        }
    }

    /// To be called when nothing isolates these places any more.
    pub(crate) fn widen(&mut self, to: &BTreeSet<Place>) {
        let Some(bypass) = &self.bypass else { return };
        if self.told.as_ref() == Some(to) && !self.is_behind {
            return;
        }
        let done = bypass.open(Some(to));
        if self.done(done, "the direct way to pods cannot be opened as policies allow") {
            self.told = Some(to.clone());
        }
    }

    fn done(&mut self, result: Result<(), BypassError>, what: &str) -> bool {
        match result {
            Ok(()) => self.is_behind = false,
            Err(error) => {
                tracing::error!(error = %chain(&*error), "{what}; trying again");
                (self.is_behind, self.told) = (true, None);
            }
        }
        !self.is_behind
    }
}
