//! Ingresses.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressSpec, IngressStatus};
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;

use super::GROUP;
use crate::registry::cell;
use crate::registry::checks::{self, text};
use crate::registry::strategy::{Column, Context, Strategy};
use crate::registry::table_info::info;

/// The strategy of ingresses.
#[derive(Debug)]
pub(crate) struct Ingresses;

/// An older way to name the class.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: [&str; 3] = ["Exact", "Prefix", "ImplementationSpecific"];

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Class",
        "string",
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    Column::new("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
    Column::new("Address", "string", "Address is a list containing ingress points for the load-balancer"),
    Column::new("Ports", "string", "Ports of TLS configurations that open"),
    Column::AGE,
];

impl Strategy for Ingresses {
    type Object = Ingress;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "ingresses")
    }

    fn prefix(&self) -> &'static str {
        "/registry/ingress/"
    }

    fn prepare_for_create(&self, _ctx: &Context<'_>, ingress: &mut Ingress) {
        ingress.status = Some(IngressStatus::default());
    }

    fn validate(&self, ingress: &Ingress) -> Errors {
        let empty = IngressSpec::default();
        let spec = ingress.spec.as_ref().unwrap_or(&empty);
        let mut errors = Errors::new();
        let path = Path::new("spec");
        let rules = spec.rules.as_deref().unwrap_or_default();
        if rules.is_empty() && spec.default_backend.is_none() {
            let why = "either `defaultBackend` or `rules` must be specified";
            errors.push(Error::invalid(&path, rules, why));
        }
        if let Some(backend) = &spec.default_backend {
            validate_backend(backend, &path.child("defaultBackend"), &mut errors);
        }
        let list = path.child("rules");
        for (i, rule) in rules.iter().enumerate() {
            let path = list.index(i);
            validate_host(text(&rule.host), &path.child("host"), &mut errors);
            if let Some(http) = &rule.http {
                let list = path.child("http.paths");
                if http.paths.is_empty() {
                    errors.push(Error::required(&list, ""));
                }
                for (i, one) in http.paths.iter().enumerate() {
                    validate_path(one, &list.index(i), &mut errors);
                }
            }
        }
        let list = path.child("tls");
        for (i, tls) in spec.tls.iter().flatten().enumerate() {
            let path = list.index(i);
            let hosts = path.child("hosts");
            for (i, host) in tls.hosts.iter().flatten().enumerate() {
                let validator = if host.contains('*') { wildcard } else { name::dns1123_subdomain };
                checks::name(&mut errors, &hosts.index(i), host, validator);
            }
            if let Some(secret) = tls.secret_name.as_deref().filter(|s| !s.is_empty()) {
                checks::name(&mut errors, &path.child("secretName"), secret, name::dns1123_subdomain);
            }
        }
        if let Some(class) = &spec.ingress_class_name {
            checks::name(&mut errors, &path.child("ingressClassName"), class, name::dns1123_subdomain);
        }
        errors
    }

    fn validate_create(&self, ingress: &Ingress) -> Errors {
        let annotated = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        match annotated {
            Some(class) if ingress.spec.as_ref().is_some_and(|s| s.ingress_class_name.is_some()) => {
                let path = Path::new("annotations");
                let why = "can not be set when the class field is also set";
                vec![Error::invalid(&path.child(CLASS_ANNOTATION), class, why)]
            }
            _ => Errors::new(),
        }
    }

    fn prepare_for_update(&self, _ctx: &Context<'_>, ingress: &mut Ingress, old: &Ingress) {
        ingress.status.clone_from(&old.status);
    }

    fn bumps_generation(&self, ingress: &Ingress, old: &Ingress) -> bool {
        ingress.spec != old.spec
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_for_status_update(&self, _ctx: &Context<'_>, ingress: &mut Ingress, old: &Ingress) {
        ingress.spec.clone_from(&old.spec);
    }

    fn validate_status_update(&self, ingress: &Ingress, _old: &Ingress) -> Errors {
        let mut errors = Errors::new();
        let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let list = Path::new("status.loadBalancer.ingress");
        for (i, point) in balancer.iter().flat_map(|b| b.ingress.iter().flatten()).enumerate() {
            let path = list.index(i);
            if let Some(ip) = point.ip.as_deref().filter(|ip| !ip.is_empty()) {
                checks::name(&mut errors, &path.child("ip"), ip, name::ip);
            }
            if let Some(host) = point.hostname.as_deref().filter(|h| !h.is_empty()) {
                if host.parse::<IpAddr>().is_ok() {
                    let why = "must be a DNS name, not an IP address";
                    errors.push(Error::invalid(&path.child("hostname"), host, why));
                }
                checks::name(&mut errors, &path.child("hostname"), host, name::dns1123_subdomain);
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, ingress: &Ingress, now: Timestamp) -> Vec<Value> {
        let spec = ingress.spec.clone().unwrap_or_default();
        let balancer = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref());
        let addresses: Vec<&str> = balancer
            .iter()
            .flat_map(|b| b.ingress.iter().flatten())
            .map(|point| if text(&point.ip).is_empty() { text(&point.hostname) } else { text(&point.ip) })
            .filter(|address| !address.is_empty())
            .collect();
        let annotated = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION)).cloned();
        vec![
            cell::name(&ingress.metadata),
            cell::text_or(&spec.ingress_class_name.clone().or(annotated), "<none>"),
            json!(hosts(&spec)),
            json!(addresses.join(",")),
            json!(if spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()) { "80, 443" } else { "80" }),
            cell::age(&ingress.metadata, now),
        ]
    }
}

