//! `pods/exec`, `pods/attach` and `pods/portforward`: the client's upgrade is passed on to the kubelet byte for byte, but
//! for two protocols that runtimes do not speak and that end here: `v5.channel.k8s.io` and port-forward inside a WebSocket
//! (KEP-4006).

use std::{fmt::Write as _, sync::Arc};

use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use skep_api::{
    request::{Query, RequestInfo, Verb},
    status::StatusError,
};
use skep_stream::{
    IDLE_TIMEOUT,
    remote_command::{self, Streams},
    spdy_tunnel, tunnel,
    upgrade::{self, Answer, forwarded, spdy_headers},
    websocket,
};

use super::location;
use crate::{
    admission::Operation,
    dispatch::Call,
    http::{body::Body, response},
    kubelet_proxy::{ERROR_TEXT, Endpoint, KubeletProxy},
    registry::generic::Registry,
    upgrade::Upgrade,
};

/// Whether a request is for one of these.
pub(crate) fn is_stream(request: &RequestInfo) -> bool {
    matches!(request.subresource.as_deref(), Some("exec" | "attach" | "portforward"))
        && request.resource.as_deref() == Some("pods")
        && request.group.is_empty()
}

/// The request whose permission a stream needs besides its own. A WebSocket begins with a GET, but whoever may only read
/// must not run commands; since v1.35 upstream asks the same.
pub(crate) fn as_create(request: &RequestInfo) -> Option<RequestInfo> {
    (is_stream(request) && request.verb == Verb::Get).then(|| RequestInfo { verb: Verb::Create, ..request.clone() })
}

