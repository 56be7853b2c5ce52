//! GET with watch: frames shared by all watchers of an event.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use rand::Rng as _;
use skep_api::{options::ListOptions, status::StatusError};
use skep_storage::{Error, Event, EventKind, Snapshot, Watcher};
use tokio::time::{Instant, Sleep};

use super::{Registry, commit::storage_error, selection::Selection, view::Viewer};
use crate::http::{
    body::Body,
    negotiate::{Accepted, Format},
    response,
};

/// The media types of watches.
const WATCH_TYPES: &[&str] = &["application/json;stream=watch", skep_protobuf::WATCH_MEDIA_TYPE];
/// Events taken from the history at once.
const BATCH: usize = 64;
/// Upstream's minimum: a watch without timeout ends after one to two times this.
const SHORTEST: Duration = Duration::from_secs(1800);
/// How often a watcher that wants bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// How long before its end it gets another.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

impl Registry {
    /// Answers a watch request.
    pub(crate) async fn watch(
        &self,
        selection: Selection,
        options: &ListOptions,
        viewer: Viewer,
        accepted: &Accepted,
    ) -> Result<Response<Body>, StatusError> {
        let content_type = match accepted.format {
            Format::Json => "application/json",
            Format::Protobuf if skep_protobuf::knows(&self.info().api_version(), &self.info().kind) => {
                skep_protobuf::WATCH_MEDIA_TYPE
            }
            Format::Protobuf | Format::Yaml => return Err(StatusError::not_acceptable(WATCH_TYPES)),
        };
        let timeout = match options.timeout_seconds {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.min(u64::from(u32::MAX))),
            _ => SHORTEST.mul_f64(1.0 + rand::rng().random::<f64>()),
        };
        let deadline = Instant::now() + timeout;
        let viewer_shape = viewer.shape(accepted.format);
        let first_bookmark = BOOKMARK_INTERVAL.mul_f64(0.75 + rand::rng().random::<f64>() / 2.0);
        let mut watch = Watch {
            initial: None,
            watcher: None,
            batch: VecDeque::new(),
            send_end: false,
            error: None,
            bookmarks: options.allow_watch_bookmarks,
            timer: Box::pin(tokio::time::sleep_until(deadline)),
            next_bookmark: bookmark_time(first_bookmark, deadline),
            deadline,
            first_table: true,
            viewer,
            format: accepted.format,
            kind: (self.info().kind.to_string(), self.info().api_version().into_owned()),
            shape: viewer_shape,
            selection,
        };
        watch.set_timer();
        let initial = options.send_initial_events.unwrap_or(matches!(options.resource_version, None | Some(0)));
        if initial {
            self.await_version(options.resource_version).await?;
            let (snapshot, watcher) = self.cache.snapshot_and_watch(&watch.selection.scope);
            watch.initial = Some((snapshot, String::new()));
            watch.watcher = Some(watcher);
            watch.send_end = options.send_initial_events == Some(true) && options.allow_watch_bookmarks;
        } else {
            let from = match options.resource_version {
                Some(version) if version > 0 => i64::try_from(version).unwrap_or(i64::MAX),
                Some(_) => self.storage.revision(),
                None => self.refresh().await?,
            };
            match self.cache.watch(&watch.selection.scope, from) {
                Ok(watcher) => watch.watcher = Some(watcher),
                // From here on upstream answers 200 and sends the error as an event.
                Err(error) => watch.error = Some(error),
            }
        }
        let frames = stream::unfold(Some(Box::new(watch)), |watch| async move {
            let mut watch = watch?;
            match watch.next_frame().await {
                Next::Frame(frame) => Some((Ok(frame), Some(watch))),
                Next::Last(frame) => Some((Ok(frame), None)),
                Next::End => None,
            }
        });
        Ok(response::with_type(StatusCode::OK, content_type, Body::stream(frames)))
    }
}

struct Watch {
    /// The snapshot whose objects are sent first, and the key to go on from.
    initial: Option<(Snapshot, String)>,
    watcher: Option<Watcher>,
    batch: VecDeque<Arc<Event>>,
    /// The bookmark that ends the initial events is due.
    send_end: bool,
    error: Option<Error>,
    bookmarks: bool,
    /// Of the next bookmark or the deadline, whichever comes first: timers are dear, and events many.
    timer: Pin<Box<Sleep>>,
    next_bookmark: Option<Instant>,
    deadline: Instant,
    first_table: bool,
    viewer: Viewer,
    format: Format,
    /// Kind and apiVersion of bookmarks.
    kind: (String, String),
    /// What frames of this view and format are shared by; none if they are this watcher's alone.
    shape: Option<String>,
    selection: Selection,
}

/// When the next bookmark is due, `after` from now: not behind the last one, which comes shortly before the end.
fn bookmark_time(after: Duration, deadline: Instant) -> Option<Instant> {
    let now = Instant::now();
    let last = deadline.checked_sub(LAST_BOOKMARK).filter(|last| *last > now)?;
    Some(last.min(now + after))
}

