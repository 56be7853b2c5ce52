//! Builds the kernel programs and hands the object that enforces policies to the crate as `$SKEP_POLICY_OBJECT`.

#[path = "../proxy/build/ebpf.rs"]
#[allow(unreachable_pub, reason = "the chores include this file too")]
mod ebpf;

use std::{env, path::PathBuf, process::exit};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for build scripts"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it for build scripts"));
    let workspace = manifest.join("../..");
    let workspace = workspace.canonicalize().unwrap_or(workspace);

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../proxy/build");
    for path in ["src/policy", "Cargo.toml", "common/src", "common/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join("ebpf").join(path).display());
    }
    println!("cargo::rerun-if-changed={}", workspace.join("target/tools/bin/bpf-linker").display());

    // The target folder is marked by cargo; without the mark, stay in our own corner of it.
    let target = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).unwrap_or(&out).to_owned();
    match ebpf::build(&workspace, &target.join("ebpf"), "skep-policy") {
        Ok(object) => println!("cargo::rustc-env=SKEP_POLICY_OBJECT={}", object.display()),
        Err(error) => {
            for line in error.lines() {
                println!("cargo::error={line}");
            }
            exit(1);
        }
    }
}
