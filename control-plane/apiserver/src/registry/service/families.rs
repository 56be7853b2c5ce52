//! Which address families a service has: `ipFamilyPolicy`, `ipFamilies` and `clusterIPs` belong together. KEP-563.
//!
//! [`settle`] fills in what the client left out, before anybody looks at the service; [`check`] and [`check_update`] say what
//! is wrong with what was given.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;
use skep_api::field::{Error, Errors, Path};
use skep_api::name;

use super::{is_headless, kind, needs_cluster_ip};
use crate::registry::checks::{self, text};

pub(super) const IPV4: &str = "IPv4";
pub(super) const IPV6: &str = "IPv6";
const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";
const FIXED: &str = "may not change once set";

/// The family of an address.
pub(super) fn family_of(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { IPV4 } else { IPV6 }
}

fn other(family: &str) -> &'static str {
    if family == IPV4 { IPV6 } else { IPV4 }
}

/// `clusterIPs`, perhaps empty.
pub(super) fn ips(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn families(spec: &ServiceSpec) -> &[String] {
    spec.ip_families.as_deref().unwrap_or_default()
}

fn has_policy(spec: &ServiceSpec, policy: &str) -> bool {
    text(&spec.ip_family_policy) == policy
}

/// Those endpoints, each a host and a port, that have an address of the service's first family; all, if none has. A server
/// that calls a service needs not have the second family itself.
pub(crate) fn of_first_family(spec: &ServiceSpec, endpoints: Vec<(String, u16)>) -> Vec<(String, u16)> {
    let Some(first) = families(spec).first() else { return endpoints };
    let is_first = |(host, _): &(String, u16)| host.parse().is_ok_and(|address| family_of(&address) == first);
    if endpoints.iter().any(is_first) { endpoints.into_iter().filter(is_first).collect() } else { endpoints }
}

/// A headless service without a selector may have endpoints of any family, whatever the cluster's are.
fn takes_any_family(spec: &ServiceSpec) -> bool {
    is_headless(spec) && spec.selector.as_ref().is_none_or(|selector| selector.is_empty())
}

/// Fills in policy and families (upstream's `initIPFamilyFields`). `configured` are the cluster's families, the primary one
/// first; `old` is the service as it was, if it is updated. On errors the spec stays as it is, so that asking again gives the
/// same answer. What [`check`] refuses is left to it.
pub(super) fn settle(spec: &mut ServiceSpec, old: Option<&ServiceSpec>, configured: &[&str]) -> Errors {
    if !needs_cluster_ip(spec) || old.is_some_and(|old| stays_preferred(spec, old)) || !check(spec).is_empty() {
        return Errors::new();
    }
    let mut settled = spec.clone();
    let errors = try_settle(&mut settled, old, configured);
    if errors.is_empty() {
        *spec = settled;
    }
    errors
}

/// A service that prefers two families keeps those it has when the cluster gets or loses one.
fn stays_preferred(spec: &ServiceSpec, old: &ServiceSpec) -> bool {
    kind(spec) == kind(old)
        && has_policy(spec, PREFER)
        && (has_policy(old, PREFER) || old.ip_family_policy.is_none())
        && ips(spec) == ips(old)
        && families(spec) == families(old)
}

fn try_settle(spec: &mut ServiceSpec, old: Option<&ServiceSpec>, configured: &[&str]) -> Errors {
    if spec.ip_family_policy.is_none() {
        let kept = old.and_then(|old| old.ip_family_policy.clone());
        let usual = if takes_any_family(spec) { REQUIRE } else { SINGLE };
        spec.ip_family_policy = Some(kept.unwrap_or_else(|| usual.to_owned()));
    }
    let path = Path::new("spec");
    let at = path.child("ipFamilyPolicy");
    let mut errors = Errors::new();
    let mut wrong = |why: &str, spec: &ServiceSpec| errors.push(Error::invalid(&at, &spec.ip_family_policy, why));
    if let Some(old) = old {
        if has_policy(spec, SINGLE) {
            downgrade(spec, old);
        } else {
            if (1..ips(old).len()).contains(&ips(spec).len()) {
                wrong("must be 'SingleStack' to release the secondary cluster IP", spec);
            }
            if (1..families(old).len()).contains(&families(spec).len()) {
                wrong("must be 'SingleStack' to release the secondary IP family", spec);
            }
        }
    }
    if has_policy(spec, SINGLE) {
        for (count, what) in [(ips(spec).len(), "cluster IPs"), (families(spec).len(), "IP families")] {
            if count == 2 {
                let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                wrong(&why, spec);
            }
        }
    }
    errors.extend(infer(spec, configured));
    if !errors.is_empty() {
        return errors;
    }
    let any = takes_any_family(spec);
    if !any {
        errors.extend(unconfigured(spec, configured));
        if !errors.is_empty() {
            return errors;
        }
    }
    let two = !has_policy(spec, SINGLE) && (any || configured.len() == 2);
    let families = spec.ip_families.get_or_insert_default();
    if families.is_empty() {
        families.extend(configured.first().map(|family| (*family).to_owned()));
    }
    if two && let [only] = &families[..] {
        let second = other(only).to_owned();
        families.push(second);
    }
    errors
}

/// The policy alone is a clear word, if addresses and families were left as they were: the second ones go.
fn downgrade(spec: &mut ServiceSpec, old: &ServiceSpec) {
    if ips(spec) == ips(old) {
        spec.cluster_ips.get_or_insert_default().truncate(1);
    }
    if families(spec) == families(old) {
        spec.ip_families.get_or_insert_default().truncate(1);
    }
}

/// Adds the families of addresses that were given without.
fn infer(spec: &mut ServiceSpec, configured: &[&str]) -> Errors {
    let mut errors = Errors::new();
    let list = Path::new("spec.clusterIPs");
    let given = ips(spec).to_owned();
    let families = spec.ip_families.get_or_insert_default();
    for (i, ip) in given.iter().enumerate() {
        // `None`, or text that was refused before.
        let Ok(address) = ip.parse() else { break };
        let family = family_of(&address);
        if i < families.len() {
            continue;
        }
        if configured.contains(&family) {
            families.push(family.to_owned());
        } else {
            errors.push(Error::invalid(&list.index(i), &given, format!("{family} is not configured on this cluster")));
        }
    }
    errors
}

/// What the service asks for and the cluster does not have.
fn unconfigured(spec: &ServiceSpec, configured: &[&str]) -> Errors {
    let mut errors = Errors::new();
    let path = Path::new("spec");
    if has_policy(spec, REQUIRE) && configured.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(Error::invalid(&path.child("ipFamilyPolicy"), &spec.ip_family_policy, why));
    }
    let list = path.child("ipFamilies");
    for (i, family) in families(spec).iter().enumerate() {
        if !configured.contains(&family.as_str()) {
            errors.push(Error::invalid(&list.index(i), family, "not configured on this cluster"));
        }
    }
    errors
}

