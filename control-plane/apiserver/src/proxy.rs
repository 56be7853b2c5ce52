//! Requests passed on to other servers: pods, Services and nodes (`proxy` subresources) and aggregated API servers.
//!
//! As upstream's upgrade-aware handler does it: headers of the hop and of authentication stay here, bodies stream both
//! ways, an upgrade joins the two connections. Each request has a connection of its own, which ends with it: nothing is
//! left behind when a client goes away.

mod connect;
mod headers;
mod html;
mod path;
mod rewrite;

use std::{net::SocketAddr, time::Duration};

use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use skep_api::status::StatusError;
use skep_stream::{
    IDLE_TIMEOUT, tunnel,
    upgrade::{self, Answer},
};
use tokio::{task::AbortHandle, time::timeout};

use crate::{
    http::{body::Body, request_body::RequestBody, response},
    upgrade::Upgrade,
};

pub(crate) use connect::{Target, Transport};
pub(crate) use path::target_path;
pub(crate) use rewrite::Rewrite;

/// How long a server may take to answer a request for an upgrade.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);

/// A request on its way to another server.
pub(crate) struct Outgoing<'a> {
    pub(crate) method: &'a Method,
    /// The client's headers.
    pub(crate) headers: &'a HeaderMap,
    /// The client's address and query.
    pub(crate) uri: &'a Uri,
    /// The encoded path to ask the server for; begins with a slash.
    pub(crate) path: String,
    /// The address of the client, if it came over the network.
    pub(crate) peer: Option<SocketAddr>,
    /// What is rewritten in the answer, for servers that do not know where their clients see them.
    pub(crate) rewrite: Option<Rewrite>,
    /// Headers that say for whom the request is made; whatever the client said of that is dropped.
    pub(crate) identity: HeaderMap,
    /// The value of the host header; the client's where there is none.
    pub(crate) host: Option<HeaderValue>,
}

/// Passes a request on and its answer back.
///
/// # Errors
/// 503 `error trying to reach service: ...` when the server cannot be reached or breaks off before it answers.
pub(crate) async fn forward(
    target: &Target,
    outgoing: Outgoing<'_>,
    body: RequestBody,
    upgrade: Option<Upgrade>,
) -> Result<Response<Body>, StatusError> {
    let wanted = upgrade.filter(|_| upgrade::is_upgrade(outgoing.headers));
    match wanted {
        Some(upgrade) => switch(target, outgoing, upgrade).await,
        None => pass(target, outgoing, body).await,
    }
}

impl Outgoing<'_> {
    /// The path with the client's query.
    fn path_and_query(&self) -> String {
        match self.uri.query() {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    fn host(&self, target: &Target) -> Result<HeaderValue, StatusError> {
        if let Some(host) = &self.host {
            return Ok(host.clone());
        }
        let own = self.headers.get(header::HOST).cloned();
        // HTTP/2 says it in the address.
        let own = own.or_else(|| HeaderValue::from_str(self.uri.authority()?.as_str()).ok());
        own.map_or_else(|| HeaderValue::from_str(&target.authority()).map_err(StatusError::internal_error), Ok)
    }
}

async fn pass(target: &Target, outgoing: Outgoing<'_>, body: RequestBody) -> Result<Response<Body>, StatusError> {
    let host = outgoing.host(target)?;
    let mut headers = headers::for_backend(outgoing.headers, outgoing.peer);
    if let Some(rewrite) = &outgoing.rewrite {
        headers.insert(headers::FORWARDED_URI, rewrite.forwarded_uri(&outgoing.path)?);
    }
    headers.extend(outgoing.identity.clone());
    headers.insert(header::HOST, host.clone());
    if !headers.contains_key(header::CONTENT_LENGTH) && !http_body::Body::is_end_stream(&body) {
        // Said outright, or a GET would lose its body.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut request = Request::builder()
        .method(outgoing.method.clone())
        .uri(outgoing.path_and_query())
        .body(body)
        .map_err(|error| StatusError::bad_request(error.to_string()))?;
    *request.headers_mut() = headers;
    let (response, connection) = send(target, request).await.map_err(|why| unreachable(&why))?;
    let (mut parts, body) = response.into_parts();
    headers::clean_answer(&mut parts.headers);
    let body = body.map_err(Into::into);
    let body = match outgoing.rewrite {
        None => Body::boxed(body, connection),
        Some(rewrite) => {
            headers::remove_cors(&mut parts.headers);
            let rewrite = rewrite.from(&target.authority(), &host);
            match rewrite.of_answer(&mut parts.headers)? {
                None => Body::boxed(body, connection),
                Some(html) => Body::stream(html.rewrite(body, connection)),
            }
        }
    };
    Ok(Response::from_parts(parts, body))
}

/// Ends a connection when nobody wants its answer any more.
pub(crate) struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request over a connection of its own. The error is for people, in the words of upstream's dialer.
pub(crate) async fn send<B>(target: &Target, request: Request<B>) -> Result<(Response<Incoming>, Connection), String>
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<crate::http::body::BodyError>,
{
    let io = target.connect().await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a backend broke");
        }
    });
    let connection = Connection(connection.abort_handle());
    let response = sender.send_request(request).await.map_err(|error| connect::broken(&error))?;
    Ok((response, connection))
}

/// Joins the client's connection with one to the server.
async fn switch(target: &Target, outgoing: Outgoing<'_>, upgrade: Upgrade) -> Result<Response<Body>, StatusError> {
    let mut headers = headers::for_upgrade(outgoing.headers, outgoing.peer);
    headers.extend(outgoing.identity.clone());
    let host = outgoing.host(target)?;
    let host = host.to_str().map_err(|error| StatusError::bad_request(error.to_string()))?;
    let request = upgrade::request(outgoing.method.clone(), &outgoing.path_and_query(), host, headers)
        .map_err(|error| StatusError::bad_request(error.to_string()))?;
    let io =
        target.connect().await.map_err(|why| StatusError::internal_error(format!("error dialing backend: {why}")))?;
    let answer = timeout(UPGRADE_TIMEOUT, upgrade::send(io, request).boxed())
        .await
        .map_err(|_| StatusError::internal_error("error dialing backend: i/o timeout"))?
        .map_err(|error| StatusError::internal_error(format!("error dialing backend: {error}")))?;
    match answer {
        Answer::Switched(head, backend) => {
            upgrade.run(move |client| tunnel::tunnel(client, backend, IDLE_TIMEOUT));
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = head.headers;
            Ok(response)
        }
        Answer::Refused(head, body) if head.status.is_client_error() || head.status.is_server_error() => {
            let mut parts = head;
            headers::clean_answer(&mut parts.headers);
            Ok(Response::from_parts(parts, Body::boxed(body.map_err(Into::into), ())))
        }
        Answer::Refused(head, _) => {
            let code = head.status.as_u16();
            Err(StatusError::internal_error(format!("invalid upgrade response: status code {code}")))
        }
    }
}

/// 301 to the same address with a slash at its end, for relative links to work.
pub(crate) fn to_root(uri: &Uri) -> Result<Response<Body>, StatusError> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("{}/{query}", uri.path())).map_err(StatusError::internal_error)?;
    let mut moved = response::text(StatusCode::MOVED_PERMANENTLY, Body::empty());
    moved.headers_mut().insert(header::LOCATION, location);
    Ok(moved)
}

fn unreachable(why: &str) -> StatusError {
    StatusError::service_unavailable(format!("error trying to reach service: {why}"))
}
