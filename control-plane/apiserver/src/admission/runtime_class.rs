//! RuntimeClass: a pod gets its class's overhead and scheduling, and no overhead of its own making.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, Toleration},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use skep_api::{amounts, status::StatusError};

use super::{Admission, Attributes};
use crate::registry::{checks::text, object::Object};

type List = BTreeMap<String, WireQuantity>;

/// What a class gives a pod.
#[derive(Default)]
struct Given {
    overhead: Option<List>,
    node_selector: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
}

impl Admission {
    /// What the pod's class gives; nothing for a pod without a class.
    async fn runtime(&self, attributes: &Attributes<'_>, object: &dyn Object) -> Result<Given, StatusError> {
        let spec = object.as_any().downcast_ref::<Pod>().and_then(|pod| pod.spec.as_ref());
        let Some(name) = spec.and_then(|spec| spec.runtime_class_name.as_deref()) else { return Ok(Given::default()) };
        let found = self.runtime_classes.find(&self.storage, name, |class| {
            let scheduling = class.scheduling.clone().unwrap_or_default();
            Given {
                overhead: class.overhead.as_ref().map(|overhead| overhead.pod_fixed.clone().unwrap_or_default()),
                node_selector: scheduling.node_selector.unwrap_or_default(),
                tolerations: scheduling.tolerations.unwrap_or_default(),
            }
        });
        found
            .await?
            .ok_or_else(|| attributes.forbidden(object, format!("pod rejected: RuntimeClass {name:?} not found")))
    }

    /// Gives a new pod what its class has for it.
    pub(super) async fn runtime_class(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn Object,
    ) -> Result<(), StatusError> {
        let given = self.runtime(attributes, object).await?;
        let Some(spec) = object.as_any().downcast_ref::<Pod>().and_then(|pod| pod.spec.as_ref()) else { return Ok(()) };
        if given.overhead.is_some() && spec.overhead.is_some() && !same(&given.overhead, &spec.overhead) {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(attributes.forbidden(object, why));
        }
        for (key, value) in &given.node_selector {
            let own = spec.node_selector.as_ref().and_then(|own| own.get(key));
            if let Some(own) = own.filter(|own| *own != value) {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {own}"
                );
                return Err(attributes.forbidden(object, why));
            }
        }
        let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return Ok(()) };
        let spec = pod.spec.get_or_insert_default();
        if given.overhead.is_some() {
            spec.overhead = given.overhead;
        }
        if !given.node_selector.is_empty() {
            spec.node_selector.get_or_insert_default().extend(given.node_selector);
        }
        if !given.tolerations.is_empty() {
            let own = spec.tolerations.take().unwrap_or_default();
            spec.tolerations = Some(merge(own, given.tolerations));
        }
        Ok(())
    }

    /// The overhead of a pod is that of its class.
    pub(super) async fn runtime_overhead(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
    ) -> Result<(), StatusError> {
        let spec = object.as_any().downcast_ref::<Pod>().and_then(|pod| pod.spec.as_ref());
        let Some(spec) = spec.filter(|spec| spec.overhead.is_some() || spec.runtime_class_name.is_some()) else {
            return Ok(());
        };
        let given = self.runtime(attributes, object).await?;
        let why = match given.overhead.is_some() {
            true if same(&given.overhead, &spec.overhead) => return Ok(()),
            true => "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            false if spec.overhead.is_none() => return Ok(()),
            false => "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        };
        Err(attributes.forbidden(object, why))
    }
}

fn same(one: &Option<List>, other: &Option<List>) -> bool {
    amounts::read(one.as_ref()) == amounts::read(other.as_ref())
}

/// Both lists, without what another of them makes superfluous.
fn merge(own: Vec<Toleration>, more: Vec<Toleration>) -> Vec<Toleration> {
    let mut all = own;
    all.extend(more);
    let mut merged: Vec<Toleration> = Vec::with_capacity(all.len());
    for (i, one) in all.iter().enumerate() {
        let covered = all.iter().enumerate().any(|(j, other)| {
            // Of two that say the same, the first stays.
            i != j && covers(other, one) && (j < i || !covers(one, other))
        });
        if !covered {
            merged.push(one.clone());
        }
    }
    merged
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Toleration, narrow: &Toleration) -> bool {
    let any_key = text(&wide.key).is_empty();
    if !any_key && wide.key != narrow.key || !text(&wide.effect).is_empty() && wide.effect != narrow.effect {
        return false;
    }
    if text(&wide.effect) == "NoExecute" || text(&wide.effect).is_empty() {
        let long_enough = match (wide.toleration_seconds, narrow.toleration_seconds) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wide), Some(narrow)) => wide >= narrow,
        };
        if !long_enough {
            return false;
        }
    }
    match text(&wide.operator) {
        "" | "Equal" => text(&narrow.operator) != "Exists" && text(&wide.value) == text(&narrow.value),
        "Exists" => true,
        _ => false,
    }
}