pub(crate) async fn answer(mut call: Call<'_>, registry: &Arc<Registry>) -> Result<Response<Body>, StatusError> {
    let (Verb::Get | Verb::Create, Some(name)) = (call.request.verb, call.request.name.as_deref()) else {
        return Err(call.wrong_method());
    };
    let query = &call.request.query;
    let kind = call.request.subresource.as_deref().unwrap_or_default();
    let ports = if kind == "portforward" { ports(query)? } else { String::new() };
    let namespace = call.namespace(registry);
    let object = registry.get_object(namespace, name).await?;
    let pod = object.as_any().downcast_ref::<Pod>().ok_or_else(StatusError::generic_not_found)?;
    let scope = call.scope(registry, false);
    let attributes = registry.attributes(Operation::Connect, &scope, name, kind);
    registry.admission.connect(&attributes, || options(kind, query)).await?;
    let container = match kind {
        "portforward" => String::new(),
        _ => location::container(pod, query.get("container").unwrap_or_default())?,
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if node.is_empty() {
        return Err(StatusError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let endpoint = location::kubelet(call.registries, node).await?;
    let streams = streams(query);
    let namespace = namespace.unwrap_or_default();
    let target = match kind {
        "exec" => format!("/exec/{namespace}/{name}/{container}{}", parameters(streams, query.all("command"))),
        "attach" => format!("/attach/{namespace}/{name}/{container}{}", parameters(streams, std::iter::empty())),
        _ => format!("/portForward/{namespace}/{name}{ports}"),
    };
    let upgrade = call.upgrade.take().filter(|_| upgrade::is_upgrade(call.headers));
    let upgrade = upgrade.ok_or_else(|| StatusError::bad_request("Upgrade request required"))?;
    let backend = Backend { kubelet: call.reach.kubelet.clone(), endpoint, target };
    let method = if call.request.verb == Verb::Get { Method::GET } else { Method::POST };
    if kind == "portforward" && websocket::offers(call.headers, spdy_tunnel::PORT_FORWARD) {
        backend.port_forward(call.headers, upgrade).await
    } else if kind != "portforward" && websocket::offers(call.headers, remote_command::V5) {
        backend.translate(call.headers, upgrade, streams)
    } else {
        backend.pass_on(method, call.headers, upgrade).await
    }
}

/// What admission is shown: upstream's options of the request, as JSON.
fn options(kind: &str, query: &Query) -> Value {
    let kind = match kind {
        "exec" => "PodExecOptions",
        "attach" => "PodAttachOptions",
        _ => "PodPortForwardOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if kind == "PodPortForwardOptions" {
        options["ports"] = query.all("ports").filter_map(|port| port.parse::<i32>().ok()).collect();
        return options;
    }
    let Streams { stdin, stdout, stderr, tty } = streams(query);
    for (key, on) in [("stdin", stdin), ("stdout", stdout), ("stderr", stderr), ("tty", tty)] {
        if on {
            options[key] = true.into();
        }
    }
    if let Some(container) = query.get("container").filter(|container| !container.is_empty()) {
        options["container"] = container.into();
    }
    if kind == "PodExecOptions" {
        options["command"] = query.all("command").collect();
    }
    options
}

/// Where a stream goes.
struct Backend {
    kubelet: KubeletProxy,
    endpoint: Endpoint,
    target: String,
}

impl Backend {
    async fn dial(&self, method: Method, headers: HeaderMap) -> Result<Answer, String> {
        self.kubelet.upgrade(&self.endpoint, method, &self.target, headers).await
    }

    /// The kubelet speaks what the client speaks.
    async fn pass_on(
        self,
        method: Method,
        headers: &HeaderMap,
        upgrade: Upgrade,
    ) -> Result<Response<Body>, StatusError> {
        match self.dial(method, forwarded(headers)).await.map_err(unreachable)? {
            Answer::Switched(head, backend) => {
                upgrade.run(move |client| tunnel::tunnel(client, backend, IDLE_TIMEOUT));
                Ok(switched(head.headers))
            }
            Answer::Refused(head, body) => Ok(refused(head.status, body).await),
        }
    }

    /// The client speaks SPDY inside a WebSocket.
    async fn port_forward(self, headers: &HeaderMap, upgrade: Upgrade) -> Result<Response<Body>, StatusError> {
        let accepted = websocket::accept(headers, spdy_tunnel::PORT_FORWARD).map_err(StatusError::bad_request)?;
        let spdy = spdy_headers(spdy_tunnel::PORT_FORWARD_INNER);
        match self.dial(Method::POST, spdy).await.map_err(unreachable)? {
            Answer::Switched(_, backend) => {
                upgrade.run(move |client| spdy_tunnel::tunnel(client, backend, IDLE_TIMEOUT));
                Ok(switched(accepted))
            }
            Answer::Refused(head, body) => Ok(refused(head.status, body).await),
        }
    }

    /// The client speaks the WebSocket protocol that can end standard input. As upstream, it is accepted before the
    /// kubelet is asked; what the kubelet refuses is told in the stream.
    fn translate(self, headers: &HeaderMap, upgrade: Upgrade, streams: Streams) -> Result<Response<Body>, StatusError> {
        let accepted = websocket::accept(headers, remote_command::V5).map_err(StatusError::bad_request)?;
        upgrade.run(move |client| async move {
            let dial = async {
                let failed = |why: String| StatusError::internal_error(why).into_status();
                match self.dial(Method::POST, spdy_headers(remote_command::V4)).await.map_err(failed)? {
                    Answer::Switched(_, backend) => Ok(backend),
                    Answer::Refused(_, body) => {
                        Err(failed(format!("unable to upgrade connection: {}", error_text(body).await)))
                    }
                }
            };
            remote_command::translate(client, dial, streams, IDLE_TIMEOUT).await
        });
        Ok(switched(accepted))
    }
}

fn unreachable(why: String) -> StatusError {
    StatusError::new(500, "", why)
}

fn switched(headers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

async fn refused(code: StatusCode, body: Incoming) -> Response<Body> {
    response::text(code, error_text(body).await)
}

async fn error_text(body: Incoming) -> String {
    let body = Limited::new(body, ERROR_TEXT).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&body).trim().to_owned()
}

fn streams(query: &Query) -> Streams {
    Streams {
        stdin: query.is_set("stdin"),
        stdout: query.is_set("stdout"),
        stderr: query.is_set("stderr"),
        tty: query.is_set("tty"),
    }
}

/// What the kubelet is asked for, in upstream's order.
fn parameters<'a>(streams: Streams, command: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::new();
    let mut push = |key: &str, value: &str| {
        let separator = if out.is_empty() { '?' } else { '&' };
        let _ = write!(out, "{separator}{key}={value}");
    };
    for word in command {
        push("command", &escape(word));
    }
    let Streams { stdin, stdout, stderr, tty } = streams;
    for (key, _) in [("error", stderr), ("input", stdin), ("output", stdout), ("tty", tty)].iter().filter(|(_, on)| *on)
    {
        push(key, "1");
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The ports of a WebSocket's port-forward, checked, as a query. Over SPDY each stream names its own.
fn ports(query: &Query) -> Result<String, StatusError> {
    let mut ports = Vec::new();
    for text in query.all("ports") {
        let port: i32 = text
            .parse()
            .map_err(|_| StatusError::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?;
        ports.push(port.to_string());
    }
    Ok(if ports.is_empty() { String::new() } else { format!("?port={}", escape(&ports.join(","))) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, uri: &str) -> RequestInfo {
        RequestInfo::parse(&method, &uri.parse().unwrap()).unwrap()
    }

    #[test]
    fn the_kubelet_gets_every_word_of_the_command() {
        let query = Query::parse("command=sh&command=-c&command=echo+%22a%26b%22&stdin=true&stdout=1&tty=").unwrap();
        assert_eq!(
            parameters(streams(&query), query.all("command")),
            "?command=sh&command=-c&command=echo%20%22a%26b%22&input=1&output=1&tty=1"
        );
        assert_eq!(parameters(Streams::default(), std::iter::empty()), "");
    }

    #[test]
    fn a_stream_by_get_needs_the_permission_to_create() {
        let get = request(Method::GET, "/api/v1/namespaces/a/pods/b/exec?command=sh");
        assert_eq!(as_create(&get).unwrap().verb, Verb::Create);
        assert!(as_create(&request(Method::POST, "/api/v1/namespaces/a/pods/b/attach")).is_none());
        assert!(as_create(&request(Method::GET, "/api/v1/namespaces/a/pods/b/log")).is_none());
        assert!(as_create(&request(Method::GET, "/apis/x.io/v1/namespaces/a/pods/b/exec")).is_none());
    }

    #[test]
    fn ports_are_numbers() {
        let ports = |text: &str| ports(&Query::parse(text).unwrap());
        assert_eq!(ports("ports=80&ports=443").unwrap(), "?port=80%2C443");
        assert_eq!(ports("").unwrap(), "");
        assert_eq!(ports("ports=x").unwrap_err().code(), 400);
    }
}
