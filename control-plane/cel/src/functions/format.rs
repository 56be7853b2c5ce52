//! Named formats.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use skep_api::name;

use super::{Function, text, time};
use crate::{cost::Cost, error::Error, value::Value};

/// A format texts can be checked against.
pub struct NamedFormat {
    name: &'static str,
    check: fn(&str) -> Vec<String>,
}

fn is(fits: bool, complaint: &str) -> Vec<String> {
    if fits { Vec::new() } else { vec![complaint.to_owned()] }
}

static FORMATS: [NamedFormat; 13] = [
    NamedFormat { name: "dns1123Label", check: name::dns1123_label },
    NamedFormat { name: "dns1123Subdomain", check: name::dns1123_subdomain },
    NamedFormat { name: "dns1035Label", check: name::dns1035_label },
    NamedFormat { name: "qualifiedName", check: name::qualified_name },
    NamedFormat { name: "dns1123LabelPrefix", check: |text| name::prefix(name::dns1123_label, text) },
    NamedFormat { name: "dns1123SubdomainPrefix", check: |text| name::prefix(name::dns1123_subdomain, text) },
    NamedFormat { name: "dns1035LabelPrefix", check: |text| name::prefix(name::dns1035_label, text) },
    NamedFormat { name: "labelValue", check: name::label_value },
    NamedFormat {
        name: "uri",
        check: |text| match super::url::check(text) {
            Ok(()) => Vec::new(),
            Err(why) => vec![why],
        },
    },
    NamedFormat { name: "uuid", check: |text| is(is_uuid(text), "does not match the UUID format") },
    NamedFormat { name: "byte", check: |text| is(STANDARD.decode(text).is_ok(), "invalid base64") },
    NamedFormat { name: "date", check: |text| is(is_date(text), "invalid date") },
    NamedFormat { name: "datetime", check: |text| is(time::parse_timestamp(text).is_some(), "invalid datetime") },
];

const MAKE: &[&str] = &["-> format"];

macro_rules! named {
    ($name:literal, $index:literal) => {
        Function::global(concat!("format.", $name), MAKE, Cost::Fixed(1), |_, _| Ok(Value::Format(&FORMATS[$index])))
    };
}

pub(super) static FUNCTIONS: &[Function] = &[
    named!("dns1123Label", 0),
    named!("dns1123Subdomain", 1),
    named!("dns1035Label", 2),
    named!("qualifiedName", 3),
    named!("dns1123LabelPrefix", 4),
    named!("dns1123SubdomainPrefix", 5),
    named!("dns1035LabelPrefix", 6),
    named!("labelValue", 7),
    named!("uri", 8),
    named!("uuid", 9),
    named!("byte", 10),
    named!("date", 11),
    named!("datetime", 12),
    Function::global("format.named", &["string -> optional(format)"], Cost::Fixed(1), |args, _| {
        let wanted = text(args, 0)?;
        let found = FORMATS.iter().find(|format| format.name == wanted);
        Ok(found.map_or(Value::NONE, |format| Value::some(Value::Format(format))))
    }),
    Function::member("validate", &["format, string -> optional(list(string))"], Cost::Walk(1, 10), |args, _| {
        let [Value::Format(format), Value::String(text)] = args else { return Err(Error::no_overload()) };
        let complaints = (format.check)(text.as_str());
        if complaints.is_empty() {
            return Ok(Value::NONE);
        }
        Ok(Value::some(Value::list(complaints.into_iter().map(Value::owned).collect())))
    }),
];

fn is_uuid(text: &str) -> bool {
    let plain: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    let dashes_fit = match text.len() {
        36 => text.bytes().enumerate().all(|(at, b)| (b == b'-') == matches!(at, 8 | 13 | 18 | 23)),
        32 => true,
        _ => false,
    };
    dashes_fit && plain.len() == 32 && plain.iter().all(u8::is_ascii_hexdigit)
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}
