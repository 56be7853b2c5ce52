//! Lifecycle hooks, and the stop of a container that begins with one.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::context::Context;
use crate::podext::PodExt;
use crate::probes::http;

/// No container gets less than this between the stop signal and the kill; upstream's minimum.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// One running container.
pub(super) struct Subject<'a> {
    pub(super) context: &'a Context,
    pub(super) pod: &'a Pod,
    pub(super) container: &'a Container,
    pub(super) id: &'a str,
    pub(super) pod_ip: &'a str,
}

impl Subject<'_> {
    /// Runs a hook to its end, at most `limit`. The error is what the container's waiting state says.
    pub(super) async fn run(&self, hook: &LifecycleHandler, limit: Duration) -> Result<(), String> {
        let name = &self.container.name;
        let pod = format!("{}_{}({})", self.pod.pod_name(), self.pod.ns(), self.pod.uid());
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let shown = command.join(" ");
            let failed = |error: String, output: &str| {
                format!(
                    "Exec lifecycle hook ([{shown}]) for Container {name:?} in Pod {pod:?} failed - error: {error}, message: {output:?}"
                )
            };
            return match self.context.cri.exec_sync(self.id, command, limit).await {
                Ok(answer) if answer.exit_code == 0 => Ok(()),
                Ok(answer) => {
                    let output = String::from_utf8_lossy(&[answer.stdout, answer.stderr].concat()).into_owned();
                    let error = format!("command '{shown}' exited with {}: {output}", answer.exit_code);
                    Err(failed(error, &output))
                }
                Err(error) => Err(failed(error.to_string(), "")),
            };
        }
        if let Some(get) = &hook.http_get {
            let failed = |error: String| {
                let path = get.path.as_deref().unwrap_or_default();
                format!("HTTP lifecycle hook ({path}) for Container {name:?} in Pod {pod:?} failed - error: {error}")
            };
            // Any answer is a success, as upstream: the hook was told.
            return match tokio::time::timeout(limit, http::get(self.container, self.pod_ip, get, http::HOOK)).await {
                Ok(answer) => answer.map(drop).map_err(|error| failed(error.to_string())),
                Err(_) => Err(failed("timed out".to_owned())),
            };
        }
        if let Some(sleep) = &hook.sleep {
            let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
            tokio::time::sleep(wanted.min(limit)).await;
        }
        Ok(())
    }

    /// The preStop hook, then the stop signal, then, after what is left of `grace`, the kill.
    pub(super) async fn stop(&self, grace: Duration, message: &str) -> Result<(), skep_cri::Error> {
        let object = || self.pod.container_reference(&self.container.name);
        self.context.recorder.normal(object(), "Killing", message);
        let begun = Instant::now();
        let hook = self.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let Some(hook) = hook
            && !grace.is_zero()
            // A hook that outlives the grace period is no failure: the container is stopped all the same.
            && let Ok(Err(error)) = tokio::time::timeout(grace, self.run(hook, grace)).await
        {
            tracing::info!(pod = %self.pod.key(), container = self.container.name, error, "preStop hook failed");
            self.context.recorder.warning(object(), "FailedPreStopHook", "PreStopHook failed");
        }
        let left = grace.saturating_sub(begun.elapsed()).max(LEAST_GRACE);
        self.context.cri.stop_container(self.id, left).await
    }
}
