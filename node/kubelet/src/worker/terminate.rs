//! The end of a pod: stop its containers in order, its sandbox, then remove every trace and the API object.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use skep_cri::Cri;
use tokio::task::JoinHandle;

use super::hooks::Subject;
use super::{Done, Message, Stage, Worker};
use crate::Error;
use crate::context::Context;
use crate::error::{is_not_found, is_other_uid};
use crate::labels;
use crate::podext::{PodExt, Role};
use crate::view::{PodView, State};
use crate::volumes;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

impl Worker {
    /// Stops one container, so that the plan starts it anew (or not). `grace` in seconds is a probe's own.
    pub(super) fn stop_container(&mut self, id: &str, name: &str, message: String, grace: Option<i64>) {
        if self.stopping.contains_key(id) {
            return;
        }
        let key = id.to_owned();
        let (context, pod, id, to_self) = (self.context.clone(), self.pod.clone(), id.to_owned(), self.to_self.clone());
        let Some((_, container)) = pod.container(name).map(|(role, container)| (role, container.clone())) else {
            return;
        };
        let grace = seconds(grace.unwrap_or(pod.grace_seconds()));
        let ips = self.view.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let task = tokio::spawn(async move {
            let pod_ip = context.pod_ip(&pod, &ips);
            let subject = Subject { context: &context, pod: &pod, container: &container, id: &id, pod_ip: &pod_ip };
            persist("stop a container of", &pod, || async { Ok(subject.stop(grace, &message).await?) }).await;
            // Fails only when the worker has ended.
            let _ = to_self.send(Message::Done(Done::Stop { id }));
        });
        self.stopping.insert(key, task.abort_handle());
    }

    /// Begins (or speeds up) the end of everything that runs.
    pub(super) fn stop_all(&mut self) {
        self.busy.drain().for_each(|(_, task)| task.abort());
        self.stopping.drain().for_each(|(_, task)| task.abort());
        self.refreshing.iter().for_each(JoinHandle::abort);
        if let Some(earlier) = self.ending.take() {
            earlier.abort();
        }
        let grace = self.pod.grace_seconds();
        self.stage = Stage::Stopping { grace };
        let (context, pod, to_self) = (self.context.clone(), self.pod.clone(), self.to_self.clone());
        let task = tokio::spawn(async move {
            persist("stop", &pod, || stop(&context, &pod, grace)).await;
            // Fails only when the worker has ended.
            let _ = to_self.send(Message::Done(Done::Halted));
            persist("clean up", &pod, || clean_up(&context, &pod)).await;
            let _ = to_self.send(Message::Done(Done::Stopped));
        });
        self.ending = Some(task.abort_handle());
    }

    /// Removes a stopped pod from the runtime, the node and the API.
    pub(super) fn remove_all(&mut self) {
        self.stage = Stage::Removing;
        let (context, pod, to_self) = (self.context.clone(), self.pod.clone(), self.to_self.clone());
        let in_api = !self.gone;
        let flushed = self.sender.flushed();
        let task = tokio::spawn(async move {
            if in_api {
                flushed.await;
            }
            persist("remove", &pod, || remove(&context, &pod)).await;
            if in_api {
                persist("delete", &pod, || delete(&context, &pod)).await;
            }
            let _ = to_self.send(Message::Done(Done::Removed));
        });
        self.ending = Some(task.abort_handle());
    }
}

/// Tries until it works: a pod that cannot be stopped waits, and nobody else does.
async fn persist<F: Future<Output = Result<(), Error>>>(what: &str, pod: &Pod, attempt: impl Fn() -> F) {
    let mut pause = FIRST_RETRY;
    while let Err(error) = attempt().await {
        tracing::warn!(pod = %pod.key(), %error, "could not {what} the pod, trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_RETRY);
    }
}

/// Main and init containers at once, then sidecars in reverse order within what is left of the grace, then the sandbox.
async fn stop(context: &Context, pod: &Pod, grace: i64) -> Result<(), Error> {
    let view = context.view(pod.uid(), &PodView::default()).await?;
    let deadline = Instant::now() + seconds(grace);
    let role = |name: &str| pod.container(name).map_or(Role::Main, |(role, _)| role);
    let ips = view.sandbox().map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default();
    let pod_ip = &context.pod_ip(pod, ips);
    let stop_one = |id: String, name: String| async move {
        let left = deadline.saturating_duration_since(Instant::now());
        match pod.container(&name) {
            Some((_, container)) => {
                let subject = Subject { context, pod, container, id: &id, pod_ip };
                subject.stop(left, &format!("Stopping container {name}")).await
            }
            None => context.cri.stop_container(&id, left).await,
        }
    };
    let running: Vec<_> = view.running().map(|record| (record.id.clone(), record.name.clone())).collect();
    let (sidecars, others): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, name)| role(name) == Role::Sidecar);
    for result in join_all(others.into_iter().map(|(id, name)| stop_one(id, name))).await {
        result?;
    }
    let order: Vec<&str> = pod.all_containers().map(|(_, container)| container.name.as_str()).collect();
    let mut sidecars = sidecars;
    sidecars.sort_by_key(|(_, name)| std::cmp::Reverse(order.iter().position(|known| *known == name.as_str())));
    for (id, name) in sidecars {
        stop_one(id, name).await?;
    }
    for sandbox in &view.sandboxes {
        context.cri.stop_pod_sandbox(&sandbox.id).await?;
    }
    settle(context, pod).await
}

