//! TaintNodesByCondition: a new node takes no pods until the node lifecycle controller has seen it ready.

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::registry::object::Object;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const NO_SCHEDULE: &str = "NoSchedule";

pub(super) fn taint(object: &mut dyn Object) {
    let Some(node) = object.as_any_mut().downcast_mut::<Node>() else { return };
    let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
    if !taints.iter().any(|taint| taint.key == NOT_READY && taint.effect == NO_SCHEDULE) {
        taints.push(Taint { key: NOT_READY.to_owned(), effect: NO_SCHEDULE.to_owned(), ..Taint::default() });
    }
}
