//! Endpoints.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;

use super::checks::{self, one_of, text};
use super::strategy::{Column, Strategy, age};
use super::table_info::info;

/// The strategy of endpoints.
#[derive(Debug)]
pub(crate) struct EndpointsStrategy;

/// So many are shown in a table.
const SHOWN: usize = 3;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Endpoints", "string", "The set of all endpoints is the union of all subsets."),
    Column::AGE,
];

impl Strategy for EndpointsStrategy {
    type Object = Endpoints;

    fn info(&self) -> &'static ResourceInfo {
        info("", "endpoints")
    }

    fn prefix(&self) -> &'static str {
        "/registry/services/endpoints/"
    }

    fn default(&self, endpoints: &mut Endpoints) {
        let ports = endpoints.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten());
        for port in ports.filter(|p| text(&p.protocol).is_empty()) {
            port.protocol = Some("TCP".to_owned());
        }
    }

    fn validate(&self, endpoints: &Endpoints) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("subsets");
        for (i, subset) in endpoints.subsets.iter().flatten().enumerate() {
            validate_subset(subset, &path.index(i), &mut errors);
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, endpoints: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![
            json!(text(&endpoints.metadata.name)),
            json!(addresses(endpoints)),
            json!(age(endpoints.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        ]
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path<'_>, errors: &mut Errors) {
    let none = |list: &Option<Vec<EndpointAddress>>| list.as_ref().is_none_or(Vec::is_empty);
    if none(&subset.addresses) && none(&subset.not_ready_addresses) {
        errors.push(Error::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for (field, list) in [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)] {
        let list_path = path.child(field);
        for (i, address) in list.iter().flatten().enumerate() {
            let path = list_path.index(i);
            validate_ip(&address.ip, &path.child("ip"), errors);
            let hostname = text(&address.hostname);
            if !hostname.is_empty() {
                checks::name(errors, &path.child("hostname"), hostname, name::dns1123_label);
            }
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    let list = path.child("ports");
    for (i, port) in ports.iter().enumerate() {
        let path = list.index(i);
        let own = text(&port.name);
        if own.is_empty() && ports.len() > 1 {
            errors.push(Error::required(&path.child("name"), ""));
        } else if !own.is_empty() {
            checks::name(errors, &path.child("name"), own, name::dns1123_label);
        }
        checks::port_number(errors, &path.child("port"), port.port);
        one_of(errors, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
    }
}

/// An address that leads to one machine of the network.
pub(crate) fn validate_ip(ip: &str, path: &Path<'_>, errors: &mut Errors) {
    match ip.parse::<IpAddr>() {
        Ok(address) => {
            if let Some(why) = checks::special_address(address) {
                errors.push(Error::invalid(path, ip, why));
            }
        }
        Err(_) => checks::name(errors, path, ip, name::ip),
    }
}

/// The first few `address:port`, and how many more there are.
fn addresses(endpoints: &Endpoints) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut total = 0;
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.as_deref().unwrap_or_default();
        for address in subset.addresses.iter().flatten() {
            if ports.is_empty() {
                total += 1;
                shown.push(address.ip.clone());
            }
            for port in ports {
                total += 1;
                if shown.len() < SHOWN {
                    shown.push(if address.ip.contains(':') {
                        format!("[{}]:{}", address.ip, port.port)
                    } else {
                        format!("{}:{}", address.ip, port.port)
                    });
                }
            }
        }
    }
    shown.truncate(SHOWN);
    match (shown.is_empty(), total - shown.len()) {
        (true, _) => "<none>".to_owned(),
        (false, 0) => shown.join(","),
        (false, more) => format!("{} + {more} more...", shown.join(",")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(value: Value) -> Endpoints {
        let mut endpoints = serde_json::from_value(value).unwrap();
        EndpointsStrategy.default(&mut endpoints);
        endpoints
    }

    #[test]
    fn addresses_lead_somewhere() {
        let found = EndpointsStrategy.validate(&endpoints(json!({"subsets": [
            {"addresses": [{"ip": "127.0.0.1"}, {"ip": "10.0.0.1"}, {"ip": "x"}], "ports": [{"port": 0}]}, {}]})));
        assert_eq!(
            found[0].to_string(),
            "subsets[0].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)"
        );
        assert!(found[1].to_string().contains("must be a valid IP address"));
        assert!(found[2].to_string().starts_with("subsets[0].ports[0].port"));
        assert_eq!(found[3].to_string(), "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`");
    }

    #[test]
    fn a_row_shows_a_few() {
        let ips: Vec<Value> = (1..=5).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
        let row = EndpointsStrategy
            .row(&endpoints(json!({"subsets": [{"addresses": ips, "ports": [{"port": 80}]}]})), Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
        assert_eq!(EndpointsStrategy.row(&endpoints(json!({})), Timestamp::UNIX_EPOCH)[1], "<none>");
    }
}
