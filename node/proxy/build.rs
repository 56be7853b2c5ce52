//! Builds the kernel programs and hands their objects to the crate, each in a variable of [`OBJECTS`].

#[path = "build/ebpf.rs"]
#[allow(unreachable_pub, reason = "the chores include this file too")]
mod ebpf;

use std::{env, path::PathBuf, process::exit};

/// Objects and the variables that name them.
const OBJECTS: [(&str, &str); 2] = [("skep", "SKEP_EBPF_OBJECT"), ("skep-tcp", "SKEP_TCP_OBJECT")];

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
    // The object of the other crate has a folder of its own there.
    for entry in source.read_dir().into_iter().flatten().flatten().filter(|entry| entry.file_name() != "policy") {
        println!("cargo::rerun-if-changed={}", entry.path().display());
    }
    println!("cargo::rerun-if-changed={}", workspace.join("target/tools/bin/bpf-linker").display());

    // The target folder is marked by cargo; without the mark, stay in our own corner of it.
    let target = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).unwrap_or(&out).to_owned();
    for (name, variable) in OBJECTS {
        match ebpf::build(&workspace, &target.join("ebpf"), name) {
            Ok(object) => println!("cargo::rustc-env={variable}={}", object.display()),
            Err(error) => {
                for line in error.lines() {
                    println!("cargo::error={line}");
                }
                exit(1);
            }
        }
    }
}