enum Next {
    Frame(Bytes),
    Last(Bytes),
    End,
}

impl Watch {
    fn set_timer(&mut self) {
        let bookmark = self.next_bookmark.filter(|_| self.bookmarks);
        self.timer.as_mut().reset(bookmark.unwrap_or(self.deadline).min(self.deadline));
    }

    async fn next_frame(&mut self) -> Next {
        loop {
            if let Some(error) = self.error.take() {
                return Next::Last(self.error_frame(&storage_error(error)));
            }
            let made = match self.next_initial().await {
                Some(made) => made,
                None => match self.next_change().await {
                    Some(made) => made,
                    None => return Next::End,
                },
            };
            match made {
                Ok(Some(frame)) => return Next::Frame(frame),
                Ok(None) => {}
                Err(error) => return Next::Last(self.error_frame(&error)),
            }
        }
    }

    /// The next of the initial events; none when they are all sent.
    async fn next_initial(&mut self) -> Option<Result<Option<Bytes>, StatusError>> {
        let (snapshot, start) = self.initial.as_mut()?;
        let found = snapshot.range(&self.selection.scope, start).find(|object| self.selection.matches(object)).cloned();
        if let Some(object) = found {
            *start = format!("{}\0", object.key());
            if let Err(error) = self.viewer.prepare(std::iter::once(object.json())).await {
                return Some(Err(error));
            }
            return Some(self.made_frame(EventKind::Added.as_str(), object.json()).map(Some));
        }
        let revision = snapshot.revision();
        self.initial = None;
        if !self.send_end {
            return None;
        }
        Some(self.bookmark_frame(revision, true).map(Some))
    }

    /// The next change or bookmark; none when the watch ends.
    async fn next_change(&mut self) -> Option<Result<Option<Bytes>, StatusError>> {
        if let Some(event) = self.batch.pop_front() {
            return Some(self.event_frame(&event).await);
        }
        let watcher = self.watcher.as_mut()?;
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            result = watcher.next_batch(&mut batch, BATCH) => {
                self.batch = batch.into();
                if let Err(error) = result {
                    self.watcher = None;
                    self.error = Some(error);
                }
            }
            () = &mut self.timer => {
                if Instant::now() >= self.deadline {
                    return None;
                }
                let revision = watcher.bookmark();
                self.next_bookmark = bookmark_time(BOOKMARK_INTERVAL, self.deadline);
                self.set_timer();
                return Some(self.bookmark_frame(revision, false).map(Some));
            }
        }
        Some(Ok(None))
    }

    async fn event_frame(&mut self, event: &Event) -> Result<Option<Bytes>, StatusError> {
        let seen = if self.selection.is_everything() {
            Some(event.kind)
        } else {
            event.seen_by(|object| self.selection.matches(object))
        };
        let Some(kind) = seen else { return Ok(None) };
        if self.viewer.is_whole() && self.format == Format::Json {
            return Ok(Some(event.frame_as(kind)));
        }
        let Some(shape) = &self.shape else {
            let json = event.json_as(kind);
            self.viewer.prepare(std::iter::once(&json)).await?;
            return self.made_frame(kind.as_str(), &json).map(Some);
        };
        if let Some(frame) = event.made_frame(shape, kind) {
            return Ok(Some(frame));
        }
        self.viewer.prepare(std::iter::once(&event.json_as(kind))).await?;
        let make = |json: &Bytes| self.frame(kind.as_str(), &self.viewer.single(json, false)?);
        event.shared_frame(shape, kind, make).map(Some)
    }

    fn made_frame(&mut self, kind: &str, json: &Bytes) -> Result<Bytes, StatusError> {
        let object = self.viewer.single(json, self.first_table)?;
        self.first_table = false;
        self.frame(kind, &object)
    }

    fn bookmark_frame(&self, revision: i64, initial_events_end: bool) -> Result<Bytes, StatusError> {
        let (kind, api_version) = &self.kind;
        let annotations =
            if initial_events_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
        let object = format!(
            r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{revision}","creationTimestamp":null{annotations}}}}}"#
        );
        // A table's bookmark is a table too.
        match self.viewer.bookmark(object.as_bytes()) {
            Some(table) => self.frame("BOOKMARK", &table),
            None => self.frame("BOOKMARK", object.as_bytes()),
        }
    }

    fn error_frame(&self, error: &StatusError) -> Bytes {
        // A Status is strings and numbers: it always serialises, and protobuf knows it.
        let status = serde_json::to_vec(error.status()).unwrap_or_default();
        self.frame("ERROR", &status).unwrap_or_default()
    }

    fn frame(&self, kind: &str, object: &[u8]) -> Result<Bytes, StatusError> {
        if self.format == Format::Protobuf {
            return skep_protobuf::watch_frame(kind, object).map(Bytes::from).map_err(response::protobuf_error);
        }
        Ok(json_frame(kind, object))
    }
}

fn json_frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + kind.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}