/// What is wrong with the three fields, whatever the cluster (upstream's `ValidateServiceClusterIPsRelatedFields`).
pub(super) fn check(spec: &ServiceSpec) -> Errors {
    let mut errors = Errors::new();
    if !needs_cluster_ip(spec) {
        return errors;
    }
    let path = Path::new("spec");
    let list = path.child("clusterIPs");
    let (one, given) = (text(&spec.cluster_ip), ips(spec));
    if one.is_empty() && !given.is_empty() {
        errors.push(Error::invalid(&list, given, "must be empty when `clusterIP` is not specified"));
    } else if !one.is_empty() && given.is_empty() {
        errors.push(Error::required(&list, ""));
    } else if !one.is_empty() && given[0] != one {
        errors.push(Error::invalid(&list, given, "first value must match `clusterIP`"));
    }
    check_families(spec, &path, &mut errors);
    if let Some(policy) = &spec.ip_family_policy
        && ![SINGLE, PREFER, REQUIRE].contains(&policy.as_str())
    {
        errors.push(Error::not_supported(&path.child("ipFamilyPolicy"), policy, &[PREFER, REQUIRE, SINGLE]));
    }
    check_ips(spec, &list, &mut errors);
    errors
}

fn check_families(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Errors) {
    let list = path.child("ipFamilies");
    let given = families(spec);
    for (i, family) in given.iter().enumerate() {
        if ![IPV4, IPV6].contains(&family.as_str()) {
            errors.push(Error::not_supported(&list.index(i), family, &[IPV4, IPV6]));
        }
        if given[..i].contains(family) {
            errors.push(Error::duplicate(&list.index(i), family));
        }
    }
}

