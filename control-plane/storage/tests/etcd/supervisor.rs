//! The supervised etcd.

use crate::harness::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skep_storage::supervisor::{Supervisor, SupervisorConfig};
use skep_storage::{Error, Storage, Txn};
use std::path::Path;

fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_killed_etcd_comes_back_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let config = SupervisorConfig::new(dir.path().join("etcd"));
    let supervisor = Supervisor::start(config.clone()).await.unwrap();
    let storage = Storage::connect(supervisor.etcd_config(), schemas()).await.unwrap();
    storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap();
    let first = supervisor.pid().unwrap();
    kill(Pid::from_raw(first as i32), Signal::SIGKILL).unwrap();
    eventually("another etcd runs", || supervisor.pid().is_some_and(|pid| pid != first)).await;
    soon(async { while storage.read_revision().await.is_err() {} }).await;
    eventually("the watch is back", || storage.readiness().ready).await;
    assert!(pods(&storage).get(&pod_key("a")).is_some());

    // Only one at a time.
    let error = Supervisor::start(config.clone()).await.unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
    let second = supervisor.pid().unwrap();
    supervisor.stop().await;
    assert!(!alive(second));

    let supervisor = Supervisor::start(config).await.unwrap();
    let storage = Storage::connect(supervisor.etcd_config(), schemas()).await.unwrap();
    assert!(pods(&storage).get(&pod_key("a")).is_some());
    let third = supervisor.pid().unwrap();
    drop(supervisor);
    assert!(!alive(third));
}

#[tokio::test]
async fn an_etcd_that_was_left_over_is_ended_first() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().canonicalize().unwrap().join("etcd");
    let (client, peer) = (free_port(), free_port());
    let mut orphan = std::process::Command::new("etcd")
        .args([format!("--data-dir={}", data_dir.display()), "--name=skep".into()])
        .args(["--listen-client-urls", "--advertise-client-urls"].map(|f| format!("{f}=http://127.0.0.1:{client}")))
        .args(["--listen-peer-urls", "--initial-advertise-peer-urls"].map(|f| format!("{f}=http://127.0.0.1:{peer}")))
        .arg(format!("--initial-cluster=skep=http://127.0.0.1:{peer}"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("these tests need etcd on PATH");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", orphan.id())).unwrap();
    let start_time = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    std::fs::write(data_dir.with_extension("pid"), format!("{} {start_time}\n", orphan.id())).unwrap();
    let mut raw = etcd_client::Client::connect([format!("http://127.0.0.1:{client}")], None).await.unwrap();
    soon(async { while raw.put(pod_key("a"), pod("a", 1), None).await.is_err() {} }).await;

    let supervisor = Supervisor::start(SupervisorConfig::new(&data_dir)).await.unwrap();
    assert!(orphan.try_wait().unwrap().is_some());
    let storage = Storage::connect(supervisor.etcd_config(), schemas()).await.unwrap();
    assert!(pods(&storage).get(&pod_key("a")).is_some());
}

#[tokio::test]
async fn a_process_that_only_has_the_noted_number_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut bystander = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bystander.id())).unwrap();
    let start_time = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().to_owned();
    std::fs::write(dir.path().join("etcd.pid"), format!("{} {start_time}\n", bystander.id())).unwrap();
    let supervisor = Supervisor::start(SupervisorConfig::new(dir.path().join("etcd"))).await.unwrap();
    let untouched = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(untouched);
    supervisor.stop().await;
}

#[tokio::test]
async fn a_missing_or_broken_etcd_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = SupervisorConfig { program: "no-such-etcd".into(), ..SupervisorConfig::new(dir.path().join("etcd")) };
    let error = Supervisor::start(config).await.unwrap_err();
    assert!(matches!(&error, Error::Supervisor(text) if text.contains("PATH")), "{error}");
    let script = dir.path().join("broken");
    std::fs::write(&script, "#!/bin/sh\necho the disk is on fire >&2\nexit 3\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = SupervisorConfig { program: script, ..SupervisorConfig::new(dir.path().join("etcd")) };
    let error = Supervisor::start(config).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("the disk is on fire"), "{error}");
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_made_anew_and_data_never_is() {
    let dir = tempfile::tempdir().unwrap();
    let config = SupervisorConfig::new(dir.path().join("etcd"));
    // What a kill in the first moments leaves: files, but no cluster.
    std::fs::create_dir_all(dir.path().join("etcd/member/wal")).unwrap();
    std::fs::write(dir.path().join("etcd/member/wal/0000000000000000-0000000000000000.wal"), "").unwrap();
    std::fs::write(dir.path().join("etcd.bootstrap"), "").unwrap();
    let supervisor = Supervisor::start(config.clone()).await.unwrap();
    assert!(!dir.path().join("etcd.bootstrap").exists());
    let storage = Storage::connect(supervisor.etcd_config(), schemas()).await.unwrap();
    storage.commit(Txn::new().create(pod_key("a"), pod("a", 1))).await.unwrap();
    drop(supervisor);
    let supervisor = Supervisor::start(config).await.unwrap();
    let storage = Storage::connect(supervisor.etcd_config(), schemas()).await.unwrap();
    assert!(pods(&storage).get(&pod_key("a")).is_some());
}

/// The test binary calls itself: the inner process supervises an etcd and is killed by SIGKILL.
#[tokio::test]
async fn etcd_dies_with_a_supervisor_that_is_killed() {
    const INNER: &str = "SKEP_STORAGE_TEST_DATA_DIR";
    if let Some(data_dir) = std::env::var_os(INNER) {
        let _supervisor = Supervisor::start(SupervisorConfig::new(Path::new(&data_dir))).await.unwrap();
        return std::future::pending().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("etcd");
    let mut inner = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "supervisor::etcd_dies_with_a_supervisor_that_is_killed"])
        .env(INNER, &data_dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let noted = || std::fs::read_to_string(dir.path().join("etcd.pid")).ok()?.split(' ').next()?.parse::<u32>().ok();
    eventually("etcd runs", || noted().is_some_and(alive)).await;
    let pid = noted().unwrap();
    inner.kill().unwrap();
    inner.wait().unwrap();
    eventually("etcd is gone", || !alive(pid)).await;
    // And the next start is not held up.
    Supervisor::start(SupervisorConfig::new(&data_dir)).await.unwrap().stop().await;
}
