//! When a connection is idle: no request is under way on it, and none has begun for a while.
//!
//! HTTP/1 has a time for the next request in its own machinery; HTTP/2 answers pings for ever, and a client that shook hands
//! and then says nothing would keep its place. Upstream: `ReadHeaderTimeout` and `IdleTimeout` of its server.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tower::Service;

use crate::{
    http::body::{Body, BodyError},
    service::ApiService,
};

/// The requests of one connection.
#[derive(Default)]
pub(super) struct Activity {
    begun: AtomicUsize,
    under_way: AtomicUsize,
}

impl Activity {
    /// Returns once no request has come within `first`, or later on when none was under way and none began for `rest`
    /// (and at most twice as long).
    pub(super) async fn ceased(&self, first: Duration, rest: Duration) {
        let mut seen = 0;
        tokio::time::sleep(first).await;
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            if begun == seen && self.under_way.load(Ordering::Relaxed) == 0 {
                return;
            }
            seen = begun;
            tokio::time::sleep(rest).await;
        }
    }

    fn begin(self: &Arc<Self>) -> Busy {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }
}

/// A request that is under way, until its answer is sent or given up.
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The service, noting what it does.
#[derive(Clone)]
pub(super) struct Noted {
    pub(super) service: ApiService,
    pub(super) activity: Arc<Activity>,
}

impl<B> Service<Request<B>> for Noted
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BodyError>,
{
    type Response = Response<NotedBody>;
    type Error = <ApiService as Service<Request<B>>>::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<B>>::poll_ready(&mut self.service, cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let busy = self.activity.begin();
        let answer = self.service.call(request);
        async move { Ok(answer.await?.map(|body| NotedBody { body, _busy: busy })) }.boxed()
    }
}

/// The body of an answer, whose request is under way while it is sent.
pub(super) struct NotedBody {
    body: Body,
    _busy: Busy,
}

impl http_body::Body for NotedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const FIRST: Duration = Duration::from_millis(5);
    const REST: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_connection_without_a_request_is_idle_at_first() {
        Activity::default().ceased(FIRST, Duration::MAX).await;
    }

    #[tokio::test]
    async fn a_request_under_way_or_lately_begun_keeps_a_connection() {
        let activity = Arc::new(Activity::default());
        let watch = activity.begin();
        let own = Arc::clone(&activity);
        let ceased = tokio::spawn(async move { own.ceased(FIRST, REST).await });
        tokio::time::sleep(10 * REST).await;
        assert!(!ceased.is_finished(), "a watch is under way");
        let lately = activity.begin();
        drop(watch);
        drop(lately);
        let start = Instant::now();
        ceased.await.unwrap();
        assert!(start.elapsed() >= REST / 2, "{:?}", start.elapsed());
    }
}
