//! The limit of a GET: a server of hyper and rustls that returns fixed bytes and does nothing else.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use skep_pki::{Authority, CertRequest, Identity, ReloadableIdentity, client_config, server_config};
use tokio_rustls::TlsAcceptor;
use xtask::process::Daemon;
use xtask::wait;

use super::client::{Client, Protocol};

/// Longer bodies are streamed in chunks of this size, as lists are.
const CHUNK: usize = 64 * 1024;

/// A running bare server; it ends when this is dropped.
pub struct Bare {
    daemon: Daemon,
    /// Where it listens.
    pub address: SocketAddr,
    ca: String,
}

impl Bare {
    /// Starts a process that answers every request with `body`; its files lie in `folder`.
    pub fn start(folder: &Path, body: &[u8]) -> Result<Self> {
        let authority = Authority::create("bare", Duration::from_secs(86_400))?;
        let identity = authority.issue(&CertRequest::server("bare", [Ipv4Addr::LOCALHOST.to_string()]))?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("body"), body)?;
        fs::write(folder.join("crt"), &identity.certificate)?;
        fs::write(folder.join("key"), &identity.key)?;
        let daemon = Daemon::new("bare", folder);
        daemon.start(std::process::Command::new(std::env::current_exe()?).arg("bare-server").arg(folder))?;
        let address = wait::until("the bare server's address", Duration::from_secs(10), || {
            daemon.check()?;
            let text = fs::read_to_string(folder.join("address")).context("not written yet")?;
            Ok(text.parse()?)
        })?;
        Ok(Self { daemon, address, ca: authority.certificate().to_owned() })
    }

    /// A client that trusts it.
    pub async fn client(&self, protocol: Protocol, connections: usize) -> Result<Client> {
        Client::connect_with(self.address, client_config(&self.ca, None)?, protocol, connections).await
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // It holds nothing; an error means it is gone already.
        let _ = self.daemon.kill();
    }
}

/// What the process does.
pub fn serve(folder: &Path) -> Result<()> {
    let identity =
        Identity { certificate: fs::read_to_string(folder.join("crt"))?, key: fs::read_to_string(folder.join("key"))? };
    let body = Bytes::from(fs::read(folder.join("body"))?);
    let mut tls = server_config(ReloadableIdentity::new(&identity)?, None)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let temporary = folder.join("address.new");
        fs::write(&temporary, listener.local_addr()?.to_string())?;
        fs::rename(temporary, folder.join("address"))?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (tls, body) = (tls.clone(), body.clone());
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let answer = service_fn(move |_| {
                    let mut response = Response::new(Chunks(body.clone()));
                    let json = HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    async { Ok::<_, Infallible>(response) }
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                // A client that hangs up has what it wanted.
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

/// Bytes at hand, in chunks.
struct Chunks(Bytes);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.0.len().min(CHUNK);
        Poll::Ready((length > 0).then(|| Ok(Frame::data(self.0.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
