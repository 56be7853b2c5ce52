//! `skepctl monitor`.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::node::{Node, table};

/// Generous: a look takes milliseconds, and there are two a second.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_refused_connection_is_told_with_the_name_of_its_service() {
    // Nothing can leave from here.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let node = Node::new(&table());
    let listen = ["monitor", "--kind", "drop", "--service", "default/empty", "--count", "1", "-o", "json"];
    let mut monitor = node.command(&listen).stdout(Stdio::piped()).spawn().unwrap();
    let connect = format!("echo $$ > {}/cgroup.procs && : < /dev/tcp/10.96.0.11/80", node.cgroup.display());
    let end = Instant::now() + PATIENCE;
    // It hears of what comes after its first look, whenever that is.
    while monitor.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            monitor.kill().unwrap();
            panic!("nothing was told");
        }
        let output = Command::new("bash").args(["-c", &connect]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("Connection refused"), "{output:?}");
        #[expect(clippy::disallowed_methods, reason = "no runtime here")]
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = monitor.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let event: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&event["event"], &event["service"]["name"]), (&json!("refused"), &json!("empty")));
    assert!(event["attempts"].as_u64().unwrap() > 0 && event["time"].is_string(), "{event}");
}
