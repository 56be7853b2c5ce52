//! Leases.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::checks::{not_negative, positive, text};
use super::strategy::{Column, Strategy, age};
use super::table_info::info;

/// The strategy of leases.
#[derive(Debug)]
pub(crate) struct Leases;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Holder", "string", "holderIdentity contains the identity of the holder of a current lease."),
    Column::AGE,
];

impl Strategy for Leases {
    type Object = Lease;

    fn info(&self) -> &'static ResourceInfo {
        info("coordination.k8s.io", "leases")
    }

    fn prefix(&self) -> &'static str {
        "/registry/leases/"
    }

    fn validate(&self, lease: &Lease) -> Errors {
        let mut errors = Errors::new();
        let empty = LeaseSpec::default();
        let spec = lease.spec.as_ref().unwrap_or(&empty);
        let path = Path::new("spec");
        positive(&mut errors, &path.child("leaseDurationSeconds"), spec.lease_duration_seconds);
        not_negative(&mut errors, &path.child("leaseTransitions"), spec.lease_transitions);
        if spec.preferred_holder.as_ref().is_some_and(|h| !h.is_empty()) && text(&spec.strategy).is_empty() {
            let why = "must be specified when `preferredHolder` is specified";
            errors.push(Error::required(&path.child("strategy"), why));
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, lease: &Lease, now: Timestamp) -> Vec<Value> {
        vec![
            json!(text(&lease.metadata.name)),
            json!(lease.spec.as_ref().map_or("", |s| text(&s.holder_identity))),
            json!(age(lease.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts() {
        let lease =
            serde_json::from_value(json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}})).unwrap();
        assert_eq!(
            Leases.validate(&lease).iter().map(Error::to_string).collect::<Vec<_>>(),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
    }
}
