//! A change of an object, and its frames for watches.

use crate::object::Object;
use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

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
pub struct Event {
    /// What happened to the key (a watcher with a selector may see it otherwise, see the frames).
    pub kind: EventKind,
    /// The new object; of a deletion: the last content with the deletion's resourceVersion.
    pub object: Arc<Object>,
    /// The object before; `None` only for `Added`.
    pub previous: Option<Arc<Object>>,
    /// Revision of the change.
    pub revision: i64,
    /// Frames that were asked for. Few, so a search is quicker than a table.
    frames: Mutex<Vec<Frame>>,
    encoded: Counter,
}

struct Frame {
    shape: Cow<'static, str>,
    kind: EventKind,
    bytes: Bytes,
}

/// The shape of plain JSON frames.
const JSON: &str = "";

impl Event {
    pub(crate) fn new(
        kind: EventKind,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
        revision: i64,
        encoded: Counter,
    ) -> Self {
        Self { kind, object, previous, revision, frames: Mutex::default(), encoded }
    }

    /// Bytes that are kept alive for this event's sake, about: content that is no longer current, and the frames.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 512;
        let previous = self.previous.as_ref().map_or(0, |previous| previous.json().len());
        // The frames that are yet to be made weigh as much as the object.
        OVERHEAD + previous + self.object.json().len()
    }

    /// The frame `{"type":...,"object":...}` and a newline for what [`Event::seen_by`] said. Made once, then shared.
    pub fn frame_as(&self, kind: EventKind) -> Bytes {
        let made = self.shared_frame(JSON, kind, |object| Ok::<_, Infallible>(frame(kind, object)));
        match made {
            Ok(bytes) => bytes,
            Err(never) => match never {},
        }
    }

    /// The frame of [`Event::kind`].
    pub fn frame(&self) -> Bytes {
        self.frame_as(self.kind)
    }

    /// A frame of another shape (an encoding, a version, a part of the object): `make` gets the object's JSON and is called
    /// once for each shape and kind; whoever asks later shares what it made. `shape` must not be empty and must say all that
    /// `make` depends on.
    ///
    /// # Errors
    /// Whatever `make` says; then nothing is kept.
    pub fn shared_frame<E>(
        &self,
        shape: &str,
        kind: EventKind,
        make: impl FnOnce(&Bytes) -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        // Held while the frame is made: who waits wants the same one.
        let mut frames = self.frames.lock();
        if let Some(frame) = frames.iter().find(|frame| frame.kind == kind && frame.shape == shape) {
            return Ok(frame.bytes.clone());
        }
        let bytes = make(&self.json_as(kind))?;
        self.encoded.inc();
        let shape = if shape == JSON { Cow::Borrowed(JSON) } else { Cow::Owned(shape.to_owned()) };
        frames.push(Frame { shape, kind, bytes: bytes.clone() });
        Ok(bytes)
    }

    /// The frame of that shape and kind, if somebody has had it made.
    pub fn made_frame(&self, shape: &str, kind: EventKind) -> Option<Bytes> {
        let frames = self.frames.lock();
        frames.iter().find(|frame| frame.kind == kind && frame.shape == shape).map(|frame| frame.bytes.clone())
    }

    /// The object's JSON for what [`Event::seen_by`] said: a watcher whose selector the object no longer matches sees the
    /// previous content at this event's resourceVersion.
    pub fn json_as(&self, kind: EventKind) -> Bytes {
        match (kind, self.kind, &self.previous) {
            (EventKind::Deleted, EventKind::Modified, Some(previous)) => previous.json_at(self.revision),
            _ => self.object.json().clone(),
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
}

impl EventKind {
    /// Its name in a watch.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("kind", &self.kind).field("object", &self.object).finish_non_exhaustive()
    }
}

fn frame(kind: EventKind, json: &[u8]) -> Bytes {
    let kind = kind.as_str();
    let mut out = Vec::with_capacity(json.len() + kind.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(json);
    out.extend_from_slice(b"}\n");
    out.into()
}
