//! The runtime service: sandboxes and containers.

use std::collections::HashMap;
use std::time::Duration;

use k8s_cri::v1::*;

use crate::channel::{request, within};
use crate::{Cri, Error};

/// Upstream's runtime-request-timeout.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Sandboxes wait for the network plugin: upstream gives them twice as long.
const SANDBOX_TIMEOUT: Duration = Duration::from_secs(240);
/// Questions that only read memory of the runtime.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

impl Cri {
    /// Name and version of the runtime.
    pub async fn version(&self) -> Result<VersionResponse, Error> {
        let message = request(VersionRequest { version: "0.1.0".into() }, QUERY_TIMEOUT);
        within("Version", QUERY_TIMEOUT, self.runtime().version(message)).await
    }

    /// The runtime's conditions (`RuntimeReady`, `NetworkReady`).
    pub async fn status(&self) -> Result<RuntimeStatus, Error> {
        let message = request(StatusRequest { verbose: false }, QUERY_TIMEOUT);
        let answer = within("Status", QUERY_TIMEOUT, self.runtime().status(message)).await?;
        answer.status.ok_or(Error::Incomplete { call: "Status", field: "status" })
    }

    /// The runtime's configuration as it tells it (containerd: the JSON of its CRI plugin's settings).
    pub async fn config(&self) -> Result<serde_json::Value, Error> {
        let message = request(StatusRequest { verbose: true }, QUERY_TIMEOUT);
        let answer = within("Status", QUERY_TIMEOUT, self.runtime().status(message)).await?;
        let text = answer.info.get("config").ok_or(Error::Incomplete { call: "Status", field: "config" })?;
        serde_json::from_str(text).map_err(|_| Error::Incomplete { call: "Status", field: "config" })
    }

    /// Creates and starts a sandbox; answers its id.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String, Error> {
        let message = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let call = request(message, SANDBOX_TIMEOUT);
        let mut client = self.runtime();
        Ok(within("RunPodSandbox", SANDBOX_TIMEOUT, client.run_pod_sandbox(call)).await?.pod_sandbox_id)
    }

    /// Stops everything in a sandbox and takes its network down. Idempotent.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let call = request(StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }, SANDBOX_TIMEOUT);
        absent_is_done(within("StopPodSandbox", SANDBOX_TIMEOUT, self.runtime().stop_pod_sandbox(call)).await)
    }

    /// Removes a sandbox and its containers. Idempotent.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Error> {
        let call = request(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }, TIMEOUT);
        absent_is_done(within("RemovePodSandbox", TIMEOUT, self.runtime().remove_pod_sandbox(call)).await)
    }

    /// One sandbox in full, with its addresses.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus, Error> {
        let message = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let call = request(message, QUERY_TIMEOUT);
        let answer = within("PodSandboxStatus", QUERY_TIMEOUT, self.runtime().pod_sandbox_status(call)).await?;
        answer.status.ok_or(Error::Incomplete { call: "PodSandboxStatus", field: "status" })
    }

    /// All sandboxes that carry `labels`.
    pub async fn list_pod_sandboxes(&self, labels: HashMap<String, String>) -> Result<Vec<PodSandbox>, Error> {
        let filter = PodSandboxFilter { label_selector: labels, ..Default::default() };
        let call = request(ListPodSandboxRequest { filter: Some(filter) }, QUERY_TIMEOUT);
        Ok(within("ListPodSandbox", QUERY_TIMEOUT, self.runtime().list_pod_sandbox(call)).await?.items)
    }

    /// Creates a container in a sandbox; answers its id.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, Error> {
        let message = CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let call = request(message, TIMEOUT);
        Ok(within("CreateContainer", TIMEOUT, self.runtime().create_container(call)).await?.container_id)
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let call = request(StartContainerRequest { container_id: id.to_owned() }, TIMEOUT);
        within("StartContainer", TIMEOUT, self.runtime().start_container(call)).await.map(drop)
    }

    /// Sends the stop signal, waits `grace`, then kills. Returns once the container has ended. Idempotent.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        // The protocol knows whole seconds; a begun one counts, or a grace of half a second would be none.
        let seconds = grace.as_secs().saturating_add(u64::from(grace.subsec_nanos() > 0));
        let message =
            StopContainerRequest { container_id: id.to_owned(), timeout: i64::try_from(seconds).unwrap_or(i64::MAX) };
        let timeout = TIMEOUT.saturating_add(grace);
        let call = request(message, timeout);
        absent_is_done(within("StopContainer", timeout, self.runtime().stop_container(call)).await)
    }

    /// Removes a container, its log excepted. Idempotent.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let call = request(RemoveContainerRequest { container_id: id.to_owned() }, TIMEOUT);
        absent_is_done(within("RemoveContainer", TIMEOUT, self.runtime().remove_container(call)).await)
    }

    /// All containers that carry `labels`, running or not.
    pub async fn list_containers(&self, labels: HashMap<String, String>) -> Result<Vec<Container>, Error> {
        let filter = ContainerFilter { label_selector: labels, ..Default::default() };
        let call = request(ListContainersRequest { filter: Some(filter) }, QUERY_TIMEOUT);
        Ok(within("ListContainers", QUERY_TIMEOUT, self.runtime().list_containers(call)).await?.containers)
    }

    /// One container in full.
    pub async fn container_status(&self, id: &str) -> Result<ContainerStatus, Error> {
        let message = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let call = request(message, QUERY_TIMEOUT);
        let answer = within("ContainerStatus", QUERY_TIMEOUT, self.runtime().container_status(call)).await?;
        answer.status.ok_or(Error::Incomplete { call: "ContainerStatus", field: "status" })
    }

    /// Runs a command in a container to its end, at most `timeout`.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecSyncResponse, Error> {
        let message = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command,
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        // The runtime enforces the timeout; the extra is for its answer.
        let limit = timeout.saturating_add(Duration::from_secs(2));
        within("ExecSync", limit, self.runtime().exec_sync(request(message, limit))).await
    }

    /// Makes the runtime open a container's log file anew, after a rotation.
    pub async fn reopen_container_log(&self, id: &str) -> Result<(), Error> {
        let call = request(ReopenContainerLogRequest { container_id: id.to_owned() }, QUERY_TIMEOUT);
        within("ReopenContainerLog", QUERY_TIMEOUT, self.runtime().reopen_container_log(call)).await.map(drop)
    }
}

fn absent_is_done<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) | Err(Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
