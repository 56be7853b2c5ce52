//! Clients of an API server elsewhere. One in this process is spoken to directly, see [`crate::run`].

use std::path::Path;

use anyhow::Context as _;
use kube::Client;
use kube::config::KubeConfigOptions;
use skep_pki::Kubeconfig;

/// An API server elsewhere.
pub(crate) struct Remote {
    pub(crate) client: Client,
    /// The authority of its certificate (PEM), if the kubeconfig names one.
    pub(crate) ca: Option<String>,
}

/// The API server of a kubeconfig.
pub(crate) async fn remote(kubeconfig: &Path) -> anyhow::Result<Remote> {
    let context = || format!("in the kubeconfig {}", kubeconfig.display());
    let ca = Kubeconfig::load(kubeconfig)?.credentials().with_context(context)?.ca;
    let read = kube::config::Kubeconfig::read_from(kubeconfig).with_context(context)?;
    let config =
        kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.with_context(context)?;
    Ok(Remote { client: Client::try_from(config).with_context(context)?, ca })
}
