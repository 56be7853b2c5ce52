//! The PKI of this server and the kubeconfigs it leaves for people and for components in other processes.

use std::path::Path;

use anyhow::Context as _;
use skep_pki::{CertRequest, CertificateInfo, Kubeconfig, Pki, apiserver_sans};

use crate::settings::Settings;

/// A kubeconfig the server keeps in its data directory: file, user and groups.
const KUBECONFIGS: [(&str, &str, &[&str]); 3] = [
    ("admin.conf", "kubernetes-admin", &["system:masters"]),
    ("scheduler.conf", "system:kube-scheduler", &[]),
    ("controller-manager.conf", "system:kube-controller-manager", &[]),
];

/// Loads or makes keys, certificates and kubeconfigs.
pub(crate) fn prepare(settings: &Settings) -> anyhow::Result<Pki> {
    // That of the `kubernetes` Service, and the same place in a second range: a Service there may lead here, too.
    let services = settings.service_cluster_ip_range.iter().filter_map(|range| skep_apiserver::nth_address(range, 1));
    let own = [settings.advertise_address, settings.bind_address];
    let addresses: Vec<_> = services.chain(own).filter(|address| !address.is_unspecified()).collect();
    let sans = apiserver_sans(&settings.hostname, "cluster.local", &addresses);
    let pki = Pki::load_or_create(&settings.pki_dir, &sans)
        .with_context(|| format!("certificates in {}", settings.pki_dir.display()))?;
    for (file, user, groups) in KUBECONFIGS {
        let path = settings.data_dir.join(file);
        if !is_current(&path, &settings.local_url(), &pki) {
            let identity = pki.ca().issue(&CertRequest::client(user, groups.iter().copied()))?;
            Kubeconfig::new(&settings.local_url(), pki.ca().certificate(), user, &identity).write(&path)?;
            tracing::info!(file = %path.display(), user, "wrote kubeconfig");
        }
    }
    Ok(pki)
}

/// Whether a kubeconfig is of this cluster, leads to this server and lasts.
fn is_current(path: &Path, server: &str, pki: &Pki) -> bool {
    let Ok(credentials) = Kubeconfig::load(path).and_then(|config| config.credentials()) else { return false };
    let lasts = |pem: &str| {
        CertificateInfo::from_pem("client certificate", pem)
            .is_ok_and(|info| !info.is_near_expiry(jiff::Timestamp::now()))
    };
    credentials.server == server
        && credentials.ca.as_deref() == Some(pki.ca().certificate())
        && credentials.identity.is_some_and(|identity| lasts(&identity.certificate))
}
