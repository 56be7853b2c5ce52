//! How the kernel programs are built: which toolchain, which linker, which command. Plain `std`, so that the build script
//! and the chores can both include it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

const ADVICE: &str = "run `cargo xtask setup`, which installs what the kernel programs need";

/// Builds the object `name`, a binary of package `skep-ebpf` of `workspace`, into `target` and returns its path.
///
/// # Errors
/// A text for people: what is missing and how to get it, or what the compiler said.
pub fn build(workspace: &Path, target: &Path, name: &str) -> Result<PathBuf, String> {
    let linker = linker(workspace)?;
    let mut command = toolchain()?;
    command
        .current_dir(workspace.join("ebpf"))
        .args(["build", "--release", "--package", "skep-ebpf", "--bin", name, "--target", "bpfel-unknown-none"])
        // The lock file is the outer build's to change.
        .args(["--locked", "-Z", "build-std=core", "--target-dir"])
        .arg(target)
        .env("PATH", path_with(linker.parent()));
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}; {ADVICE}"))?;
    if !output.status.success() {
        return Err(format!("the kernel programs do not build:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    let object = target.join("bpfel-unknown-none/release").join(name);
    if !object.is_file() {
        return Err(format!("the build of the kernel programs left no {}", object.display()));
    }
    Ok(object)
}

/// A cargo with its compiler and that compiler's library source: Debian's matched set, else rustup's nightly.
fn toolchain() -> Result<Command, String> {
    if Path::new("/usr/bin/rustc").is_file()
        && Path::new("/usr/bin/cargo").is_file()
        && Path::new("/usr/lib/rustlib/src/rust/library/core").is_dir()
    {
        let mut command = clean("/usr/bin/cargo");
        // A stable compiler must be told that building its own library is meant.
        command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        return Ok(command);
    }
    let sysroot = clean("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    match sysroot {
        Some(sysroot) if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() => {
            let mut command = clean("rustup");
            command.args(["run", "nightly", "cargo"]);
            Ok(command)
        }
        Some(_) => Err(format!("rustup's nightly toolchain lacks the component rust-src; {ADVICE}")),
        None => Err(format!(
            "no Rust toolchain with library source for the kernel programs (neither /usr/lib/rustlib/src of a \
             distribution's rustc nor rustup's nightly); {ADVICE}"
        )),
    }
}

/// `bpf-linker`, where setup puts it, on PATH, or where cargo installs by default.
fn linker(workspace: &Path) -> Result<PathBuf, String> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(workspace.join("target/tools/bin"))
        .chain(env::split_paths(&path))
        .chain(home.map(|home| home.join("bin")))
        .map(|dir| dir.join("bpf-linker"))
        .find(|linker| linker.is_file())
        .ok_or_else(|| format!("bpf-linker is missing; {ADVICE}"))
}

fn path_with(first: Option<&Path>) -> OsString {
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(first.map(Path::to_owned).into_iter().chain(env::split_paths(&rest))).unwrap_or(rest)
}

/// A command without the settings of the cargo around this one: they are for another compiler and another target.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keep = matches!(&*text, "CARGO_HOME" | "CARGO_TERM_COLOR" | "RUSTUP_HOME")
            || text.starts_with("CARGO_HTTP_")
            || text.starts_with("CARGO_NET_")
            || text.starts_with("CARGO_REGISTRIES_");
        let ours = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"];
        if (!keep && ours.iter().any(|prefix| text.starts_with(prefix)))
            || text.starts_with("__CARGO")
            || matches!(&*text, "TARGET" | "HOST" | "OUT_DIR" | "LD_LIBRARY_PATH")
        {
            command.env_remove(&name);
        }
    }
    command
}
