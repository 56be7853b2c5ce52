//! The connection to containerd's socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Error;

/// Upstream's limit for one CRI message.
const MAX_MESSAGE: usize = 16 << 20;

/// A cheap-to-clone handle on one container runtime.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
    channel: Channel,
}

impl Cri {
    /// Connects to the runtime at `address` (a socket path or `unix://` URL) and asks its version once, so that a wrong
    /// address is an error now and not at the first pod.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        let cri = Self::connect_lazily(address)?;
        cri.version().await.map_err(|error| match error {
            Error::Unavailable(reason) => Error::Connect { socket: cri.socket.clone(), reason },
            other => other,
        })?;
        Ok(cri)
    }

    /// Like [`Cri::connect`], without asking: calls fail with [`Error::Unavailable`] until the runtime is there.
    pub fn connect_lazily(address: &str) -> Result<Self, Error> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        if !path.starts_with('/') {
            return Err(Error::Address(address.to_owned()));
        }
        let socket = PathBuf::from(path);
        let target = socket.clone();
        // The authority every request carries is `localhost`: containerd refuses an empty or odd one.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let target = target.clone();
                async move { UnixStream::connect(target).await.map(TokioIo::new) }
            }));
        Ok(Self { socket, channel })
    }

    /// The socket this handle speaks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE)
    }
}

/// A request that is given up after `timeout`, on both sides.
pub(crate) fn request<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Waits for `call` at most `timeout`: the runtime's own deadline handling is not relied upon.
pub(crate) async fn within<T>(
    what: &'static str,
    timeout: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(timeout, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Error::Timeout(format!("{what}: no answer within {}s", timeout.as_secs()))),
    }
}

/// A request within the namespace that CRI uses, optionally under a lease.
pub(crate) fn scoped<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", tonic::metadata::MetadataValue::from_static("k8s.io"));
    if let Some(Ok(lease)) = lease.map(str::parse) {
        request.metadata_mut().insert("containerd-lease", lease);
    }
    request
}
