//! The body of a response.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

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
    Stream(BoxStream<'static, Result<Bytes, BodyError>>),
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
}

impl Body {
    /// The same stream, which holds `guard` while it runs and ends with `shutdown`. Bodies at hand stay as they are.
    pub(crate) fn guarded(self, guard: impl Send + 'static, shutdown: CancellationToken) -> Self {
        match self.0 {
            Inner::Stream(stream) => {
                let mut stream = stream.take_until(shutdown.cancelled_owned()).boxed();
                Self::stream(futures::stream::poll_fn(move |cx| {
                    let _held = &guard;
                    stream.poll_next_unpin(cx)
                }))
            }
            other => Self(other),
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
            Inner::Stream(stream) => stream.poll_next_unpin(cx).map(|item| item.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Inner::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::List(_) | Inner::Stream(_) => SizeHint::default(),
        }
    }
}
