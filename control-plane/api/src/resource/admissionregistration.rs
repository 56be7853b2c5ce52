//! `admissionregistration.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "admissionregistration.k8s.io",
        kind: "MutatingWebhookConfiguration",
        plural: "mutatingwebhookconfigurations",
        singular: "mutatingwebhookconfiguration",
        categories: strs!["api-extensions"],
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingAdmissionPolicy",
        plural: "validatingadmissionpolicies",
        singular: "validatingadmissionpolicy",
        categories: strs!["api-extensions"],
        namespaced: false,
        subresources: const { &[status("ValidatingAdmissionPolicy")] },
        ..ROW
    }),
    resource(Row {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingAdmissionPolicyBinding",
        plural: "validatingadmissionpolicybindings",
        singular: "validatingadmissionpolicybinding",
        categories: strs!["api-extensions"],
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "admissionregistration.k8s.io",
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        categories: strs!["api-extensions"],
        namespaced: false,
        ..ROW
    }),
];
