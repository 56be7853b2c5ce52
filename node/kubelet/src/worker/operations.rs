//! What takes time at the beginning: making a sandbox, starting a container.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::OnceCell;

use super::{hooks, terminate};
use crate::context::Context;
use crate::images::{self, Waiting};
use crate::podext::PodExt;
use crate::view::SandboxRecord;
use crate::volumes::{self, Mounted};
use crate::{Error, container_config, resources, sandbox_config, security};

/// Upstream sets no limit; the pod's end ends the hook too.
const POST_START_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Directories, cgroup, volumes, then the sandbox. Of `old` sandboxes, those that hold no container are removed.
pub(super) async fn sandbox(
    context: Arc<Context>,
    pod: Arc<Pod>,
    attempt: u32,
    old: Vec<(String, bool)>,
    volumes: Arc<OnceCell<Mounted>>,
) -> Result<(), Waiting> {
    let object = pod.reference();
    let failed = |reason: &'static str, error: &dyn std::fmt::Display| {
        let message = match reason {
            "FailedCreatePodSandBox" => format!("Failed to create pod sandbox: {error}"),
            _ => error.to_string(),
        };
        tracing::warn!(pod = %pod.key(), reason, message);
        context.recorder.warning(object.clone(), reason, message);
        Waiting::new("ContainerCreating", "")
    };
    let cgroup = prepare(&context, &pod).map_err(|error| failed("FailedCreatePodContainer", &error))?;
    // Pods have no address yet; what volumes may refer to does not include it.
    mounted(&context, &pod, &[], &volumes).await.map_err(|error| failed("FailedMount", &error))?;
    for (id, inhabited) in &old {
        context.cri.stop_pod_sandbox(id).await.map_err(|error| failed("FailedKillPod", &error))?;
        if !inhabited {
            context.cri.remove_pod_sandbox(id).await.map_err(|error| failed("FailedKillPod", &error))?;
        }
    }
    let config = sandbox_config::build(&context, &pod, attempt, &cgroup);
    let id = context.cri.run_pod_sandbox(config, "").await.map_err(|error| failed("FailedCreatePodSandBox", &error))?;
    context.own(&id, pod.uid());
    Ok(())
}

fn prepare(context: &Context, pod: &Pod) -> Result<std::path::PathBuf, Error> {
    // The directory first: it is what tells a restarted node that something of this pod is left.
    for dir in [context.pod_dir(pod.uid()), context.log_dir(pod)] {
        fs::create_dir_all(&dir).map_err(Error::file(&dir))?;
    }
    context.cgroups.create_pod(pod.uid(), pod.qos(), resources::pod_limits(pod))
}

async fn mounted<'a>(
    context: &Context,
    pod: &Pod,
    ips: &[String],
    volumes: &'a OnceCell<Mounted>,
) -> Result<&'a Mounted, Error> {
    let facts = context.facts(pod, ips);
    volumes.get_or_try_init(|| volumes::set_up(context, pod, &facts)).await
}

/// One start of one container.
pub(super) struct Start {
    pub(super) context: Arc<Context>,
    pub(super) pod: Arc<Pod>,
    pub(super) container: Container,
    /// The container whose processes this one is to see.
    pub(super) target: Option<String>,
    pub(super) attempt: u32,
    pub(super) sandbox: SandboxRecord,
    pub(super) volumes: Arc<OnceCell<Mounted>>,
    /// Older incarnations that nobody needs any more.
    pub(super) superseded: Vec<String>,
}

impl Start {
    /// Image, configuration, create, start.
    pub(super) async fn run(self) -> Result<(), Waiting> {
        let Self { context, pod, container, attempt, .. } = &self;
        let object = || pod.container_reference(&container.name);
        let failed = |reason: &'static str, error: &dyn std::fmt::Display| {
            context.recorder.warning(object(), "Failed", format!("Error: {error}"));
            Waiting::new(reason, error.to_string())
        };
        self.remove_superseded().await;
        let image = images::ensure(context, pod, container).await?;
        // A restarted node has not made this pod's directories in this life; making them again changes nothing.
        let cgroup = prepare(context, pod).map_err(|error| failed("CreateContainerConfigError", &error))?;
        let ips = &self.sandbox.ips;
        let volumes = mounted(context, pod, ips, &self.volumes)
            .await
            .map_err(|error| failed("CreateContainerConfigError", &error))?;
        let facts = context.facts(pod, ips);
        let mut config = container_config::build(context, pod, container, *attempt, &image, &facts, volumes)
            .await
            .map_err(|error| failed("CreateContainerConfigError", &error))?;
        if let Some(target) = &self.target {
            security::share_processes(&mut config, target);
        }
        let sandbox_config = sandbox_config::build(context, pod, self.sandbox.attempt, &cgroup);
        let id = context
            .cri
            .create_container(&self.sandbox.id, config, sandbox_config)
            .await
            .map_err(|error| failed("CreateContainerError", &error))?;
        // Before the start: its end may be told before this returns.
        context.own(&id, pod.uid());
        context.recorder.normal(object(), "Created", "Container created");
        context.cri.start_container(&id).await.map_err(|error| failed("RunContainerError", &error))?;
        context.recorder.normal(object(), "Started", "Container started");
        let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let subject = hooks::Subject { context, pod, container, id: &id, pod_ip: &context.pod_ip(pod, ips) };
        let Err(message) = subject.run(hook, POST_START_LIMIT).await else { return Ok(()) };
        context.recorder.warning(object(), "FailedPostStartHook", "PostStartHook failed");
        if let Err(error) = subject.stop(terminate::seconds(pod.grace_seconds()), "FailedPostStartHook").await {
            tracing::warn!(pod = %pod.key(), id, %error, "could not stop a container whose postStart hook failed");
        }
        Err(Waiting::new("PostStartHookError", message))
    }

    async fn remove_superseded(&self) {
        for id in &self.superseded {
            match self.context.cri.remove_container(id).await {
                Ok(()) => self.context.disown(id),
                Err(error) => tracing::warn!(pod = %self.pod.key(), id, %error, "could not remove an old container"),
            }
        }
    }
}
