//! DefaultBinder: writes `pods/binding`.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{sleep, timeout};

use crate::{
    framework::{Bind, CycleState, Plugin, Registrar, Status},
    pod_info::PodInfo,
};

pub(super) const NAME: &str = "DefaultBinder";
/// A binding whose answer is lost is tried again; the API server refuses the second one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const TOO_MANY_REQUESTS: u16 = 429;

pub(super) fn register(registrar: &mut Registrar<'_>) {
    if let Some(context) = registrar.context() {
        let client = context.client.clone();
        registrar.bind(Arc::new(DefaultBinder { client }));
    }
}

struct DefaultBinder {
    client: Client,
}

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        NAME
    }
}

impl Bind for DefaultBinder {
    fn bind<'a>(&'a self, _: &'a CycleState, pod: &'a PodInfo, node: &'a str) -> BoxFuture<'a, Status> {
        Box::pin(async move {
            let name = pod.pod.name_any();
            let namespace = pod.pod.namespace().unwrap_or_default();
            // The UID makes sure that a pod deleted and created anew under the name is not bound by an old decision.
            let binding = Binding {
                metadata: ObjectMeta {
                    name: Some(name.clone()),
                    namespace: Some(namespace.clone()),
                    uid: pod.pod.uid(),
                    ..ObjectMeta::default()
                },
                target: ObjectReference {
                    kind: Some("Node".to_owned()),
                    name: Some(node.to_owned()),
                    ..ObjectReference::default()
                },
            };
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
            let params = PostParams::default();
            let request = async {
                loop {
                    let answer =
                        api.create_subresource::<Binding, serde_json::Value>("binding", &name, &params, &binding).await;
                    match answer {
                        Err(kube::Error::Api(status)) if status.code == TOO_MANY_REQUESTS => {
                            sleep(retry_after(&status)).await;
                        }
                        answer => return answer,
                    }
                }
            };
            match timeout(REQUEST_TIMEOUT, request).await {
                Ok(Ok(_)) => Status::success(),
                Ok(Err(kube::Error::Api(status))) => Status::error(status.message.clone()),
                Ok(Err(error)) => Status::error(error.to_string()),
                Err(_) => Status::error(format!("the API server did not take the binding within {REQUEST_TIMEOUT:?}")),
            }
        })
    }
}

/// How long a busy API server asks to be left alone; a second when it does not say.
fn retry_after(status: &kube::core::Status) -> Duration {
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    Duration::from_secs(u64::from(seconds.max(1)))
}