/// The hosts of the rules: three at most, `*` for none.
fn hosts(spec: &IngressSpec) -> String {
    const SHOWN: usize = 3;
    let all: Vec<&str> = spec.rules.iter().flatten().map(|rule| text(&rule.host)).filter(|h| !h.is_empty()).collect();
    match all.len() {
        0 => "*".to_owned(),
        n if n <= SHOWN => all.join(","),
        n => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
    }
}

/// `*.example.com`: a wildcard for one label.
fn wildcard(host: &str) -> Vec<String> {
    match host.strip_prefix("*.") {
        Some(rest) if !rest.contains('*') && name::dns1123_subdomain(rest).is_empty() => vec![],
        _ => vec![
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of \
             lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', \
             regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        ],
    }
}

fn validate_host(host: &str, path: &Path<'_>, errors: &mut Errors) {
    if host.is_empty() {
        return;
    }
    if host.parse::<IpAddr>().is_ok() {
        errors.push(Error::invalid(path, host, "must be a DNS name, not an IP address"));
    }
    let validator = if host.contains('*') { wildcard } else { name::dns1123_subdomain };
    checks::name(errors, path, host, validator);
}

fn validate_path(one: &HTTPIngressPath, path: &Path<'_>, errors: &mut Errors) {
    let value = text(&one.path);
    let at = path.child("path");
    match one.path_type.as_str() {
        "" => errors.push(Error::required(&path.child("pathType"), "pathType must be specified")),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.push(Error::invalid(&at, value, "must be an absolute path"));
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if value.contains(part) {
                    errors.push(Error::invalid(&at, value, format!("must not contain '{part}'")));
                }
            }
            for end in ["/..", "/."] {
                if value.ends_with(end) {
                    errors.push(Error::invalid(&at, value, format!("cannot end with '{end}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.push(Error::invalid(&at, value, "must be an absolute path"));
            }
        }
        other => errors.push(Error::not_supported(&path.child("pathType"), other, &PATH_TYPES)),
    }
    validate_backend(&one.backend, &path.child("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path<'_>, errors: &mut Errors) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => errors.push(Error::invalid(path, "", "cannot set both resource and service backends")),
        (None, None) => errors.push(Error::required(path, "resource or service backend is required")),
        (Some(resource), None) => {
            let path = path.child("resource");
            checks::required(errors, &path.child("kind"), &resource.kind);
            checks::required(errors, &path.child("name"), &resource.name);
        }
        (None, Some(service)) => {
            let at = path.child("service.name");
            if service.name.is_empty() {
                errors.push(Error::required(&at, ""));
            } else {
                checks::name(errors, &at, &service.name, name::dns1035_label);
            }
            let port = service.port.clone().unwrap_or_default();
            match (text(&port.name), port.number.unwrap_or(0)) {
                ("", 0) => errors.push(Error::required(path, "port name or number is required")),
                ("", number) => checks::port_number(errors, &path.child("service.port.number"), number),
                (named, 0) => checks::name(errors, &path.child("service.port.name"), named, name::port_name),
                _ => errors.push(Error::invalid(path, "", "cannot set both port name & port number")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingress(spec: Value) -> Ingress {
        serde_json::from_value(json!({"metadata": {"name": "i"}, "spec": spec})).unwrap()
    }

    #[test]
    fn rules_say_where_and_how() {
        let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
        let good = ingress(json!({"rules": [{"host": "*.example.com", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": backend}]}}]}));
        assert_eq!(Ingresses.validate(&good), []);
        assert_eq!(Ingresses.row(&good, Timestamp::UNIX_EPOCH)[2], "*.example.com");
        let bad = ingress(json!({"rules": [{"host": "10.0.0.1", "http": {"paths": [
            {"path": "x//y", "pathType": "Exact", "backend": backend}, {"backend": {"service": {"name": "web"}}}]}}]}));
        let texts: Vec<_> = Ingresses.validate(&bad).iter().map(Error::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
                "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must be an absolute path",
                "spec.rules[0].http.paths[0].path: Invalid value: \"x//y\": must not contain '//'",
                "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
                "spec.rules[0].http.paths[1].backend: Required value: port name or number is required",
            ]
        );
    }
}
