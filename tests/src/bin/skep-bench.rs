//! `cargo xtask bench` runs this: each row is measured together with the limit it is compared to, in one run.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use skep_tests::bench::{self, bare, change, row};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        // The bare server must be a process of its own, as the server it is compared to is.
        ["bare-server", folder] => bare::serve(folder.as_ref()),
        ["change-client", kubeconfig, address] => address
            .parse()
            .map_err(anyhow::Error::from)
            .and_then(|address| change::client(kubeconfig.as_ref(), address)),
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

fn measure(filter: &str) -> Result<()> {
    let (rows, result) = bench::run(filter);
    print!("{}", row::table(&rows));
    result
}
