//! EndpointSlices.

use std::collections::HashSet;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;
use skep_api::{meta, name};

use super::checks::{self, one_of, text};
use super::endpoints::validate_ip;
use super::strategy::{Column, Strategy, age};
use super::table_info::info;

/// The strategy of endpoint slices.
#[derive(Debug)]
pub(crate) struct EndpointSlices;

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;
/// So many are shown in a table.
const SHOWN: usize = 3;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("AddressType", "string", "addressType specifies the type of address carried by this EndpointSlice."),
    Column::new(
        "Ports",
        "string",
        "ports specifies the list of network ports exposed by each endpoint in this slice. Each port must have a unique name.",
    ),
    Column::new("Endpoints", "string", "endpoints is a list of unique endpoints in this slice."),
    Column::AGE,
];

impl Strategy for EndpointSlices {
    type Object = EndpointSlice;

    fn info(&self) -> &'static ResourceInfo {
        info("discovery.k8s.io", "endpointslices")
    }

    fn prefix(&self) -> &'static str {
        "/registry/endpointslices/"
    }

    fn default(&self, slice: &mut EndpointSlice) {
        for port in slice.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(&self, slice: &EndpointSlice) -> Errors {
        let mut errors = Errors::new();
        let types = ["FQDN", "IPv4", "IPv6"];
        one_of(&mut errors, &Path::new("addressType"), &slice.address_type, &types);
        let path = Path::new("endpoints");
        if slice.endpoints.len() > MAX_ENDPOINTS {
            errors.push(Error::too_many(&path, slice.endpoints.len(), MAX_ENDPOINTS));
            return errors;
        }
        for (i, endpoint) in slice.endpoints.iter().enumerate() {
            validate_endpoint(endpoint, &slice.address_type, &path.index(i), &mut errors);
        }
        validate_ports(slice.ports.as_deref().unwrap_or_default(), &mut errors);
        errors
    }

    fn validate_update(&self, slice: &EndpointSlice, old: &EndpointSlice) -> Errors {
        if slice.address_type == old.address_type {
            return Errors::new();
        }
        vec![Error::invalid(&Path::new("addressType"), &slice.address_type, meta::IMMUTABLE)]
    }

    fn bumps_generation(&self, slice: &EndpointSlice, old: &EndpointSlice) -> bool {
        // Everything but metadata counts, and of that the labels.
        let bare = |slice: &EndpointSlice| EndpointSlice {
            metadata: ObjectMeta { labels: slice.metadata.labels.clone(), ..ObjectMeta::default() },
            ..slice.clone()
        };
        bare(slice) != bare(old)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, slice: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        let ports = slice.ports.iter().flatten().map(|p| match p.port {
            Some(port) => port.to_string(),
            None => "*".to_owned(),
        });
        let addresses = slice.endpoints.iter().filter_map(|e| e.addresses.first().cloned());
        vec![
            json!(text(&slice.metadata.name)),
            json!(slice.address_type),
            json!(few(ports)),
            json!(few(addresses)),
            json!(age(slice.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        ]
    }
}

/// The first few, and how many more there are.
fn few(items: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = items.collect();
    match all.len() {
        0 => "<unset>".to_owned(),
        n if n <= SHOWN => all.join(","),
        n => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
    }
}

fn validate_endpoint(endpoint: &Endpoint, kind: &str, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("addresses");
    match endpoint.addresses.len() {
        0 => errors.push(Error::required(&list, "must contain at least 1 address")),
        n if n > MAX_ADDRESSES => errors.push(Error::too_many(&list, n, MAX_ADDRESSES)),
        _ => {}
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        let path = list.index(i);
        match (kind, address.parse::<IpAddr>()) {
            ("FQDN", _) => checks::name(errors, &path, address, name::dns1123_subdomain),
            ("IPv4", Ok(IpAddr::V6(_)) | Err(_)) => {
                errors.push(Error::invalid(&path, address, "must be an IPv4 address"))
            }
            ("IPv6", Ok(IpAddr::V4(_)) | Err(_)) => {
                errors.push(Error::invalid(&path, address, "must be an IPv6 address"))
            }
            _ => validate_ip(address, &path, errors),
        }
    }
    let node = text(&endpoint.node_name);
    if !node.is_empty() {
        checks::name(errors, &path.child("nodeName"), node, name::dns1123_subdomain);
    }
    let zone = text(&endpoint.zone);
    if !zone.is_empty() {
        checks::name(errors, &path.child("zone"), zone, name::label_value);
    }
    if let Some(hostname) = &endpoint.hostname {
        checks::name(errors, &path.child("hostname"), hostname, name::dns1123_label);
    }
}

fn validate_ports(ports: &[EndpointPort], errors: &mut Errors) {
    let path = Path::new("ports");
    if ports.len() > MAX_PORTS {
        errors.push(Error::too_many(&path, ports.len(), MAX_PORTS));
        return;
    }
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let own = text(&port.name);
        if !own.is_empty() {
            checks::name(errors, &path.child("name"), own, name::dns1123_label);
        }
        if !names.insert(own) {
            errors.push(Error::duplicate(&path.child("name"), own));
        }
        one_of(errors, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(value: Value) -> EndpointSlice {
        let mut slice = serde_json::from_value(value).unwrap();
        EndpointSlices.default(&mut slice);
        slice
    }

    #[test]
    fn addresses_fit_the_type() {
        let found = EndpointSlices.validate(&slice(json!({"addressType": "IPv4", "endpoints": [
            {"addresses": ["10.0.0.1"]}, {"addresses": ["::2"]}, {"addresses": []}]})));
        assert_eq!(
            found.iter().map(Error::to_string).collect::<Vec<_>>(),
            [
                "endpoints[1].addresses[0]: Invalid value: \"::2\": must be an IPv4 address",
                "endpoints[2].addresses: Required value: must contain at least 1 address"
            ]
        );
    }

    #[test]
    fn the_type_stays_and_generation_follows_content() {
        let old = slice(json!({"addressType": "IPv4", "endpoints": []}));
        let new = slice(json!({"addressType": "IPv6", "endpoints": []}));
        assert_eq!(
            EndpointSlices.validate_update(&new, &old)[0].to_string(),
            "addressType: Invalid value: \"IPv6\": field is immutable"
        );
        let mut annotated = old.clone();
        annotated.metadata.annotations = Some(Default::default());
        assert!(!EndpointSlices.bumps_generation(&annotated, &old));
        assert!(EndpointSlices.bumps_generation(&new, &old));
    }

    #[test]
    fn ports_are_named_apart_and_shown() {
        let one = slice(
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}, {}]}),
        );
        assert_eq!(EndpointSlices.validate(&one)[0].to_string(), "ports[1].name: Duplicate value: \"\"");
        let row = EndpointSlices.row(&one, Timestamp::UNIX_EPOCH);
        assert_eq!(row[1..4], [json!("IPv4"), json!("80,*"), json!("10.0.0.1")]);
    }
}
