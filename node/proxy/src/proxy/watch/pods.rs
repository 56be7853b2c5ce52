//! Following this node's pods, for their host ports.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;

use super::Keeper;
use crate::tracker::{Owner, ServiceKey, key_of};

impl Keeper {
    pub(super) async fn pod_event(&mut self, event: watcher::Event<Pod>) {
        let mut changed: Vec<ServiceKey> = Vec::new();
        match event {
            watcher::Event::Init => self.listed_pods = Some(HashSet::new()),
            watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                if let (Some(listed), Some(key)) = (&mut self.listed_pods, key_of(&pod.metadata)) {
                    listed.insert(key);
                }
                changed.extend(self.host_ports.apply(&pod));
            }
            watcher::Event::Delete(pod) => {
                changed.extend(key_of(&pod.metadata).filter(|key| self.host_ports.delete(key)));
            }
            watcher::Event::InitDone => {
                if let Some(listed) = self.listed_pods.take() {
                    changed = self.host_ports.pods().filter(|key| !listed.contains(*key)).cloned().collect();
                    for key in &changed {
                        self.host_ports.delete(key);
                    }
                }
                if !std::mem::replace(&mut self.know_pods, true) {
                    return self.first_sync().await;
                }
            }
        }
        if !changed.is_empty() {
            self.serve(changed.into_iter().map(Owner::Pod).collect()).await;
        }
    }
}