fn check_ips(spec: &ServiceSpec, list: &Path<'_>, errors: &mut Errors) {
    let given = ips(spec);
    let mut addresses = Vec::with_capacity(given.len());
    let mut misplaced = false;
    for (i, ip) in given.iter().enumerate() {
        if i == 0 && ip == "None" {
            if given.len() > 1 {
                misplaced = true;
                errors.push(Error::invalid(list, given, "'None' must be the first and only value"));
            }
            continue;
        }
        checks::name(errors, &list.index(i), ip, name::ip);
        addresses.extend(ip.parse::<IpAddr>());
    }
    if given.len() > 2 {
        errors.push(Error::invalid(list, given, "may only hold up to 2 values"));
    }
    // What follows would only confuse.
    if misplaced || is_headless(spec) || addresses.len() < given.len() {
        return;
    }
    if given.len() > 1 && addresses.iter().all(|address| family_of(address) == family_of(&addresses[0])) {
        errors.push(Error::invalid(list, given, "may specify no more than one IP for each IP family"));
    }
    for (i, (address, family)) in addresses.iter().zip(families(spec)).enumerate() {
        if [IPV4, IPV6].contains(&family.as_str()) && family_of(address) != family {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(Error::invalid(&list.index(i), &given[i], why));
        }
    }
}

/// The first address and family stay while a service has any; the second may come and go, but not change.
pub(super) fn check_update(spec: &ServiceSpec, old: &ServiceSpec) -> Errors {
    let mut errors = Errors::new();
    if !needs_cluster_ip(spec) || !needs_cluster_ip(old) || (is_headless(spec) && is_headless(old)) {
        return errors;
    }
    let path = Path::new("spec");
    let list = path.child("clusterIPs");
    if ips(spec).is_empty() && !ips(old).is_empty() {
        errors.push(Error::invalid(&list.index(0), &spec.cluster_ips, "primary clusterIP can not be unset"));
    }
    for i in changed(ips(spec), ips(old)) {
        errors.push(Error::invalid(&list.index(i), &spec.cluster_ips, FIXED));
    }
    // A service that was or gets headless says so by its address.
    if is_headless(spec) == is_headless(old) {
        let list = path.child("ipFamilies");
        errors.extend(
            changed(families(spec), families(old)).map(|_| Error::invalid(&list.index(0), &spec.ip_families, FIXED)),
        );
    }
    errors
}

/// Places that both have and where they differ.
fn changed<'a>(new: &'a [String], old: &'a [String]) -> impl Iterator<Item = usize> + 'a {
    new.iter().zip(old).enumerate().filter(|(_, (new, old))| new != old).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_the_first_family_are_called_before_others() {
        let endpoints = |hosts: &[&str]| hosts.iter().map(|host| ((*host).to_owned(), 443)).collect::<Vec<_>>();
        let both = endpoints(&["10.0.0.1", "fd00::1", "10.0.0.2"]);
        let spec = |families: &[&str]| ServiceSpec {
            ip_families: Some(families.iter().map(|family| (*family).to_owned()).collect()),
            ..ServiceSpec::default()
        };
        assert_eq!(of_first_family(&spec(&[IPV4, IPV6]), both.clone()), endpoints(&["10.0.0.1", "10.0.0.2"]));
        assert_eq!(of_first_family(&spec(&[IPV6]), both.clone()), endpoints(&["fd00::1"]));
        assert_eq!(of_first_family(&spec(&[]), both.clone()), both);
        let only = endpoints(&["fd00::1"]);
        assert_eq!(of_first_family(&spec(&[IPV4, IPV6]), only.clone()), only);
    }
}
