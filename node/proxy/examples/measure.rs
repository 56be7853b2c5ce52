//! Measures how fast services get into this kernel: `cargo run --release -p skep-proxy --example measure [services
//! [endpoints]]`, as root. It uses maps of its own and touches no traffic.

use std::path::Path;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<usize>());
    let services = numbers.next().transpose()?.unwrap_or(10_000);
    let endpoints = numbers.next().transpose()?.unwrap_or(10);
    let root = format!("/sys/fs/bpf/skep-measure-{}", std::process::id());
    println!("{}", skep_proxy::bench::run(Path::new(&root), services, endpoints)?);
    Ok(())
}
