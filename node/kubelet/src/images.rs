//! Having a container's image: the pull policy, events and back-off as upstream words them.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Pod};
use skep_cri::api::Image;

use crate::context::Context;
use crate::podext::PodExt;

/// Why a container is not running yet: the reason and message of its waiting state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Waiting {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The reference with upstream's default tag.
fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

fn policy(container: &Container, reference: &str) -> String {
    container
        .image_pull_policy
        .clone()
        .unwrap_or_else(|| if reference.ends_with(":latest") { "Always".to_owned() } else { "IfNotPresent".to_owned() })
}

/// Finds or pulls the image.
pub(crate) async fn ensure(context: &Context, pod: &Pod, container: &Container) -> Result<Image, Waiting> {
    let asked = container.image.as_deref().unwrap_or_default();
    let reference = with_tag(asked);
    let object = pod.container_reference(&container.name);
    let policy = policy(container, &reference);
    let present = context.cri.image_status(&reference).await.map_err(|error| {
        let message = format!("Failed to inspect image {asked:?}: {error}");
        context.recorder.warning(object.clone(), "InspectFailed", message.clone());
        Waiting::new("ImageInspectError", message)
    })?;
    if let Some(image) = present
        && policy != "Always"
    {
        let message = format!("Container image {asked:?} already present on machine and can be accessed by the pod");
        context.recorder.normal(object, "Pulled", message);
        return Ok(image);
    }
    if policy == "Never" {
        let message = format!("Container image {asked:?} is not present with pull policy of Never");
        context.recorder.warning(object, "ErrImageNeverPull", message.clone());
        return Err(Waiting::new("ErrImageNeverPull", message));
    }
    context.recorder.normal(object.clone(), "Pulling", format!("Pulling image {asked:?}"));
    let begun = Instant::now();
    let pulled = match context.cri.pull_image(&reference, None).await {
        Ok(id) => context.cri.image_status(&id).await.and_then(|image| {
            image.ok_or_else(|| skep_cri::Error::NotFound(format!("image {id:?} vanished after its pull")))
        }),
        Err(error) => Err(error),
    };
    match pulled {
        Ok(image) => {
            let took = go_duration(begun.elapsed());
            let message = format!(
                "Successfully pulled image {asked:?} in {took} ({took} including waiting). Image size: {} bytes.",
                image.size
            );
            context.recorder.normal(object, "Pulled", message);
            Ok(image)
        }
        Err(error) => {
            context.recorder.warning(object.clone(), "Failed", format!("Failed to pull image {asked:?}: {error}"));
            context.recorder.warning(object, "Failed", "Error: ErrImagePull".to_owned());
            Err(Waiting::new("ErrImagePull", error.to_string()))
        }
    }
}

/// The key under which pulls for a container back off.
pub(crate) fn backoff_key(container: &Container) -> String {
    with_tag(container.image.as_deref().unwrap_or_default())
}

/// Go's notation, in milliseconds' precision: `1.5s`, `20ms`.
fn go_duration(duration: std::time::Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_latest() {
        assert_eq!(with_tag("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(with_tag("a@sha256:1"), "a@sha256:1");
        assert_eq!(with_tag("a:1"), "a:1");
    }

    #[test]
    fn durations_read_like_gos() {
        let text = |millis| go_duration(std::time::Duration::from_millis(millis));
        assert_eq!([text(20), text(1500), text(2000)], ["20ms", "1.5s", "2s"]);
    }
}
