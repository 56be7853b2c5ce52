//! Clients of an API server elsewhere. One in this process is spoken to directly, see [`crate::run`].

use std::path::Path;

use anyhow::Context as _;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A client by kubeconfig.
pub(crate) async fn remote(kubeconfig: &Path) -> anyhow::Result<Client> {
    let context = || format!("in the kubeconfig {}", kubeconfig.display());
    let read = Kubeconfig::read_from(kubeconfig).with_context(context)?;
    let config =
        kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.with_context(context)?;
    Client::try_from(config).with_context(context)
}
