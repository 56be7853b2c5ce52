//! The body of a response.

use std::{
    collections::VecDeque,
    future::ready as ready_future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio_util::sync::CancellationToken;

use super::gzip::Gzip;
use crate::registry::generic::list::ListStream;

/// What can end a body before its time.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response: bytes at hand, a list read off a snapshot, or a stream (watches, logs).
#[derive(Default)]
pub struct Body(Inner);

#[derive(Default)]
enum Inner {
    #[default]
    Empty,
    Full(Bytes),
    List(Box<ListStream>),
    Gzip(Box<Gzip>),
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
    /// Of another server, with whatever frames it has.
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self(Inner::Empty)
    }

    pub(crate) fn list(list: ListStream) -> Self {
        Self(Inner::List(Box::new(list)))
    }

    pub(crate) fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self(Inner::Stream(stream.boxed()))
    }

    /// A body as another server sends it; `guard` is held while it runs.
    pub(crate) fn boxed(
        body: impl http_body::Body<Data = Bytes, Error = BodyError> + Send + 'static,
        guard: impl Send + 'static,
    ) -> Self {
        Self(Inner::Boxed(Guarded { body: body.boxed_unsync(), _guard: guard }.boxed_unsync()))
    }
}

impl Body {
    /// The same stream, which holds `guard` while it runs and ends with `shutdown`. Bodies at hand stay as they are.
    pub(crate) fn guarded(self, guard: impl Send + 'static, shutdown: CancellationToken) -> Self {
        match self.0 {
            Inner::Stream(stream) => {
                let mut stream = stream.take_until(shutdown.cancelled_owned()).boxed();
                Self::stream(stream::poll_fn(move |cx| {
                    let _held = &guard;
                    stream.poll_next_unpin(cx)
                }))
            }
            // Of another server, which says itself when it is whole.
            Inner::Boxed(body) => Self::boxed(body, guard),
            other => Self(other),
        }
    }
}

/// A body that keeps something alive.
struct Guarded<G> {
    body: UnsyncBoxBody<Bytes, BodyError>,
    _guard: G,
}

// The body is boxed, and the guard is never looked at: nothing in here is pinned.
impl<G> Unpin for Guarded<G> {}

impl<G> http_body::Body for Guarded<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Body {
    /// The body compressed, if it was made here and has at least `threshold` bytes; and whether it was.
    pub(crate) fn compressed(self, threshold: usize) -> (Self, bool) {
        match self.0 {
            Inner::Full(bytes) if bytes.len() >= threshold => {
                let mut whole = Some(bytes);
                (Self(Inner::Gzip(Box::new(Gzip::new(move || whole.take().map(Ok))))), true)
            }
            Inner::List(mut list) => {
                // A list is read off a snapshot: to look at its beginning waits for nothing.
                let mut ready = VecDeque::new();
                let mut size = 0;
                while size < threshold {
                    match list.next_chunk() {
                        Some(Ok(chunk)) => {
                            size += chunk.len();
                            ready.push_back(chunk);
                        }
                        Some(Err(error)) => return (Self::stream(stream::once(ready_future(Err(error)))), false),
                        None => return (ready.into_iter().flatten().collect::<Vec<u8>>().into(), false),
                    }
                }
                let next = move || ready.pop_front().map(Ok).or_else(|| list.next_chunk());
                (Self(Inner::Gzip(Box::new(Gzip::new(next)))), true)
            }
            other => (Self(other), false),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self(Inner::Empty) } else { Self(Inner::Full(bytes)) }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.0 {
            Inner::Empty => Poll::Ready(None),
            Inner::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Inner::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Inner::List(list) => Poll::Ready(list.next_chunk().map(|chunk| chunk.map(Frame::data))),
            Inner::Gzip(gzip) => Poll::Ready(gzip.next_chunk().map(|chunk| chunk.map(Frame::data))),
            Inner::Stream(stream) => stream.poll_next_unpin(cx).map(|item| item.map(|chunk| chunk.map(Frame::data))),
            Inner::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Boxed(body) => body.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::List(_) | Inner::Gzip(_) | Inner::Stream(_) => SizeHint::default(),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}
