//! The images of the demo and the tests.

use std::path::PathBuf;

use anyhow::Result;
use xtask::command::{require, run};
use xtask::image::Image;
use xtask::workspace;

use super::setup::cargo;

/// Busybox applets that get a name of their own in the image.
const APPLETS: &[&str] =
    &["sh", "cat", "echo", "env", "false", "hostname", "id", "ls", "nc", "ps", "sleep", "true", "wget"];

/// Builds the toolbox image and returns its archive.
pub(crate) fn toolbox() -> Result<PathBuf> {
    // A target folder of its own: the flags differ, and would make cargo build everything else again.
    let target = workspace::target().join("static");
    let mut command = cargo();
    command.args(["rustc", "--quiet", "--package", "skep-toolbox", "--release", "--target-dir"]).arg(&target);
    run(command.args(["--", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]))?;
    let image = Image {
        reference: "localhost/skep/toolbox:1".into(),
        files: vec![
            ("/bin/busybox".into(), require("busybox")?),
            ("/usr/bin/toolbox".into(), target.join("release/skep-toolbox")),
        ],
        links: APPLETS.iter().map(|applet| (format!("/bin/{applet}"), "busybox".to_owned())).collect(),
        entrypoint: vec![],
        command: vec!["/usr/bin/toolbox".into(), "serve".into()],
    };
    let archive = workspace::target().join("images/toolbox.tar");
    image.write(&archive)?;
    Ok(archive)
}
