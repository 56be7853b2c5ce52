//! Following the API: every change is answered as soon as it is seen.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};
use parking_lot::RwLock;

use crate::Index;
use crate::index::{Key, key_of};

/// Keeps the index in step with the API, for ever. A broken watch is resumed with backoff; meanwhile the index stays.
pub(crate) async fn follow(index: Arc<RwLock<Index>>, client: kube::Client) {
    let config = watcher::Config::default();
    let mut services = pin!(watcher(Api::<Service>::all(client.clone()), config.clone()).default_backoff());
    let mut slices = pin!(watcher(Api::<EndpointSlice>::all(client), config).default_backoff());
    let (mut listed_services, mut listed_slices) = (HashSet::new(), HashSet::new());
    let mut said = false;
    loop {
        tokio::select! {
            Some(event) = services.next() => match event {
                Ok(event) => service_event(&index, &mut listed_services, event),
                Err(error) => tracing::warn!(%error, "watching Services failed, trying again"),
            },
            Some(event) = slices.next() => match event {
                Ok(event) => slice_event(&index, &mut listed_slices, event),
                Err(error) => tracing::warn!(%error, "watching EndpointSlices failed, trying again"),
            },
        }
        if !said && index.read().is_complete() {
            said = true;
            tracing::info!(services = index.read().services(), "names are in step with the API");
        }
    }
}

fn service_event(index: &RwLock<Index>, listed: &mut HashSet<Key>, event: watcher::Event<Service>) {
    match event {
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(service) => {
            listed.extend(key_of(&service.metadata));
            index.write().apply_service(&service);
        }
        watcher::Event::Apply(service) => index.write().apply_service(&service),
        watcher::Event::Delete(service) => index.write().delete_service(&service),
        watcher::Event::InitDone => index.write().services_listed(&std::mem::take(listed)),
    }
}

fn slice_event(index: &RwLock<Index>, listed: &mut HashSet<Key>, event: watcher::Event<EndpointSlice>) {
    match event {
        watcher::Event::Init => listed.clear(),
        watcher::Event::InitApply(slice) => {
            listed.extend(key_of(&slice.metadata));
            index.write().apply_slice(&slice);
        }
        watcher::Event::Apply(slice) => index.write().apply_slice(&slice),
        watcher::Event::Delete(slice) => index.write().delete_slice(&slice),
        watcher::Event::InitDone => index.write().slices_listed(&std::mem::take(listed)),
    }
}
