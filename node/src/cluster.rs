//! The node's access to the API server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::settings::Access;

/// A client, the server's URL, and the cluster's certificate authority (PEM) if the settings name one.
pub(crate) struct Cluster {
    pub(crate) client: kube::Client,
    pub(crate) url: http::Uri,
    pub(crate) ca: Option<String>,
}

/// Reads the credentials; speaks to nobody yet.
pub(crate) async fn access(access: &Access) -> anyhow::Result<Cluster> {
    let (mut config, ca) = match access {
        Access::Kubeconfig(path) => from_kubeconfig(path).await?,
        Access::Token { server, token, ca } => from_token(server, token, ca.as_ref())?,
        Access::None => bail!("how to reach the API server? Give --kubeconfig FILE, or --server URL and --token T"),
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    let url = config.cluster_url.clone();
    let client = kube::Client::try_from(config).context("the API server's address or credentials")?;
    Ok(Cluster { client, url, ca })
}

async fn from_kubeconfig(path: &PathBuf) -> anyhow::Result<(kube::Config, Option<String>)> {
    let shown = path.display();
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("reading {shown}"))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("in {shown}"))?;
    let ca = skep_pki::Kubeconfig::load(path).and_then(|kubeconfig| kubeconfig.credentials())?.ca;
    Ok((config, ca))
}

fn from_token(server: &str, token: &str, ca: Option<&PathBuf>) -> anyhow::Result<(kube::Config, Option<String>)> {
    let url: http::Uri = server.parse().with_context(|| format!("--server {server:?} is not a URL"))?;
    let mut config = kube::Config::new(url);
    config.auth_info.token = Some(token.to_owned().into());
    let Some(path) = ca else { return Ok((config, None)) };
    let pem = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let certificates = skep_pki::certificates_from_pem(&path.display().to_string(), &pem)?;
    config.root_cert = Some(certificates.into_iter().map(|certificate| certificate.to_vec()).collect());
    Ok((config, Some(pem)))
}
