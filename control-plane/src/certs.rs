//! `skep-server certs`: what the certificates are, and new ones.

use std::io::Write as _;

use anyhow::ensure;

use crate::cli::{CertsAction, CertsCommand};

pub(crate) fn execute(command: CertsCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match command.action {
        CertsAction::List { dir } => {
            let pki = dir.pki_dir();
            let entries = skep_pki::list(&pki)?;
            ensure!(!entries.is_empty(), "no certificates in {}: `skep-server run` makes them", pki.display());
            writeln!(out, "{:<26} {:<32} {:<20} ISSUER", "NAME", "SUBJECT", "EXPIRES")?;
            for entry in entries {
                let info = entry.info;
                let until = info.not_after.strftime("%Y-%m-%dT%H:%M:%SZ");
                writeln!(out, "{:<26} {:<32} {until:<20} {}", entry.name, info.common_name, info.issuer)?;
            }
        }
        CertsAction::Renew { dir, names } => {
            for name in skep_pki::renew(&dir.pki_dir(), &names)? {
                writeln!(out, "renewed {name}")?;
            }
        }
    }
    Ok(())
}
