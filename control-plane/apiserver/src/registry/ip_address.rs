//! IPAddresses: who holds which cluster IP.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::meta;
use skep_api::name::{self, Validator};
use skep_api::resource::ResourceInfo;

use super::checks::text;
use super::service::ADDRESS_PREFIX;
use super::strategy::{Column, Strategy, age};
use super::table_info::info;

/// The strategy of IP addresses.
#[derive(Debug)]
pub(crate) struct IpAddresses;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("ParentRef", "string", "ParentRef references the resource that an IPAddress is attached to."),
    Column::AGE,
];

impl Strategy for IpAddresses {
    type Object = IPAddress;

    fn info(&self) -> &'static ResourceInfo {
        info("networking.k8s.io", "ipaddresses")
    }

    fn prefix(&self) -> &'static str {
        ADDRESS_PREFIX
    }

    fn name_validator(&self) -> Validator {
        canonical_address
    }

    fn validate(&self, address: &IPAddress) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("spec.parentRef");
        let Some(spec) = &address.spec else {
            errors.push(Error::required(&path, ""));
            return errors;
        };
        for (field, value) in [("resource", &spec.parent_ref.resource), ("name", &spec.parent_ref.name)] {
            if value.is_empty() {
                errors.push(Error::required(&path.child(field), ""));
            }
        }
        errors
    }

    fn validate_update(&self, address: &IPAddress, old: &IPAddress) -> Errors {
        if address.spec == old.spec {
            return Errors::new();
        }
        let parent = address.spec.as_ref().map(|s| &s.parent_ref);
        vec![Error::invalid(&Path::new("spec.parentRef"), parent, meta::IMMUTABLE)]
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, address: &IPAddress, now: Timestamp) -> Vec<Value> {
        let parent = address.spec.as_ref().map_or_else(
            || "<none>".to_owned(),
            |spec| {
                let parent = &spec.parent_ref;
                let group = text(&parent.group);
                let dot = if group.is_empty() { "" } else { "." };
                let namespace = text(&parent.namespace);
                let slash = if namespace.is_empty() { "" } else { "/" };
                format!("{}{dot}{group}/{namespace}{slash}{}", parent.resource, parent.name)
            },
        );
        vec![
            json!(text(&address.metadata.name)),
            json!(parent),
            json!(age(address.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        ]
    }
}

/// The one way of writing an address that serves as its name.
fn canonical_address(name: &str) -> Vec<String> {
    match name.parse::<IpAddr>() {
        Err(_) => name::ip(name),
        Ok(ip) if ip.to_string() != name => vec![format!("must be in canonical form (\"{ip}\")")],
        Ok(_) => vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_canonical_addresses() {
        assert!(canonical_address("10.0.0.1").is_empty());
        assert_eq!(canonical_address("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
        assert_eq!(canonical_address("web").len(), 1);
    }

    #[test]
    fn a_row_names_the_holder() {
        let address = serde_json::from_value(json!({"metadata": {"name": "10.0.0.1"},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "kubernetes"}}}))
        .unwrap();
        assert_eq!(IpAddresses.row(&address, Timestamp::UNIX_EPOCH)[1], "services/default/kubernetes");
    }
}
