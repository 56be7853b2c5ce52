//! `skep-server certs`: what the certificates are, and new ones.

use std::io::Write as _;

use anyhow::ensure;

use crate::cli::{CertsAction, CertsCommand};

const HINT: &str = "`skep-server run` makes them; another directory is named by --data-dir or --pki-dir";

pub(crate) fn execute(command: CertsCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command.action {
        CertsAction::List { dir } => {
            let pki = dir.pki_dir();
            let entries = skep_pki::list(&pki)?;
            ensure!(!entries.is_empty(), "no certificates in {}: {HINT}", pki.display());
            writeln!(out, "{:<26} {:<32} {:<20} ISSUER", "NAME", "SUBJECT", "EXPIRES")?;
            for entry in entries {
                let info = entry.info;
                let until = info.not_after.strftime("%Y-%m-%dT%H:%M:%SZ");
                writeln!(out, "{:<26} {:<32} {until:<20} {}", entry.name, info.common_name, info.issuer)?;
            }
        }
        CertsAction::Renew { dir, names } => {
            let pki = dir.pki_dir();
            ensure!(pki.is_dir(), "no certificates in {}: {HINT}", pki.display());
            for name in skep_pki::renew(&pki, &names)? {
                writeln!(out, "renewed {name}")?;
            }
        }
    }
    Ok(())
}
