//! PriorityClasses.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_api::status::StatusError;

use super::cell;
use super::checks::{immutable, or, text};
use super::strategy::{Column, Strategy};
use super::table_info::info;

/// The strategy of priority classes.
#[derive(Debug)]
pub(crate) struct PriorityClasses;

/// A class every cluster has.
pub(crate) struct SystemClass {
    pub(crate) name: &'static str,
    pub(crate) value: i32,
    pub(crate) description: &'static str,
}

/// The classes every cluster has.
pub(crate) const SYSTEM: [SystemClass; 2] = [
    SystemClass {
        name: "system-node-critical",
        value: 2_000_001_000,
        description: "Used for system critical pods that must not be moved from their current node.",
    },
    SystemClass {
        name: "system-cluster-critical",
        value: 2_000_000_000,
        description: "Used for system critical pods that must run in the cluster, but can be moved to another node if \
                      necessary.",
    },
];
const HIGHEST: i32 = 1_000_000_000;
const POLICIES: [&str; 2] = ["PreemptLowerPriority", "Never"];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Value",
        "integer",
        "value represents the integer value of this priority class. This is the actual priority that pods receive when \
         they have the name of this class in their pod spec.",
    ),
    Column::new(
        "Global-Default",
        "boolean",
        "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that \
         do not have any priority class.",
    ),
    Column::AGE,
    Column::new(
        "PreemptionPolicy",
        "string",
        "preemptionPolicy is the Policy for preempting pods with lower priority.",
    ),
];

impl Strategy for PriorityClasses {
    type Object = PriorityClass;

    fn info(&self) -> &'static ResourceInfo {
        info("scheduling.k8s.io", "priorityclasses")
    }

    fn prefix(&self) -> &'static str {
        "/registry/priorityclasses/"
    }

    fn default(&self, class: &mut PriorityClass) {
        or(&mut class.preemption_policy, "PreemptLowerPriority");
    }

    fn validate(&self, class: &PriorityClass) -> Errors {
        let mut errors = Errors::new();
        let name = text(&class.metadata.name);
        if name.starts_with("system-") {
            if let Err(why) = check_system(class) {
                let why = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                errors.push(Error::forbidden(&Path::new("metadata.name"), why));
            }
        } else if class.value > HIGHEST {
            let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            errors.push(Error::forbidden(&Path::new("value"), why));
        }
        let policy = text(&class.preemption_policy);
        if !POLICIES.contains(&policy) {
            errors.push(Error::not_supported(&Path::new("preemptionPolicy"), policy, &POLICIES));
        }
        errors
    }

    fn validate_update(&self, class: &PriorityClass, old: &PriorityClass) -> Errors {
        let mut errors = Errors::new();
        if class.value != old.value {
            errors.push(Error::forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let path = Path::new("preemptionPolicy");
        immutable(&mut errors, &path, &class.preemption_policy, &old.preemption_policy);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check_delete(&self, class: &PriorityClass) -> Result<(), StatusError> {
        let name = text(&class.metadata.name);
        if SYSTEM.iter().any(|system| system.name == name) {
            let why = "this is a system priority class and cannot be deleted";
            return Err(StatusError::forbidden(self.info(), name, why));
        }
        Ok(())
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, class: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            cell::name(&class.metadata),
            json!(class.value),
            json!(class.global_default.unwrap_or(false)),
            cell::age(&class.metadata, now),
            cell::text(&class.preemption_policy),
        ]
    }
}

fn check_system(class: &PriorityClass) -> Result<(), String> {
    let name = text(&class.metadata.name);
    let Some(system) = SYSTEM.iter().find(|system| system.name == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if class.value != system.value {
        return Err(format!("value of {name} PriorityClass must be {}", system.value));
    }
    if class.global_default == Some(true) {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i32) -> PriorityClass {
        let mut class = serde_json::from_value(json!({"metadata": {"name": name}, "value": value})).unwrap();
        PriorityClasses.default(&mut class);
        class
    }

    #[test]
    fn system_names_and_values_are_reserved() {
        assert_eq!(PriorityClasses.validate(&class("mine", 5)), []);
        assert_eq!(PriorityClasses.validate(&class("system-node-critical", 2_000_001_000)), []);
        assert_eq!(
            PriorityClasses.validate(&class("system-mine", 5))[0].to_string(),
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: \
             system-mine is not a known system priority class"
        );
        assert_eq!(
            PriorityClasses.validate(&class("mine", 1_000_000_001))[0].to_string(),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"
        );
        assert!(PriorityClasses.check_delete(&class("system-node-critical", 0)).is_err());
    }
}
