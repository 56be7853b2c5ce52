//! What the runtime holds of one pod, in our own words, so that decisions and statuses can be tested without a runtime.

use std::collections::HashMap;
use std::path::Path;

use nix::fcntl::OFlag;
use skep_cri::Cri;
use skep_cri::api;

use crate::labels;
use crate::logs;

/// Upstream's limits for a termination message from the file and from the log.
const MESSAGE_BYTES: u64 = 4096;
const LOG_MESSAGE_BYTES: u64 = 2048;
const LOG_MESSAGE_LINES: usize = 80;

/// State of a container in the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One container, running or not. Times are nanoseconds since the epoch, 0 for never.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) state: State,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) hash: String,
    pub(crate) log_path: String,
}

#[cfg(test)]
impl ContainerRecord {
    /// The first incarnation of a container in sandbox `s`.
    pub(crate) fn for_test(pod: &k8s_openapi::api::core::v1::Pod, name: &str, state: State, exit_code: i32) -> Self {
        use crate::podext::{PodExt, container_hash};
        Self {
            id: format!("{name}-id"),
            sandbox: "s".into(),
            name: name.into(),
            attempt: 0,
            state,
            created_at: 1,
            started_at: 2,
            finished_at: 3,
            exit_code,
            reason: String::new(),
            message: String::new(),
            image: "i".into(),
            image_id: "i".into(),
            hash: pod.container(name).map(|(_, container)| container_hash(container)).unwrap_or_default(),
            log_path: String::new(),
        }
    }
}

/// One sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) created_at: i64,
    pub(crate) ips: Vec<String>,
}

/// Everything of one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodView {
    pub(crate) sandboxes: Vec<SandboxRecord>,
    pub(crate) containers: Vec<ContainerRecord>,
}

impl PodView {
    /// The sandbox the pod lives in: the newest, if it is ready.
    pub(crate) fn sandbox(&self) -> Option<&SandboxRecord> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The latest incarnation of a container.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|record| record.name == name)
    }

    /// The one before the latest.
    pub(crate) fn previous(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().filter(|record| record.name == name).nth(1)
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|record| matches!(record.state, State::Running | State::Unknown))
    }

    /// Asks the runtime; what is in `known` and can no longer change is not asked again.
    pub(crate) async fn load(cri: &Cri, uid: &str, known: &PodView) -> Result<Self, skep_cri::Error> {
        let (sandboxes, containers) =
            tokio::try_join!(cri.list_pod_sandboxes(labels::of_pod(uid)), cri.list_containers(labels::of_pod(uid)))?;
        let mut view = PodView::default();
        for sandbox in sandboxes {
            view.sandboxes.extend(sandbox_record(cri, sandbox, known).await?);
        }
        for container in containers {
            let done = known.containers.iter().find(|old| old.id == container.id && old.state == State::Exited);
            match done {
                Some(record) => view.containers.push(record.clone()),
                None => view.containers.extend(container_record(cri, container).await?),
            }
        }
        view.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
        view.containers.sort_by_key(|record| std::cmp::Reverse((record.created_at, record.attempt)));
        Ok(view)
    }
}

async fn sandbox_record(
    cri: &Cri,
    sandbox: api::PodSandbox,
    known: &PodView,
) -> Result<Option<SandboxRecord>, skep_cri::Error> {
    let ready = sandbox.state() == api::PodSandboxState::SandboxReady;
    let old = known.sandboxes.iter().find(|old| old.id == sandbox.id && !old.ips.is_empty());
    let ips = match old {
        Some(old) => old.ips.clone(),
        None if ready => match cri.pod_sandbox_status(&sandbox.id).await {
            Ok(status) => addresses(status.network),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        },
        None => Vec::new(),
    };
    let attempt = sandbox.metadata.map_or(0, |metadata| metadata.attempt);
    Ok(Some(SandboxRecord { id: sandbox.id, attempt, ready, created_at: sandbox.created_at, ips }))
}

