//! ServiceCIDRs: the ranges cluster IPs come from.

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::resource::ResourceInfo;

use super::GROUP;
use crate::registry::cell;
use crate::registry::checks::immutable;
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;

/// The strategy of service ranges.
#[derive(Debug)]
pub(crate) struct ServiceCidrs;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "CIDRs",
        "string",
        "CIDRs defines the IP blocks in CIDR notation from which to assign service cluster IPs.",
    ),
    Column::AGE,
];

impl Strategy for ServiceCidrs {
    type Object = ServiceCIDR;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "servicecidrs")
    }

    fn prefix(&self) -> &'static str {
        "/registry/servicecidrs/"
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, range: &mut ServiceCIDR) {
        range.status = None;
    }

    fn validate(&self, range: &ServiceCIDR) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("spec.cidrs");
        let cidrs = range.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default();
        if cidrs.is_empty() {
            errors.push(Error::required(&path, "at least one CIDR required"));
        }
        if cidrs.len() > 2 {
            errors.push(Error::invalid(&path, cidrs, "may only hold up to 2 values"));
        }
        let mut parsed = Vec::new();
        for (i, text) in cidrs.iter().enumerate() {
            let at = path.index(i);
            match text.parse::<IpNet>() {
                Err(_) => {
                    let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
                    errors.push(Error::invalid(&at, text, why));
                }
                Ok(net) if net.trunc().to_string() != *text => {
                    let why = format!("must be in canonical form ({:?})", net.trunc().to_string());
                    errors.push(Error::invalid(&at, text, why));
                }
                Ok(net) => parsed.push(net),
            }
        }
        if let [IpNet::V4(_), IpNet::V4(_)] | [IpNet::V6(_), IpNet::V6(_)] = parsed[..] {
            let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
            errors.push(Error::invalid(&path, cidrs, why));
        }
        errors
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, range: &mut ServiceCIDR, old: &ServiceCIDR) {
        range.status.clone_from(&old.status);
    }

    /// A second network may be added: that is how a cluster becomes dual-stack.
    fn validate_update(&self, range: &ServiceCIDR, old: &ServiceCIDR) -> Errors {
        let cidrs = |range: &'_ ServiceCIDR| range.spec.as_ref().and_then(|s| s.cidrs.clone()).unwrap_or_default();
        let (new, old) = (cidrs(range), cidrs(old));
        let path = Path::new("spec.cidrs");
        let mut errors = Errors::new();
        if new.len() != old.len() && (new.len(), old.len()) != (2, 1) {
            immutable(&mut errors, &path, &new, &old);
            return errors;
        }
        for (i, (new, old)) in new.iter().zip(&old).enumerate() {
            immutable(&mut errors, &path.index(i), new, old);
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, range: &mut ServiceCIDR, old: &ServiceCIDR) {
        range.spec.clone_from(&old.spec);
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, range: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
        let cidrs = range.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default();
        vec![cell::name(&range.metadata), json!(cidrs.join(",")), cell::age(&range.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_network_of_a_family() {
        let range = |cidrs: Value| serde_json::from_value(json!({"spec": {"cidrs": cidrs}})).unwrap();
        assert_eq!(ServiceCidrs.validate(&range(json!(["10.0.0.0/16", "fd00::/112"]))), []);
        for (cidrs, why) in [
            (json!([]), "spec.cidrs: Required value: at least one CIDR required"),
            (
                json!(["10.0.0.1/16"]),
                "spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must be in canonical form (\"10.0.0.0/16\")",
            ),
        ] {
            assert_eq!(ServiceCidrs.validate(&range(cidrs))[0].to_string(), why);
        }
    }
    #[test]
    fn only_a_second_network_may_come_later() {
        let range = |cidrs: Value| serde_json::from_value(json!({"spec": {"cidrs": cidrs}})).unwrap();
        let changed = |new: Value, old: Value| {
            let errors = ServiceCidrs.validate_update(&range(new), &range(old));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (v4, both) = (json!(["10.0.0.0/16"]), json!(["10.0.0.0/16", "fd00::/112"]));
        assert_eq!(changed(both.clone(), v4.clone()), [] as [&str; 0]);
        assert_eq!(changed(both.clone(), both.clone()), [] as [&str; 0]);
        assert_eq!(
            changed(json!(["10.1.0.0/16", "fd00::/112"]), v4.clone()),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"]
        );
        assert_eq!(
            changed(json!(["10.0.0.0/16", "fd01::/112"]), both.clone()),
            ["spec.cidrs[1]: Invalid value: \"fd01::/112\": field is immutable"]
        );
        assert_eq!(changed(v4, both), ["spec.cidrs: Invalid value: [\"10.0.0.0/16\"]: field is immutable"]);
    }
}
