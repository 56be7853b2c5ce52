//! `/exec`, `/attach` and `/portForward`: the runtime is asked where it serves the stream, and the caller's upgrade is
//! passed on to there byte for byte. What is spoken (SPDY or WebSocket) is between the two.

use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skep_api::request::Query;
use skep_cri::api;
use skep_stream::upgrade::{self, Answer};
use skep_stream::{IDLE_TIMEOUT, tunnel, websocket};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Body, text};
use crate::context::Context;
use crate::podext::PodExt;
use crate::view::State;

/// How long the runtime may take to accept an upgrade; upstream's stream creation timeout.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of the runtime's refusal is passed on.
const ERROR_TEXT: usize = 16 * 1024;

/// What a container can be asked for.
#[derive(Clone, Copy)]
pub(super) enum Command {
    /// A command of its own.
    Exec,
    /// Its main process.
    Attach,
}

/// Exec and attach. `of` is namespace, pod and container.
pub(super) async fn command(
    context: &Context,
    command: Command,
    of: (&str, &str, &str),
    request: Request<Incoming>,
) -> Response<Body> {
    let (namespace, pod, container) = of;
    let query = match Query::parse(request.uri().query().unwrap_or_default()) {
        Ok(query) => query,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.message()),
    };
    let streams = match Streams::of(&query) {
        Ok(streams) => streams,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let Some(known) = context.snapshot(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let record = known.view.latest(container).filter(|record| record.state == State::Running);
    let Some(container_id) = record.map(|record| record.id.clone()) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("container not found ({container:?})"));
    };
    let Streams { stdin, stdout, stderr, tty } = streams;
    let url = match command {
        Command::Exec => {
            let cmd = query.all("command").map(str::to_owned).collect();
            context.cri.exec(api::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await
        }
        Command::Attach => {
            // Whether a process has a terminal was settled when it started, whatever the caller believes.
            let tty = known.pod.any_container(container).and_then(|spec| spec.tty).unwrap_or(false);
            context.cri.attach(api::AttachRequest { container_id, tty, stdin, stdout, stderr }).await
        }
    };
    pass_on(url, request).await
}

/// Ports of a pod. Clients over SPDY name them in their streams, those over WebSocket in the query.
pub(super) async fn port_forward(
    context: &Context,
    namespace: &str,
    pod: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let port = match ports(&request) {
        Ok(ports) => ports,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    let Some(known) = context.snapshot(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let Some(pod_sandbox_id) = known.view.sandbox().map(|sandbox| sandbox.id.clone()) else {
        let name = format!("{pod}_{namespace}");
        return text(StatusCode::INTERNAL_SERVER_ERROR, &format!("pod not found ({name:?})"));
    };
    let url = context.cri.port_forward(api::PortForwardRequest { pod_sandbox_id, port }).await;
    pass_on(url, request).await
}

/// Which streams a caller wants.
#[derive(Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn of(query: &Query) -> Result<Self, &'static str> {
        let is_set = |key| query.get(key) == Some("1");
        let (stdin, stdout, stderr, tty) = (is_set("input"), is_set("output"), is_set("error"), is_set("tty"));
        // A terminal has one output.
        let stderr = stderr && !tty;
        if !stdin && !stdout && !stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr");
        }
        Ok(Self { stdin, stdout, stderr, tty })
    }
}

fn ports(request: &Request<Incoming>) -> Result<Vec<i32>, String> {
    if !websocket::is_websocket(request.headers()) {
        return Ok(Vec::new());
    }
    let query = Query::parse(request.uri().query().unwrap_or_default()).map_err(|error| error.message().to_owned())?;
    parse_ports(query.all("port"))
}

fn parse_ports<'a>(values: impl Iterator<Item = &'a str>) -> Result<Vec<i32>, String> {
    let mut ports = Vec::new();
    for text in values.flat_map(|value| value.split(',')) {
        if text.is_empty() {
            return Err(r#"query parameter "port" cannot be empty"#.to_owned());
        }
        let port = text.parse::<u16>().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("unable to parse {text:?} as a port: invalid port"))?;
        ports.push(i32::from(port));
    }
    if ports.is_empty() { Err(r#"query parameter "port" is required"#.to_owned()) } else { Ok(ports) }
}

/// Passes the caller's upgrade on to where the runtime serves the stream.
async fn pass_on(url: Result<String, skep_cri::Error>, mut request: Request<Incoming>) -> Response<Body> {
    let url = match url {
        Ok(url) => url,
        Err(error) => {
            let code = if error.is_not_found() { StatusCode::NOT_FOUND } else { StatusCode::INTERNAL_SERVER_ERROR };
            return text(code, &error.to_string());
        }
    };
    let Some(client) =
        request.extensions_mut().remove::<OnUpgrade>().filter(|_| upgrade::is_upgrade(request.headers()))
    else {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    };
    let asked = timeout(ANSWER_TIMEOUT, ask(&url, request.method().clone(), request.headers()));
    match asked.await.unwrap_or_else(|_| Err("it did not answer in time".to_owned())) {
        Ok(Answer::Switched(head, backend)) => {
            tokio::spawn(async move {
                let outcome = match client.await {
                    Ok(client) => tunnel::tunnel(TokioIo::new(client), backend, IDLE_TIMEOUT).await,
                    Err(error) => Err(error.into()),
                };
                if let Err(error) = outcome {
                    tracing::debug!(%error, "a stream of a container broke");
                }
            });
            Response::from_parts(head, Full::default().map_err(|never| match never {}).boxed())
        }
        Ok(Answer::Refused(head, body)) => {
            let body = Limited::new(body, ERROR_TEXT).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            text(head.status, String::from_utf8_lossy(&body).trim())
        }
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("the container runtime's streaming server: {error}"))
        }
    }
}

async fn ask(url: &str, method: Method, headers: &HeaderMap) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|_| format!("its address makes no sense: {url:?}"))?;
    let authority = uri.authority().filter(|_| uri.scheme() == Some(&Scheme::HTTP));
    let authority = authority.ok_or_else(|| format!("only plain HTTP is spoken with it, but it is at {url:?}"))?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = upgrade::request(method, target, authority.as_str(), upgrade::forwarded(headers))
        .map_err(|error| error.to_string())?;
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80)))
        .await
        .map_err(|error| format!("{authority} cannot be reached: {error}"))?;
    let _ = stream.set_nodelay(true);
    upgrade::send(stream, request).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_no_error_stream_and_nothing_is_not_enough() {
        let streams = |text: &str| Streams::of(&Query::parse(text).unwrap());
        let all = Streams { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(streams("input=1&output=1&error=1&tty=1&command=sh"), Ok(all));
        assert!(streams("tty=1&error=1").is_err());
        assert!(streams("command=sh").is_err());
    }

    #[test]
    fn ports_are_checked() {
        assert_eq!(parse_ports(["80,443", "8080"].into_iter()), Ok(vec![80, 443, 8080]));
        for bad in [&["0"][..], &["x"], &["65536"], &[""], &["80,"], &[]] {
            assert!(parse_ports(bad.iter().copied()).is_err(), "{bad:?}");
        }
    }
}
