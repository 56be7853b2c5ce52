//! A crowd of Services, so that something is measured in a large cluster.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use skep_pki::{Kubeconfig, client_config};

use super::client::{Client, load};
use super::manifest::{bare_service, slice};
use crate::cluster::TestCluster;

/// Endpoints of each Service of the crowd. They are nobody.
const ENDPOINTS: usize = 10;

/// Services of namespace `default`.
pub const SERVICES_PATH: &str = "/api/v1/namespaces/default/services";
/// Its EndpointSlices.
pub const SLICES_PATH: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// A client with the credentials of `kubeconfig` for the API server at `address`.
pub async fn connect(kubeconfig: &Path, address: IpAddr) -> Result<Client> {
    let credentials = Kubeconfig::load(kubeconfig)?.credentials()?;
    let authority = credentials.ca.context("the kubeconfig names no authority")?;
    let tls = client_config(&authority, credentials.identity.as_ref())?;
    Client::connect(SocketAddr::new(address, 6443), tls).await
}

/// Makes the Services of these numbers.
pub async fn make(api: &Arc<Client>, numbers: Range<usize>) -> Result<()> {
    let (api, first) = (Arc::clone(api), numbers.start);
    load(32, numbers.len(), move |number| {
        let api = Arc::clone(&api);
        async move { make_one(&api, first + number).await }
    })
    .await
    .map(drop)
}

async fn make_one(api: &Client, number: usize) -> Result<()> {
    let name = format!("s{number}");
    api.expect(Method::POST, SERVICES_PATH, body(&bare_service(&name, "ClusterIP", 80, "TCP"))).await?;
    let endpoints: Vec<_> =
        (0..ENDPOINTS).map(|i| format!("10.113.{}.{}", number / 40 % 256, number % 25 * 10 + i)).collect();
    api.expect(Method::POST, SLICES_PATH, body(&slice(&name, &endpoints, 8080, "TCP"))).await.map(drop)
}

/// An object as the body of a request.
pub fn body(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Makes the Services of these numbers in a cluster, by a process on its machine that runs [`client`].
pub fn gather(cluster: &TestCluster, numbers: Range<usize>) -> Result<()> {
    let (parts, spec) = (cluster.parts(), cluster.parts().spec());
    let mut client = parts.on_machine(std::env::current_exe()?);
    client.arg("crowd").arg(parts.kubeconfig()).arg(spec.address.to_string());
    xtask::command::output(client.args([numbers.start.to_string(), numbers.end.to_string()])).map(drop)
}

/// What that process does.
pub fn client(kubeconfig: &Path, address: IpAddr, numbers: Range<usize>) -> Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let api = Arc::new(connect(kubeconfig, address).await?);
        make(&api, numbers).await
    })
}
