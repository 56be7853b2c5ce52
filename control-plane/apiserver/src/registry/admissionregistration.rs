//! `admissionregistration.k8s.io`: which webhooks and policies judge requests. Who asks them is [`crate::admission`].

mod mutating_webhook_configuration;
mod policy;
mod validating_admission_policy;
mod validating_admission_policy_binding;
mod validating_webhook_configuration;
mod webhook;

pub(crate) use mutating_webhook_configuration::MutatingWebhookConfigurations;
pub(crate) use validating_admission_policy::ValidatingAdmissionPolicies;
pub(crate) use validating_admission_policy_binding::ValidatingAdmissionPolicyBindings;
pub(crate) use validating_webhook_configuration::ValidatingWebhookConfigurations;

/// The group's name.
const GROUP: &str = "admissionregistration.k8s.io";
