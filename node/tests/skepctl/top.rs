//! `skepctl top`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::node::{Node, dns, error};

#[test]
fn it_needs_a_terminal_and_ends_with_a_key_on_one() {
    let node = Node::new(&dns());
    let output = node.command(&["top"]).output().unwrap();
    assert!(error(&output).starts_with("error: top needs a terminal"), "{output:?}");

    // `script` gives it one, of no size at first.
    let command = format!(
        "stty rows 24 columns 120 && {} top --bpf-root {}",
        env!("CARGO_BIN_EXE_skepctl"),
        node.root().display()
    );
    let mut script = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open: its end would end the terminal.
    let mut keys = script.stdin.take().unwrap();
    keys.write_all(b"nq").unwrap();
    let output = script.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    // Between words it moves the cursor, so that only words are found.
    let shown = text.contains("REFUSED/S")
        && text.contains("RETR/S")
        && !text.contains("latency and retransmits")
        && text.contains("kube-system/kube-dns:dns-tcp");
    assert!(output.status.success() && shown, "{text}");
}
