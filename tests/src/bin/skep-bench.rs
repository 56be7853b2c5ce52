//! `cargo xtask bench` runs this: each row is measured together with the limit it is compared to, in one run.
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, Result};
use skep_tests::bench::{self, bare, change, crowd, reconcile, row};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        // The bare server must be a process of its own, as the server it is compared to is.
        ["bare-server", folder] => bare::serve(folder.as_ref()),
        ["change-client", kubeconfig, address] => {
            parse(address).and_then(|address| change::client(kubeconfig.as_ref(), address))
        }
        ["crowd", kubeconfig, address, from, to] => make_crowd(kubeconfig, address, from, to),
        // Processes of their own, because one's memory is measured, and it must not have that of the other.
        ["reconcile-fill", root] => reconcile::fill(root.as_ref()),
        ["reconcile", root] => reconcile::restart(root.as_ref()),
        [] => measure(""),
        [filter] => measure(filter),
        _ => Err(anyhow::anyhow!("usage: skep-bench [ROW]")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make_crowd(kubeconfig: &str, address: &str, from: &str, to: &str) -> Result<()> {
    crowd::client(kubeconfig.as_ref(), parse(address)?, parse(from)?..parse(to)?)
}

fn parse<T: FromStr<Err: Error + Send + Sync + 'static>>(text: &str) -> Result<T> {
    text.parse().with_context(|| format!("not valid: {text}"))
}

fn measure(filter: &str) -> Result<()> {
    let (rows, result) = bench::run(filter);
    print!("{}", row::table(&rows));
    result
}
