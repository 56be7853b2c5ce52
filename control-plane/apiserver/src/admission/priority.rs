//! Priority: a pod's priority is that of its class; at most one class is the default.

use k8s_openapi::api::{core::v1::Pod, scheduling::v1::PriorityClass};
use skep_api::status::StatusError;

use super::{Admission, Attributes, Operation};
use crate::registry::{checks::text, object::Object, priority_class};

const PREEMPT: &str = "PreemptLowerPriority";

/// What a class gives a pod.
struct Given {
    class: String,
    value: i32,
    policy: String,
}

fn given(class: &PriorityClass) -> Given {
    Given {
        class: text(&class.metadata.name).to_owned(),
        value: class.value,
        policy: class.preemption_policy.clone().unwrap_or_else(|| PREEMPT.to_owned()),
    }
}

impl Admission {
    /// Sets the priority of a new pod.
    pub(super) async fn priority(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn Object,
    ) -> Result<(), StatusError> {
        let Some(pod) = object.as_any().downcast_ref::<Pod>() else { return Ok(()) };
        let named = pod.spec.as_ref().map_or("", |spec| text(&spec.priority_class_name));
        let given = match named {
            "" => self.default_priority(),
            name => match priority_class::SYSTEM.iter().find(|system| system.name == name) {
                Some(system) => Given { class: name.to_owned(), value: system.value, policy: PREEMPT.to_owned() },
                None => {
                    let found = self.priority_classes.find(&self.storage, name, given).await?;
                    found.ok_or_else(|| {
                        attributes.forbidden(object, format!("no PriorityClass with name {name} was found"))
                    })?
                }
            },
        };
        let spec = pod.spec.as_ref();
        if let Some(priority) = spec.and_then(|spec| spec.priority).filter(|priority| *priority != given.value) {
            let why = format!(
                "the integer value of priority ({priority}) must not be provided in pod spec; priority admission \
                 controller computed {} from the given PriorityClass name",
                given.value
            );
            return Err(attributes.forbidden(object, why));
        }
        let policy = spec.and_then(|spec| spec.preemption_policy.as_ref()).filter(|policy| **policy != given.policy);
        if let Some(policy) = policy {
            let why = format!(
                "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission \
                 controller computed {} from the given PriorityClass name",
                given.policy
            );
            return Err(attributes.forbidden(object, why));
        }
        let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return Ok(()) };
        let spec = pod.spec.get_or_insert_default();
        spec.priority = Some(given.value);
        spec.preemption_policy = Some(given.policy);
        if !given.class.is_empty() {
            spec.priority_class_name = Some(given.class);
        }
        Ok(())
    }

    /// What a pod without a class gets.
    fn default_priority(&self) -> Given {
        let all = self.priority_classes.all();
        let defaults = all.iter().map(|(_, class)| class).filter(|class| class.global_default == Some(true));
        match defaults.min_by_key(|class| class.value) {
            Some(class) => given(class),
            None => Given { class: String::new(), value: 0, policy: PREEMPT.to_owned() },
        }
    }

    /// There is one default class at most.
    pub(super) fn only_default_priority(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn Object,
    ) -> Result<(), StatusError> {
        let class = object.as_any().downcast_ref::<PriorityClass>();
        if class.and_then(|class| class.global_default) != Some(true) {
            return Ok(());
        }
        let default = self.default_priority().class;
        if default.is_empty() || (attributes.operation == Operation::Update && default == object.name()) {
            return Ok(());
        }
        let why = format!("PriorityClass {default} is already marked as default. Only one default can exist");
        Err(attributes.forbidden(object, why))
    }
}

/// An update that leaves the priority out keeps it.
pub(super) fn keep_priority(attributes: &Attributes<'_>, object: &mut dyn Object) {
    let old = attributes.old.and_then(|old| old.as_any().downcast_ref::<Pod>()).and_then(|old| old.spec.as_ref());
    let (Some(old), Some(pod)) = (old, object.as_any_mut().downcast_mut::<Pod>()) else { return };
    let spec = pod.spec.get_or_insert_default();
    spec.priority = spec.priority.or(old.priority);
    if spec.preemption_policy.is_none() {
        spec.preemption_policy.clone_from(&old.preemption_policy);
    }
}
