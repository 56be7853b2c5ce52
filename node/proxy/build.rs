//! Builds the kernel programs and hands their object to the crate as `$SKEP_EBPF_OBJECT`.

#[path = "build/ebpf.rs"]
#[allow(unreachable_pub, reason = "the chores include this file too")]
mod ebpf;

use std::{env, path::PathBuf, process::exit};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it for build scripts"));
    // The workspace's own folder, two above node/proxy.
    let workspace = manifest.join("../..");
    let workspace = workspace.canonicalize().unwrap_or(workspace);

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let source = workspace.join("ebpf/src");
    println!("cargo::rerun-if-changed={}", workspace.join("ebpf/Cargo.toml").display());
    println!("cargo::rerun-if-changed={}", workspace.join("ebpf/common").display());
    // The other object of the package has a folder of its own there.
    for entry in source.read_dir().into_iter().flatten().flatten().filter(|entry| entry.file_name() != "policy") {
        println!("cargo::rerun-if-changed={}", entry.path().display());
    }
    println!("cargo::rerun-if-changed={}", workspace.join("target/tools/bin/bpf-linker").display());

    // The target folder is marked by cargo; without the mark, stay in our own corner of it.
    let target = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).unwrap_or(&out).to_owned();
    match ebpf::build(&workspace, &target.join("ebpf"), "skep") {
        Ok(object) => println!("cargo::rustc-env=SKEP_EBPF_OBJECT={}", object.display()),
        Err(error) => {
            for line in error.lines() {
                println!("cargo::error={line}");
            }
            exit(1);
        }
    }
}