fn addresses(network: Option<api::PodSandboxNetworkStatus>) -> Vec<String> {
    let Some(network) = network else { return Vec::new() };
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect()
}

async fn container_record(cri: &Cri, container: api::Container) -> Result<Option<ContainerRecord>, skep_cri::Error> {
    let status = match cri.container_status(&container.id).await {
        Ok(status) => status,
        // Removed between the two questions.
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let state = match status.state() {
        api::ContainerState::ContainerCreated => State::Created,
        api::ContainerState::ContainerRunning => State::Running,
        api::ContainerState::ContainerExited => State::Exited,
        api::ContainerState::ContainerUnknown => State::Unknown,
    };
    let mut record = ContainerRecord {
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        hash: status.annotations.get(labels::HASH).cloned().unwrap_or_default(),
        image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
        image_id: status.image_ref.clone(),
        sandbox: container.pod_sandbox_id,
        id: status.id.clone(),
        state,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        log_path: status.log_path.clone(),
    };
    if state == State::Exited {
        // Files of the pod: read off the runtime's threads.
        record = tokio::task::spawn_blocking(move || {
            termination_message(&status, &mut record);
            record
        })
        .await
        .map_err(|_| skep_cri::Error::Incomplete { call: "ContainerStatus", field: "termination message" })?;
    }
    Ok(Some(record))
}

/// The message the container left behind: its file, or the end of its log where the policy says so.
fn termination_message(status: &api::ContainerStatus, record: &mut ContainerRecord) {
    let wanted = status.annotations.get(labels::MESSAGE_PATH).map(String::as_str).unwrap_or_default();
    let mount = status.mounts.iter().find(|mount| !wanted.is_empty() && mount.container_path == wanted);
    let from_file = mount.and_then(|mount| read_start(Path::new(&mount.host_path), MESSAGE_BYTES)).unwrap_or_default();
    if !from_file.is_empty() {
        record.message = from_file;
        return;
    }
    let policy = status.annotations.get(labels::MESSAGE_POLICY).map(String::as_str).unwrap_or_default();
    if policy == "FallbackToLogsOnError" && record.exit_code != 0 {
        let tail = logs::tail_text(Path::new(&record.log_path), LOG_MESSAGE_LINES, LOG_MESSAGE_BYTES);
        if !tail.is_empty() {
            record.message = tail;
        }
    }
}

fn read_start(path: &Path, limit: u64) -> Option<String> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    // The file was writable for the container: no symlink is followed, no pipe waited for, only a regular file is read,
    // and no more of it than the limit.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Labels of all pods the runtime holds something of, by uid, with a fingerprint of their state.
pub(crate) async fn survey(cri: &Cri) -> Result<HashMap<String, Surveyed>, skep_cri::Error> {
    let (sandboxes, containers) =
        tokio::try_join!(cri.list_pod_sandboxes(HashMap::new()), cri.list_containers(HashMap::new()))?;
    let mut found: HashMap<String, Surveyed> = HashMap::new();
    let sandboxes = sandboxes.into_iter().map(|s| (s.labels, s.id, s.state));
    let containers = containers.into_iter().map(|c| (c.labels, c.id, c.state));
    for (mut labels, id, state) in sandboxes.chain(containers) {
        let Some(uid) = labels.remove(labels::POD_UID) else { continue };
        let pod = found.entry(uid).or_default();
        pod.namespace = labels.remove(labels::POD_NAMESPACE).unwrap_or_default();
        pod.name = labels.remove(labels::POD_NAME).unwrap_or_default();
        pod.parts.push((id, state));
    }
    for pod in found.values_mut() {
        pod.parts.sort();
    }
    Ok(found)
}

/// One pod as [`survey`] found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Surveyed {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Ids with the runtime's number for the state.
    pub(crate) parts: Vec<(String, i32)>,
}
