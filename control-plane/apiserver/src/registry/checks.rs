//! Small checks that many strategies share, with upstream's messages.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as WireSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use skep_api::Quantity;
use skep_api::field::{Error, Errors, Path};
use skep_api::meta;
use skep_api::name::{self, Validator};

pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(crate) const POSITIVE: &str = "must be greater than 0";

/// The text of an optional string, empty when absent.
pub(crate) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Adds what `validator` has to say about `value`.
pub(crate) fn name(errors: &mut Errors, path: &Path<'_>, value: &str, validator: Validator) {
    errors.extend(validator(value).into_iter().map(|message| Error::invalid(path, value, message)));
}

/// A number that may not be negative.
pub(crate) fn not_negative(errors: &mut Errors, path: &Path<'_>, value: Option<impl Into<i64>>) {
    if let Some(value) = value.map(Into::into).filter(|v| *v < 0) {
        errors.push(Error::invalid(path, value, NOT_NEGATIVE));
    }
}

/// A number that must be above zero.
pub(crate) fn positive(errors: &mut Errors, path: &Path<'_>, value: Option<impl Into<i64>>) {
    if let Some(value) = value.map(Into::into).filter(|v| *v <= 0) {
        errors.push(Error::invalid(path, value, POSITIVE));
    }
}

/// A value out of a fixed set; an empty one is missing.
pub(crate) fn one_of(errors: &mut Errors, path: &Path<'_>, value: &str, supported: &[&str]) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !supported.contains(&value) {
        errors.push(Error::not_supported(path, value, supported));
    }
}

/// A port number, or the name of a port.
pub(crate) fn port(errors: &mut Errors, path: &Path<'_>, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => {
            let complaints = name::port_number(i64::from(*number));
            errors.extend(complaints.into_iter().map(|m| Error::invalid(path, number, m)));
        }
        IntOrString::String(text) => name(errors, path, text, name::port_name),
    }
}

/// A number, or a percentage.
pub(crate) fn amount(errors: &mut Errors, path: &Path<'_>, amount: &IntOrString) {
    match amount {
        IntOrString::Int(n) => not_negative(errors, path, Some(*n)),
        IntOrString::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                           '93%', regex used for validation is '[0-9]+%')";
                errors.push(Error::invalid(path, text, why));
            }
        }
    }
}

/// The number of such an amount; a percentage without its sign.
pub(crate) fn amount_number(amount: &IntOrString) -> i32 {
    match amount {
        IntOrString::Int(n) => *n,
        IntOrString::String(s) => s.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0),
    }
}

/// A percentage may not be above the whole.
pub(crate) fn not_more_than_all(errors: &mut Errors, path: &Path<'_>, amount: &IntOrString) {
    if matches!(amount, IntOrString::String(_)) && amount_number(amount) > 100 {
        errors.push(Error::invalid(path, amount, "must not be greater than 100%"));
    }
}

/// A value that must stay as it was.
pub(crate) fn immutable<T: PartialEq + Serialize>(errors: &mut Errors, path: &Path<'_>, new: &T, old: &T) {
    if new != old {
        errors.push(Error::invalid(path, new, meta::IMMUTABLE));
    }
}

/// A text that must be there.
pub(crate) fn required(errors: &mut Errors, path: &Path<'_>, value: &str) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
    }
}

/// A label selector.
pub(crate) fn selector(errors: &mut Errors, path: &Path<'_>, selector: &WireSelector) {
    errors.extend(meta::validate_label_selector(selector, path));
}

/// Sets a text that is empty or missing.
pub(crate) fn or(field: &mut Option<String>, value: &str) {
    if text(field).is_empty() {
        *field = Some(value.to_owned());
    }
}

/// Whether there is at most one address of each family. What is none does not count.
pub(crate) fn one_of_each_family(addresses: impl IntoIterator<Item = std::net::IpAddr>) -> bool {
    let (mut v4, mut v6) = (0, 0);
    for address in addresses {
        *(if address.is_ipv4() { &mut v4 } else { &mut v6 }) += 1;
    }
    v4 <= 1 && v6 <= 1
}

/// A port number that must be given.
pub(crate) fn port_number(errors: &mut Errors, path: &Path<'_>, number: i32) {
    let complaints = name::port_number(i64::from(number));
    errors.extend(complaints.into_iter().map(|m| Error::invalid(path, number, m)));
}

/// A quantity that may not be negative. One that does not parse is named here, too.
pub(crate) fn quantity(errors: &mut Errors, path: &Path<'_>, wire: &WireQuantity) -> Option<Quantity> {
    match Quantity::parse(&wire.0) {
        Ok(quantity) => {
            if quantity.is_negative() {
                errors.push(Error::invalid(path, &wire.0, NOT_NEGATIVE));
            }
            Some(quantity)
        }
        Err(error) => {
            errors.push(Error::invalid(path, &wire.0, error.to_string()));
            None
        }
    }
}

/// Rewrites quantities in canonical form and rounds them up to thousandths, as upstream does with lists of resources.
/// One that does not parse is left for validation to name.
pub(crate) fn canonical(list: &mut Option<BTreeMap<String, WireQuantity>>) {
    for wire in list.iter_mut().flat_map(BTreeMap::values_mut) {
        if let Ok(quantity) = Quantity::parse(&wire.0) {
            *wire = quantity.rounded_to_millis().into();
        }
    }
}

/// `a=b,c=d`, or `<none>`.
pub(crate) fn labels_text(labels: Option<&BTreeMap<String, String>>) -> String {
    match labels {
        Some(labels) if !labels.is_empty() => {
            labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
        }
        _ => "<none>".to_owned(),
    }
}

/// Why an address can be no endpoint: it does not lead to one machine of the network.
pub(crate) fn special_address(address: std::net::IpAddr) -> Option<&'static str> {
    use std::net::IpAddr::{V4, V6};
    let (link_local, link_local_multicast) = match address {
        V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    if address.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if address.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if link_local_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    } else {
        None
    }
}
