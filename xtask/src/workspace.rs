//! Where things are in the checkout.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> PathBuf {
    // xtask's manifest lies one level below the root; the binary is always run from the checkout that built it.
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Cargo's target folder: everything that is built or cached lies below it.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Tools the set-up step installs for this checkout only.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The Python that has PyPI's Kubernetes client, once the set-up step has installed it.
pub fn python() -> PathBuf {
    tools().join("python/bin/python")
}

/// The folder with the built programs of `profile` (`debug` or `release`).
pub fn programs(profile: Profile) -> PathBuf {
    target().join(profile.folder())
}

/// Which of cargo's profiles to build and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Fast to build.
    Debug,
    /// Fast to run.
    Release,
}

impl Profile {
    /// The folder below [`target`] that cargo uses for it.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }

    /// The arguments cargo takes for it.
    pub fn cargo_args(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &[],
            Self::Release => &["--release"],
        }
    }
}
