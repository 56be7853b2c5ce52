//! ConfigMaps and Secrets, shared by all pods that use them: readers of one object at one time cost one GET.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::error::is_not_found;

/// What nobody has read for this long is dropped.
const UNUSED: Duration = Duration::from_secs(300);
/// A GET that hangs must not keep other readers of the object waiting for ever.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One object: the time its last GET began, and the answer. The lock is held during a GET, so that readers who come
/// meanwhile share the next one.
struct Slot<K>(tokio::sync::Mutex<Option<(Instant, Option<Arc<K>>)>>);

struct Entry<K> {
    slot: Arc<Slot<K>>,
    used: Instant,
}

/// A cache of one kind of object.
pub(crate) struct Objects<K> {
    client: Client,
    entries: Mutex<HashMap<(String, String), Entry<K>>>,
}

impl<K> Objects<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    /// An empty cache.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, entries: Mutex::default() }
    }

    /// The object as it was at `not_before` or later; `None` when it does not exist.
    pub(crate) async fn get(&self, namespace: &str, name: &str, not_before: Instant) -> Result<Option<Arc<K>>, Error> {
        let slot = self.slot(namespace, name, Instant::now());
        let mut known = slot.0.lock().await;
        if let Some((begun, object)) = &*known
            && *begun >= not_before
        {
            return Ok(object.clone());
        }
        let begun = Instant::now();
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let object = match tokio::time::timeout(TIMEOUT, api.get(name)).await {
            Ok(Ok(object)) => Some(Arc::new(object)),
            Ok(Err(error)) if is_not_found(&error) => None,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Error::pod(format!("{} {namespace}/{name}: timed out", K::kind(&())))),
        };
        *known = Some((begun, object.clone()));
        Ok(object)
    }

    fn slot(&self, namespace: &str, name: &str, now: Instant) -> Arc<Slot<K>> {
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| now.duration_since(entry.used) < UNUSED);
        let entry = entries
            .entry((namespace.to_owned(), name.to_owned()))
            .or_insert_with(|| Entry { slot: Arc::new(Slot(tokio::sync::Mutex::new(None))), used: now });
        entry.used = now;
        entry.slot.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;

    /// A cache over a service that counts what it is asked; every object exists.
    fn counted() -> (Objects<ConfigMap>, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let service = tower::service_fn(move |_: Request<Body>| {
            counter.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::task::yield_now().await;
                let object = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#;
                Ok::<_, std::convert::Infallible>(Response::new(Body::from(object.as_bytes().to_vec())))
            }
        });
        (Objects::new(Client::new(service, "default")), count)
    }

    #[tokio::test]
    async fn readers_that_are_content_with_an_older_answer_cost_nothing() {
        let (objects, count) = counted();
        let begin = Instant::now();
        for _ in 0..100 {
            assert!(objects.get("n", "a", begin).await.unwrap().is_some());
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
        objects.get("n", "a", Instant::now()).await.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn readers_that_ask_at_once_share_an_answer_that_is_newer_than_their_question() {
        let (objects, count) = counted();
        let reads = (0..100).map(|_| async { objects.get("n", "a", Instant::now()).await.unwrap() });
        assert!(futures::future::join_all(reads).await.iter().all(Option::is_some));
        assert!(count.load(Ordering::Relaxed) <= 2, "{count:?}");
    }
}