/// A start that was cut off may have left something behind the list above.
async fn settle(context: &Context, pod: &Pod) -> Result<(), Error> {
    let view = context.view(pod.uid(), &PodView::default()).await?;
    let running = view.containers.iter().any(|record| record.state == State::Running);
    if running || view.sandboxes.iter().any(|sandbox| sandbox.ready) {
        return Err(Error::pod("something of the pod is still running"));
    }
    Ok(())
}

/// What an ended pod needs no more, even while its object and logs stay.
async fn clean_up(context: &Context, pod: &Pod) -> Result<(), Error> {
    context.cgroups.remove_pod(pod.uid()).await?;
    // Last: while the directory is there, a restarted node knows that something is left.
    tear_down_volumes(context, pod.uid()).await
}

async fn tear_down_volumes(context: &Context, uid: &str) -> Result<(), Error> {
    let dir = context.pod_dir(uid);
    volumes::blocking(move || volumes::tear_down(&dir)).await
}

async fn remove(context: &Context, pod: &Pod) -> Result<(), Error> {
    remove_from_runtime(&context.cri, pod.uid()).await?;
    remove_logs(context, vec![context.log_dir(pod)]).await?;
    clean_up(context, pod).await
}

async fn remove_logs(context: &Context, dirs: Vec<PathBuf>) -> Result<(), Error> {
    debug_assert!(dirs.iter().all(|dir| dir.starts_with(&context.config.pod_logs_dir)));
    volumes::blocking(move || {
        dirs.into_iter().try_for_each(|dir| match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file(dir)(error)),
            _ => Ok(()),
        })
    })
    .await
}

/// The log directories of a pod of which only the uid is known.
fn logs_of(context: &Context, uid: &str) -> Vec<PathBuf> {
    let suffix = format!("_{uid}");
    let Ok(entries) = std::fs::read_dir(&context.config.pod_logs_dir) else { return Vec::new() };
    let of_pod = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(&suffix));
    of_pod.map(|entry| entry.path()).collect()
}

/// Removes all sandboxes of a pod, with their containers.
pub(crate) async fn remove_from_runtime(cri: &Cri, uid: &str) -> Result<(), Error> {
    for container in cri.list_containers(labels::of_pod(uid)).await? {
        cri.stop_container(&container.id, Duration::ZERO).await?;
        cri.remove_container(&container.id).await?;
    }
    for sandbox in cri.list_pod_sandboxes(labels::of_pod(uid)).await? {
        cri.stop_pod_sandbox(&sandbox.id).await?;
        cri.remove_pod_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// Takes the object out of the API, this very one and at once.
async fn delete(context: &Context, pod: &Pod) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), pod.ns());
    let preconditions = Preconditions { uid: Some(pod.uid().to_owned()), resource_version: None };
    let params = DeleteParams::default().grace_period(0).preconditions(preconditions);
    match api.delete(pod.pod_name(), &params).await {
        Ok(_) => Ok(()),
        // Gone, or another pod of the same name has come.
        Err(error) if is_not_found(&error) || is_other_uid(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Ends a pod that only the runtime still knows: it was deleted from the API while this node was away.
pub(crate) async fn remove_orphan(context: &Arc<Context>, uid: &str) -> Result<(), Error> {
    let containers = context.cri.list_containers(labels::of_pod(uid)).await?;
    let grace = |annotations: &HashMap<String, String>| {
        annotations.get(labels::GRACE).and_then(|text| text.parse().ok()).unwrap_or(30)
    };
    let stops = containers.iter().map(|c| context.cri.stop_container(&c.id, seconds(grace(&c.annotations))));
    for result in join_all(stops).await {
        result?;
    }
    remove_from_runtime(&context.cri, uid).await?;
    context.cgroups.remove_pod(uid).await?;
    remove_logs(context, logs_of(context, uid)).await?;
    tear_down_volumes(context, uid).await
}

pub(super) fn seconds(grace: i64) -> Duration {
    Duration::from_secs(u64::try_from(grace).unwrap_or(0))
}
