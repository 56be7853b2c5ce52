//! The node's HTTPS endpoint: logs, streams, pods, health and metrics for the API server and for those the cluster CA
//! vouches for.

mod certificate;
mod container_logs;
mod streaming;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;
use rustls_pki_types::CertificateDer;
use skep_pki::CertificateInfo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::Error;
use crate::context::Context;
use streaming::Command;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Common name of the API server's client certificate.
const API_SERVER: &str = "kube-apiserver-kubelet-client";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);

/// A bound listener with its certificate.
pub(crate) struct Server {
    context: Arc<Context>,
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Server {
    /// Binds the port, so that a taken one is an error at start.
    pub(crate) async fn bind(context: Arc<Context>) -> Result<Self, Error> {
        let address = SocketAddr::new(context.config.bind_address, context.config.port);
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        let tls = TlsAcceptor::from(Arc::new(certificate::tls_config(&context.config)?));
        tracing::info!(%address, "node server listens");
        Ok(Self { context, listener, tls })
    }

    /// Serves until cancelled (by dropping).
    pub(crate) async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(serve_one(self.context.clone(), self.tls.clone(), stream, peer));
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: waiting helps, spinning does not.
                        tracing::warn!(%error, "node server could not accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve_one(context: Arc<Context>, tls: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
    skep_stream::keepalive::keep_alive(&stream);
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
    };
    let caller = Caller::of(stream.get_ref().1.peer_certificates());
    let service = service_fn(move |request| {
        let (context, caller) = (context.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(&context, &caller, request).await) }
    });
    let mut connection = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // Nobody holds a connection open without asking anything.
    connection.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    if let Err(error) = connection.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%peer, %error, "node server connection ended");
    }
}

/// Who asks, by the client certificate that the cluster CA has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Caller {
    Nobody,
    /// The API server, or an administrator.
    Trusted,
    /// Somebody else of the cluster, by name. Until the API can be asked what they may do here, they may nothing: every
    /// node and every user with a certificate is one of these.
    Other(String),
}

impl Caller {
    fn of(certificates: Option<&[CertificateDer<'_>]>) -> Self {
        let Some(leaf) = certificates.and_then(<[_]>::first) else { return Caller::Nobody };
        let Ok(info) = CertificateInfo::from_der("client certificate", leaf) else { return Caller::Nobody };
        let administrators = |group: &String| group == "system:masters" || group == "kubeadm:cluster-admins";
        if info.common_name == API_SERVER || info.organizations.iter().any(administrators) {
            return Caller::Trusted;
        }
        Caller::Other(info.common_name)
    }
}

async fn answer(context: &Arc<Context>, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    match caller {
        Caller::Trusted => {}
        Caller::Nobody => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Caller::Other(name) => {
            return text(
                StatusCode::FORBIDDEN,
                &format!("Forbidden (user={name}, verb=get, resource=nodes, subresource=proxy)"),
            );
        }
    }
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    match parts.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] | ["runningpods"] => pods(context),
        ["metrics"] => metrics(context),
        ["containerLogs", namespace, pod, container] => {
            let query = request.uri().query().unwrap_or_default();
            container_logs::answer(context, namespace, pod, container, query).await
        }
        ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
            streaming::command(context, Command::Exec, (namespace, pod, container), request).await
        }
        ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
            streaming::command(context, Command::Attach, (namespace, pod, container), request).await
        }
        ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
            streaming::port_forward(context, namespace, pod, request).await
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn pods(context: &Context) -> Response<Body> {
    let pods = context.snapshots().into_iter().map(|known| {
        let mut pod = (*known.pod).clone();
        pod.status = Some((*known.status).clone());
        pod
    });
    let list: List<Pod> = List { items: pods.collect(), ..Default::default() };
    match serde_json::to_vec(&list) {
        Ok(json) => respond(StatusCode::OK, "application/json", Bytes::from(json)),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn metrics(context: &Context) -> Response<Body> {
    let snapshots = context.snapshots();
    let running = |known: &crate::context::Snapshot| known.view.running().count();
    let containers: usize = snapshots.iter().map(|known| running(known)).sum();
    let active = snapshots.iter().filter(|known| known.view.sandbox().is_some()).count();
    let text = format!(
        "# HELP kubelet_running_pods Number of pods that have a running pod sandbox\n\
         # TYPE kubelet_running_pods gauge\n\
         kubelet_running_pods {active}\n\
         # HELP kubelet_running_containers Number of containers currently running\n\
         # TYPE kubelet_running_containers gauge\n\
         kubelet_running_containers{{container_state=\"running\"}} {containers}\n"
    );
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", Bytes::from(text))
}

/// A short plain answer.
pub(crate) fn text(status: StatusCode, message: &str) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", Bytes::from(message.to_owned()))
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_pki::{Authority, CA_VALIDITY, CertRequest, certificates_from_pem};

    #[test]
    fn only_the_api_server_and_administrators_are_trusted() {
        let authority = Authority::create("ca", CA_VALIDITY).unwrap();
        let caller = |user: &str, group: &str| {
            let identity = authority.issue(&CertRequest::client(user, [group])).unwrap();
            Caller::of(Some(&certificates_from_pem("test", &identity.certificate).unwrap()))
        };
        assert_eq!(caller(API_SERVER, "any"), Caller::Trusted);
        assert_eq!(caller("admin", "system:masters"), Caller::Trusted);
        assert_eq!(caller("system:node:a", "system:nodes"), Caller::Other("system:node:a".to_owned()));
        assert_eq!(Caller::of(None), Caller::Nobody);
    }
}
