//! What `/version` says.

use serde_json::{Value, json};

/// The Kubernetes API level served.
pub const KUBERNETES: &str = "v1.35.0";

/// The answer of `/version`.
pub(crate) fn info() -> Value {
    json!({
        "major": "1",
        "minor": "35",
        "emulationMajor": "1",
        "emulationMinor": "35",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "34",
        "gitVersion": format!("{KUBERNETES}+skep.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": option_env!("SKEP_GIT_COMMIT").unwrap_or_default(),
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, go_arch()),
    })
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
