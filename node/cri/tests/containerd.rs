//! Against a real containerd.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use common::{BUSYBOX, Containerd};
use futures::{Stream, StreamExt};
use skep_cri::api::*;
use skep_cri::events::Event;
use skep_cri::{Cri, Error, pause};

/// Longer than anything here takes; only a broken test meets it.
const LIMIT: Duration = Duration::from_secs(60);

fn sandbox_config(containerd: &Containerd, name: &str) -> PodSandboxConfig {
    let namespaces = NamespaceOption { network: NamespaceMode::Node as i32, ..Default::default() };
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.into(),
            uid: format!("{name}-uid"),
            namespace: "test".into(),
            attempt: 0,
        }),
        labels: HashMap::from([("test".to_owned(), name.to_owned())]),
        log_directory: containerd.path("logs").display().to_string(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("{}/{name}", containerd.cgroup),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config(script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(ImageSpec { image: BUSYBOX.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: "main.log".into(),
        linux: Some(LinuxContainerConfig::default()),
        ..Default::default()
    }
}

async fn wait_for(events: &mut (impl Stream<Item = Event> + Unpin), wanted: &Event) -> Result<()> {
    let seen = async {
        while let Some(event) = events.next().await {
            if event == *wanted {
                return Ok(());
            }
        }
        bail!("the stream ended")
    };
    tokio::time::timeout(LIMIT, seen).await.with_context(|| format!("{wanted:?} was not told"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_of_our_own_pause_runs_a_container_and_its_end_is_told() -> Result<()> {
    let containerd = Containerd::start()?;
    let cri = Cri::connect(&format!("unix://{}", containerd.socket())).await?;
    cri.import_pause().await?;
    // A second node start imports again.
    cri.import_pause().await?;
    assert_eq!(cri.sandbox_image().await?.as_deref(), Some(pause::IMAGE));

    let mut events = std::pin::pin!(cri.events());
    wait_for(&mut events, &Event::Connected).await?;
    let config = sandbox_config(&containerd, "one");
    let sandbox = cri.run_pod_sandbox(config.clone(), "").await.with_context(|| containerd.log())?;
    let container = cri.create_container(&sandbox, container_config("echo hello; exit 3"), config).await?;
    cri.start_container(&container).await?;
    wait_for(&mut events, &Event::Started(container.clone())).await?;
    wait_for(&mut events, &Event::Exited { id: container.clone(), status: 3 }).await?;

    let mut status = cri.container_status(&container).await?;
    while status.state() == ContainerState::ContainerRunning {
        tokio::time::sleep(Duration::from_millis(5)).await;
        status = cri.container_status(&container).await?;
    }
    assert_eq!(status.exit_code, 3);
    let log = std::fs::read_to_string(containerd.path("logs/main.log"))?;
    assert!(log.ends_with(" stdout F hello\n"), "{log}");

    cri.stop_pod_sandbox(&sandbox).await?;
    cri.remove_pod_sandbox(&sandbox).await?;
    // Both again: idempotent.
    cri.stop_pod_sandbox(&sandbox).await?;
    cri.remove_pod_sandbox(&sandbox).await?;
    assert!(cri.list_pod_sandboxes(HashMap::new()).await?.is_empty());
    assert!(matches!(cri.container_status(&container).await, Err(Error::NotFound(_))));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_back_after_containerd_was_killed_and_containers_stay() -> Result<()> {
    let mut containerd = Containerd::start()?;
    let cri = Cri::connect(&containerd.socket()).await?;
    cri.import_pause().await?;
    let config = sandbox_config(&containerd, "two");
    let sandbox = cri.run_pod_sandbox(config.clone(), "").await.with_context(|| containerd.log())?;
    let container = cri.create_container(&sandbox, container_config("sleep 1000"), config).await?;
    cri.start_container(&container).await?;

    let mut events = std::pin::pin!(cri.events());
    wait_for(&mut events, &Event::Connected).await?;
    containerd.kill();
    wait_for(&mut events, &Event::Disconnected).await?;
    assert!(matches!(cri.version().await, Err(Error::Unavailable(_))), "a runtime that is away is Unavailable");
    containerd.spawn()?;
    wait_for(&mut events, &Event::Connected).await?;
    // Events flow before CRI has read its state back.
    while let Err(error) = cri.container_status(&container).await {
        assert!(error.to_string().contains("not initialized yet"), "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cri.container_status(&container).await?.state(), ContainerState::ContainerRunning);
    cri.stop_container(&container, Duration::ZERO).await?;
    wait_for(&mut events, &Event::Exited { id: container, status: 137 }).await?;
    cri.stop_pod_sandbox(&sandbox).await?;
    cri.remove_pod_sandbox(&sandbox).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_address_is_told_at_once() {
    let error = Cri::connect("/run/no-such-containerd.sock").await.unwrap_err();
    assert!(error.to_string().contains("is containerd running"), "{error}");
    assert!(matches!(Cri::connect("tcp://x").await, Err(Error::Address(_))));
}
