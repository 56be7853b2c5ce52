//! The kinds this controller keeps pods for. A ReplicationController is treated as if it were an older version of
//! ReplicaSet, converted at the edges, as upstream does (pkg/controller/replication).

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerSpec, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::informer::{Informer, Object};
use crate::informers::Informers;

/// A kind that asks for a number of equal pods.
pub(crate) trait Kind: Object + kube::Resource<Scope = NamespaceResourceScope> + serde::Serialize {
    /// The controller's name, under which it also records events.
    const CONTROLLER: &'static str;

    /// The watch of this kind.
    fn informer(informers: &Informers) -> &Informer<Self>;

    /// The object as a ReplicaSet.
    fn as_set(&self) -> Cow<'_, ReplicaSet>;

    /// The object with another status; None if it has that already.
    fn with_status(&self, status: ReplicaSetStatus) -> Option<Self>;
}

impl Kind for ReplicaSet {
    const CONTROLLER: &'static str = "replicaset-controller";

    fn informer(informers: &Informers) -> &Informer<Self> {
        &informers.replica_sets
    }

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Option<Self> {
        let status = Some(status);
        (self.status != status).then(|| Self { status, ..self.clone() })
    }
}

impl Kind for ReplicationController {
    const CONTROLLER: &'static str = "replication-controller";

    fn informer(informers: &Informers) -> &Informer<Self> {
        &informers.replication_controllers
    }

    fn as_set(&self) -> Cow<'_, ReplicaSet> {
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: self.spec.clone().map(set_spec),
            status: self.status.clone().map(set_status),
        })
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Option<Self> {
        let status = Some(controller_status(status));
        (self.status != status).then(|| Self { status, ..self.clone() })
    }
}

fn set_spec(spec: ReplicationControllerSpec) -> ReplicaSetSpec {
    ReplicaSetSpec {
        min_ready_seconds: spec.min_ready_seconds,
        replicas: spec.replicas,
        selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
        template: spec.template,
    }
}

fn set_status(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let condition = |condition: ReplicationControllerCondition| ReplicaSetCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: condition.status,
        type_: condition.type_,
    };
    ReplicaSetStatus {
        available_replicas: status.available_replicas,
        conditions: status.conditions.map(|conditions| conditions.into_iter().map(condition).collect()),
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
        terminating_replicas: None,
    }
}

/// What a ReplicationController has no word for, the number of terminating replicas, is left out.
fn controller_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let condition = |condition: ReplicaSetCondition| ReplicationControllerCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: condition.status,
        type_: condition.type_,
    };
    ReplicationControllerStatus {
        available_replicas: status.available_replicas,
        conditions: status.conditions.map(|conditions| conditions.into_iter().map(condition).collect()),
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replication_controller_survives_the_way_there_and_back() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "rc", "uid": "1", "generation": 2},
            "spec": {"replicas": 3, "minReadySeconds": 5, "selector": {"app": "site"},
                     "template": {"metadata": {"labels": {"app": "site"}}}},
            "status": {"replicas": 2, "readyReplicas": 1, "availableReplicas": 1, "fullyLabeledReplicas": 2,
                       "observedGeneration": 2,
                       "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "m"}]},
        }))
        .unwrap();
        let set = controller.as_set().into_owned();
        let spec = set.spec.as_ref().unwrap();
        assert_eq!((spec.replicas, spec.min_ready_seconds), (Some(3), Some(5)));
        assert_eq!(spec.selector.match_labels, controller.spec.as_ref().unwrap().selector);
        assert_eq!(spec.template, controller.spec.as_ref().unwrap().template);
        let mut status = set.status.unwrap();
        status.terminating_replicas = Some(0);
        assert_eq!(controller.with_status(status.clone()), None, "the same status is no change");
        status.replicas = 3;
        assert_eq!(controller.with_status(status).unwrap().status.unwrap().replicas, 3);
    }
}
