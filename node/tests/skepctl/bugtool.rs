//! `skepctl bugtool`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use serde_json::Value;

use crate::node::{Node, error, table};

/// The files of an archive, without the folder they are in.
fn unpack(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(path).unwrap()));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let (folder, file) = path.split_once('/').unwrap();
        assert!(folder.starts_with("skep-bugtool-"), "{path}");
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (file.to_owned(), text)
    });
    entries.collect()
}

#[test]
fn everything_is_in_one_file_without_secrets_and_what_lacks_is_said() {
    let node = Node::new(&table());
    let (file, log) = (node.dir.path().join("bug.tar.gz"), node.dir.path().join("node.log"));
    fs::write(&log, "INFO joined with token=abcdef.0123456789abcdef\nWARN no route\n").unwrap();
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let arguments = ["bugtool", "--metrics", &closed, "--healthz", &closed, "--file", file.to_str().unwrap()];
    let arguments = [&arguments[..], &["--log", log.to_str().unwrap()]].concat();
    assert_eq!(node.run(&arguments).trim(), file.to_str().unwrap());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let files = unpack(&file);
    let status: Value = serde_json::from_str(&files["status.json"]).unwrap();
    assert_eq!(status["warnings"], Value::Array(Vec::new()));
    let services: Value = serde_json::from_str(&files["services.json"]).unwrap();
    assert_eq!(services.as_array().unwrap().len(), 3);
    assert!(files["pins.txt"].contains("/maps/SERVICES") && files["network/links.txt"].contains("lo"));
    assert_eq!(files["logs/0.log"], "INFO joined with token=[removed]\nWARN no route\n");
    assert!(files["metrics.txt.error"].contains(&closed), "{}", files["metrics.txt.error"]);

    // Nothing is overwritten.
    assert!(error(&node.command(&arguments).output().unwrap()).starts_with("error: creating"));
}

#[test]
fn a_node_without_a_data_plane_is_a_finding_and_no_failure() {
    let node = Node::new(&table());
    let (file, nowhere) = (node.dir.path().join("bug.tar.gz"), node.dir.path().join("nowhere"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_skepctl"));
    command.args(["bugtool", "--metrics", "127.0.0.1:1", "--healthz", "127.0.0.1:1"]);
    command.arg("--file").arg(&file).arg("--bpf-root").arg(&nowhere);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let files = unpack(&file);
    assert!(files["status.json.error"].contains("is skep-node running here?"), "{}", files["status.json.error"]);
    assert!(files.contains_key("network/routes.txt"));
}
