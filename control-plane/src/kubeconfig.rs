//! `skep-server kubeconfig`: credentials for a user, made with the cluster's authority.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use skep_pki::{Authority, CertRequest, Kubeconfig};

use crate::cli::KubeconfigCommand;

const HINT: &str = "`skep-server run` makes it; another directory is named by --data-dir or --pki-dir";

pub(crate) fn execute(command: KubeconfigCommand) -> anyhow::Result<()> {
    ensure!(!command.user.is_empty(), "--user must not be empty");
    let pki = command.dir.pki_dir();
    let read = |name: &str| {
        let path = pki.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {} ({HINT})", path.display()))
    };
    let authority = Authority::from_pem(&pki.join("ca.crt").display().to_string(), &read("ca.crt")?, &read("ca.key")?)?;
    let server = match command.server {
        Some(server) => server,
        None => {
            let admin = command.dir.data_dir().join("admin.conf");
            Kubeconfig::load(&admin)
                .and_then(|config| config.credentials())
                .context("where is the API server? give --server URL")?
                .server
        }
    };
    ensure!(server.starts_with("https://"), "--server must be a URL, https://HOST:PORT, not {server:?}");
    let mut request = CertRequest::client(&command.user, command.groups.iter().filter(|group| !group.is_empty()));
    request.validity = Duration::from_secs(u64::from(command.days) * 24 * 60 * 60);
    let identity = authority.issue(&request)?;
    let kubeconfig = Kubeconfig::new(&server, authority.certificate(), &command.user, &identity);
    match command.out {
        Some(path) => kubeconfig.write(&path)?,
        None => std::io::stdout().lock().write_all(kubeconfig.to_yaml()?.as_bytes())?,
    }
    Ok(())
}
