//! Installing what is missing: each thing is named with its reason, and nothing is asked when no one is there to answer.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;
use xtask::command::{self, find, run_logged};
use xtask::workspace;

use super::steps::step;

/// What `setup` takes.
#[derive(Args, Clone, Default)]
#[group(skip)]
pub(crate) struct Options {
    /// Do not ask before installing
    #[arg(long)]
    yes: bool,
}

/// A thing the project needs from the system.
struct Need {
    /// Is it there already?
    present: fn() -> bool,
    /// The Debian packages that bring it.
    packages: &'static [&'static str],
    why: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        present: || find("protoc").is_some() && Path::new("/usr/include/google/protobuf/descriptor.proto").exists(),
        packages: &["protobuf-compiler", "libprotobuf-dev"],
        why: "generates the etcd client",
    },
    Need { present: || find("etcd").is_some(), packages: &["etcd-server"], why: "stores the cluster's state" },
    Need { present: || find("containerd").is_some(), packages: &["containerd"], why: "runs the containers" },
    Need { present: || find("runc").is_some(), packages: &["runc"], why: "starts each container" },
    Need { present: || find("ip").is_some(), packages: &["iproute2"], why: "makes network namespaces for the tests" },
    Need { present: || find("ethtool").is_some(), packages: &["ethtool"], why: "sets offloads of the tests' devices" },
    Need { present: || find("curl").is_some(), packages: &["curl"], why: "asks the demo's Service" },
    Need {
        present: || find("busybox").is_some(),
        packages: &["busybox-static"],
        why: "is the shell in the demo's image",
    },
    Need {
        // Debian parts what `venv` needs from Python itself.
        present: || command::output(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_ok(),
        packages: &["python3", "python3-venv"],
        why: "runs the tests of Python's Kubernetes client",
    },
    Need { present: || find("kubectl").is_some(), packages: &["kubernetes-client"], why: "speaks to the cluster" },
];

/// What `bpf-linker` is built with where rustup's nightly cannot be had with its library's source: Debian's matched set.
const DEBIAN_BPF: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev", "libzstd-dev", "zlib1g-dev"];

/// The version of bpf-linker that goes with LLVM 22.
const BPF_LINKER: &str = "0.13.0";

/// PyPI's client library of the API level we serve; the end-to-end tests run a workload with it.
const PYTHON_CLIENT: &str = "kubernetes==35.0.0";

pub(crate) fn run_all(options: &Options) -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !(need.present)()).collect();
    for need in &missing {
        eprintln!("missing: {} ({})", need.packages.join(", "), need.why);
    }
    let mut packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    let debian = find("apt-get").is_some();
    if !bpf_toolchain() {
        if !debian {
            return Err(bpf_help());
        }
        eprintln!("missing: {} (compiles the kernel programs)", DEBIAN_BPF.join(", "));
        packages.extend(DEBIAN_BPF);
    }
    if !packages.is_empty() {
        if !debian {
            bail!(
                "this is no Debian: install what is named above with your system's package manager, then run this again"
            );
        }
        consent(options, &packages)?;
        install(&packages)?;
    }
    if find("bpf-linker").is_none() {
        eprintln!("missing: bpf-linker (links the kernel programs)");
        step("install bpf-linker", install_bpf_linker)?;
    }
    if find("cargo-nextest").is_none() {
        eprintln!("missing: cargo-nextest (runs the tests)");
        // Unoptimised: it builds in a third of the time, and it only waits for tests.
        step("install cargo-nextest", || cargo_install(&["cargo-nextest", "--locked", "--debug"], &[]))?;
    }
    if !python_folder().join(PYTHON_CLIENT).exists() {
        eprintln!("missing: {PYTHON_CLIENT} (is tested against the cluster)");
        step("install PyPI's Kubernetes client", install_python_client)?;
    }
    Ok(())
}

