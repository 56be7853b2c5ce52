//! Compiles the pause program with the compiler that builds this crate, so that no registry is ever needed for it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=pause/main.rs");
    let (Some(rustc), Some(target), Some(out)) = (env::var_os("RUSTC"), env::var_os("TARGET"), env::var_os("OUT_DIR"))
    else {
        eprintln!("RUSTC, TARGET and OUT_DIR must be set: run this through cargo");
        return ExitCode::FAILURE;
    };
    let status = Command::new(rustc)
        .arg("pause/main.rs")
        .args(["--edition", "2024", "--crate-name", "pause", "--crate-type", "bin"])
        .arg("--target")
        .arg(target)
        .args(["-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "opt-level=z", "-C", "lto=fat"])
        .args(["-C", "codegen-units=1", "-C", "strip=symbols", "-o"])
        .arg(PathBuf::from(out).join("pause"))
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => {
            eprintln!(
                "compiling pause/main.rs failed: {status} (a static C library, e.g. Debian's libc6-dev, is needed)"
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("could not start rustc: {error}");
            ExitCode::FAILURE
        }
    }
}
