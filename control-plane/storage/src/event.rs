//! A change of an object, and its frames for JSON watches.

use crate::object::Object;
use bytes::Bytes;
use std::sync::{Arc, OnceLock};

/// What happened to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It did not exist before.
    Added,
    /// It existed before.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change, shared by all watchers.
#[derive(Debug)]
pub struct Event {
    /// What happened to the key (a watcher with a selector may see it otherwise, see the frames).
    pub kind: EventKind,
    /// The new object; of a deletion: the last content with the deletion's resourceVersion.
    pub object: Arc<Object>,
    /// The object before; `None` only for `Added`.
    pub previous: Option<Arc<Object>>,
    /// Revision of the change.
    pub revision: i64,
    added: OnceLock<Bytes>,
    modified: OnceLock<Bytes>,
    deleted: OnceLock<Bytes>,
}

impl Event {
    pub(crate) fn new(kind: EventKind, object: Arc<Object>, previous: Option<Arc<Object>>, revision: i64) -> Self {
        Self {
            kind,
            object,
            previous,
            revision,
            added: OnceLock::new(),
            modified: OnceLock::new(),
            deleted: OnceLock::new(),
        }
    }

    /// `{"type":"ADDED","object":...}` and a newline. Made once, then shared.
    pub fn added_frame(&self) -> Bytes {
        self.added.get_or_init(|| frame("ADDED", self.object.json())).clone()
    }

    /// `{"type":"MODIFIED","object":...}` and a newline. Made once, then shared.
    pub fn modified_frame(&self) -> Bytes {
        self.modified.get_or_init(|| frame("MODIFIED", self.object.json())).clone()
    }

    /// `{"type":"DELETED","object":...}` and a newline, with the previous content at this event's resourceVersion:
    /// right both for a deletion and for a watcher whose selector the object no longer matches. Made once, then shared.
    pub fn deleted_frame(&self) -> Bytes {
        self.deleted
            .get_or_init(|| match (self.kind, &self.previous) {
                (EventKind::Modified, Some(previous)) => frame("DELETED", &previous.json_at(self.revision)),
                _ => frame("DELETED", self.object.json()),
            })
            .clone()
    }

    /// The frame of [`Event::kind`].
    pub fn frame(&self) -> Bytes {
        match self.kind {
            EventKind::Added => self.added_frame(),
            EventKind::Modified => self.modified_frame(),
            EventKind::Deleted => self.deleted_frame(),
        }
    }

    /// How a watcher that selects objects by `matches` sees this event: `None` if not at all
    /// (an object that starts to match is Added to it, one that stops to match is Deleted).
    pub fn seen_by(&self, mut matches: impl FnMut(&Object) -> bool) -> Option<EventKind> {
        let now = self.kind != EventKind::Deleted && matches(&self.object);
        let before = self.previous.as_deref().is_some_and(&mut matches);
        match (before, now) {
            (false, true) => Some(EventKind::Added),
            (true, true) => Some(EventKind::Modified),
            (true, false) => Some(EventKind::Deleted),
            (false, false) => None,
        }
    }

    /// The frame for what [`Event::seen_by`] said.
    pub fn frame_as(&self, kind: EventKind) -> Bytes {
        match kind {
            EventKind::Added => self.added_frame(),
            EventKind::Modified => self.modified_frame(),
            EventKind::Deleted => self.deleted_frame(),
        }
    }
}

fn frame(kind: &str, json: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(json.len() + kind.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(json);
    out.extend_from_slice(b"}\n");
    out.into()
}