pub(crate) fn run(options: &Options) -> Result<()> {
    run_all(options)?;
    eprintln!("everything needed is installed");
    Ok(())
}

/// Is there a compiler with its library's source for the kernel's target? The build script of node/proxy looks in the same places.
fn bpf_toolchain() -> bool {
    debian_toolchain() || nightly_source()
}

fn debian_toolchain() -> bool {
    Path::new("/usr/bin/rustc").exists() && Path::new("/usr/lib/rustlib/src/rust/library/core").exists()
        || Path::new("/usr/bin/rustc").exists() && debian_source().is_some()
}

/// Debian keeps the library's source below its own prefix; rustc says where that is.
fn debian_source() -> Option<std::path::PathBuf> {
    let root = command::output(Command::new("/usr/bin/rustc").args(["--print", "sysroot"])).ok()?;
    let source = Path::new(root.trim()).join("lib/rustlib/src/rust/library/core");
    source.exists().then_some(source)
}

fn nightly_source() -> bool {
    let root = command::output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]));
    root.is_ok_and(|root| Path::new(root.trim()).join("lib/rustlib/src/rust/library/core").exists())
}

fn bpf_help() -> anyhow::Error {
    anyhow::anyhow!(
        "no compiler for the kernel programs: run `rustup toolchain install nightly --component rust-src` and `cargo install bpf-linker`, then run this again"
    )
}

fn consent(options: &Options, packages: &[&str]) -> Result<()> {
    if options.yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    eprint!("install {} with apt-get? [Y/n] ", packages.join(" "));
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "" | "y" | "Y" | "yes") {
        bail!("nothing was installed");
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let log = workspace::target().join("setup.log");
    // sudo may ask for its password on the terminal.
    let apt = || if nix::unistd::geteuid().is_root() { Command::new("apt-get") } else { sudo("apt-get") };
    step("apt-get update", || run_logged(apt().args(["update", "--quiet"]), &log))?;
    step(&format!("apt-get install {}", packages.join(" ")), || {
        let mut command = apt();
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages);
        run_logged(&mut command, &log)
    })
}

fn sudo(program: &str) -> Command {
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

fn install_bpf_linker() -> Result<()> {
    if debian_toolchain() && Path::new("/usr/lib/llvm-22").exists() {
        let llvm = [("LLVM_SYS_221_PREFIX", "/usr/lib/llvm-22"), ("LLVM_PREFIX", "/usr/lib/llvm-22")];
        let features = ["--no-default-features", "--features", "llvm-22"];
        return cargo_install(&[&["bpf-linker", "--version", BPF_LINKER], &features[..]].concat(), &llvm);
    }
    cargo_install(&["bpf-linker"], &[])
}

fn python_folder() -> PathBuf {
    workspace::tools().join("python")
}

/// Makes a virtual environment for this checkout only. A file named after the version says that it is complete.
fn install_python_client() -> Result<()> {
    let (folder, log) = (python_folder(), workspace::target().join("setup.log"));
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    run_logged(Command::new("python3").args(["-m", "venv"]).arg(&folder), &log)?;
    run_logged(Command::new(workspace::python()).args(["-m", "pip", "install", "--quiet", PYTHON_CLIENT]), &log)?;
    Ok(std::fs::write(folder.join(PYTHON_CLIENT), "")?)
}

/// Installs a tool for this checkout only.
fn cargo_install(args: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let mut command = Command::new("cargo");
    command.arg("install").args(args).arg("--root").arg(workspace::tools()).envs(env.iter().copied());
    run_logged(&mut command, &workspace::target().join("setup.log"))
}

/// Cargo, with this checkout's own tools on its path.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(workspace::tools().join("bin")).chain(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(folders) {
        command.env("PATH", path);
    }
    command.current_dir(workspace::root());
    command
}

/// Runs cargo with `args`, its output going to the terminal.
pub(crate) fn run_cargo(args: &[&str]) -> Result<()> {
    command::run(cargo().args(args))
}
