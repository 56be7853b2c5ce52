//! Validation of probes and lifecycle handlers.

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction};
use skep_api::field::{Error, Errors, Path};

use crate::registry::checks::{self, not_negative, one_of, text};

/// Checks the probes of a container.
pub(super) fn validate_probes(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let probes = [
        ("livenessProbe", &container.liveness_probe, true),
        ("readinessProbe", &container.readiness_probe, false),
        ("startupProbe", &container.startup_probe, true),
    ];
    for (field, probe, kills) in probes {
        let Some(probe) = probe else { continue };
        let path = path.child(field);
        validate_probe(probe, &path, errors);
        if kills && probe.success_threshold.is_some_and(|t| t != 1) {
            errors.push(Error::invalid(&path.child("successThreshold"), probe.success_threshold, "must be 1"));
        }
        if !kills && probe.termination_grace_period_seconds.is_some() {
            let value = probe.termination_grace_period_seconds;
            let why = "must not be set for readinessProbes";
            errors.push(Error::invalid(&path.child("terminationGracePeriodSeconds"), value, why));
        }
    }
}

/// Checks `postStart` and `preStop`.
pub(super) fn validate_lifecycle(container: &Container, path: &Path<'_>, errors: &mut Errors) {
    let Some(lifecycle) = &container.lifecycle else { return };
    let path = path.child("lifecycle");
    for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        if let Some(handler) = handler {
            validate_handler(handler, &path.child(field), errors);
        }
    }
}

fn validate_probe(probe: &Probe, path: &Path<'_>, errors: &mut Errors) {
    let mut found = 0;
    validate_actions(probe.exec.as_ref(), probe.http_get.as_ref(), probe.tcp_socket.as_ref(), &mut found, path, errors);
    if let Some(grpc) = &probe.grpc
        && is_only(&mut found, &path.child("grpc"), errors)
    {
        checks::port_number(errors, &path.child("grpc.port"), grpc.port);
    }
    if found == 0 {
        errors.push(Error::required(path, "must specify a handler type"));
    }
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (field, number) in numbers {
        not_negative(errors, &path.child(field), number);
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        errors.push(Error::invalid(&path.child("terminationGracePeriodSeconds"), seconds, checks::POSITIVE));
    }
}

fn validate_handler(handler: &LifecycleHandler, path: &Path<'_>, errors: &mut Errors) {
    let mut found = 0;
    let (exec, get, tcp) = (handler.exec.as_ref(), handler.http_get.as_ref(), handler.tcp_socket.as_ref());
    validate_actions(exec, get, tcp, &mut found, path, errors);
    if let Some(sleep) = &handler.sleep
        && is_only(&mut found, &path.child("sleep"), errors)
    {
        not_negative(errors, &path.child("sleep.seconds"), Some(sleep.seconds));
    }
    if found == 0 {
        errors.push(Error::required(path, "must specify a handler type"));
    }
}

/// Counts a handler and complains about any but the first.
fn is_only(found: &mut usize, path: &Path<'_>, errors: &mut Errors) -> bool {
    *found += 1;
    if *found > 1 {
        errors.push(Error::forbidden(path, "may not specify more than 1 handler type"));
    }
    *found == 1
}

fn validate_actions(
    exec: Option<&ExecAction>,
    get: Option<&HTTPGetAction>,
    tcp: Option<&TCPSocketAction>,
    found: &mut usize,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if let Some(exec) = exec
        && is_only(found, &path.child("exec"), errors)
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        errors.push(Error::required(&path.child("exec.command"), ""));
    }
    if let Some(get) = get
        && is_only(found, &path.child("httpGet"), errors)
    {
        validate_http(get, &path.child("httpGet"), errors);
    }
    if let Some(tcp) = tcp
        && is_only(found, &path.child("tcpSocket"), errors)
    {
        checks::port(errors, &path.child("tcpSocket.port"), &tcp.port);
    }
}

fn validate_http(get: &HTTPGetAction, path: &Path<'_>, errors: &mut Errors) {
    if text(&get.path).is_empty() {
        errors.push(Error::required(&path.child("path"), ""));
    }
    checks::port(errors, &path.child("port"), &get.port);
    one_of(errors, &path.child("scheme"), text(&get.scheme), &["HTTP", "HTTPS"]);
    for header in get.http_headers.iter().flatten() {
        let token = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
        if header.name.is_empty() || !header.name.bytes().all(token) {
            let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex \
                       used for validation is '[-A-Za-z0-9]+')";
            errors.push(Error::invalid(&path.child("httpHeaders"), &header.name, why));
        }
    }
}
