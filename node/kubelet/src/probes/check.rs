//! One check: a command, an HTTP request or a TCP connect.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::net::TcpStream;

use super::{Outcome, Target, http};
use crate::podext::PodExt;

/// What upstream shows of a command's output.
const MAX_OUTPUT: usize = 10 << 10;

pub(super) async fn check(target: &Target, probe: &Probe, timeout: Duration) -> Outcome {
    if let Some(exec) = &probe.exec {
        return command(target, exec.command.clone().unwrap_or_default(), timeout).await;
    }
    let Some((_, container)) = target.pod.container(&target.container_name) else {
        return Outcome::Error(format!("the pod has no container {:?}", target.container_name));
    };
    if let Some(get) = &probe.http_get {
        let asked = http::get(container, &target.pod_ip, get, http::PROBE);
        return match tokio::time::timeout(timeout, asked).await {
            // A redirect to elsewhere is upstream's success too.
            Ok(Ok(code)) if (200..400).contains(&code) => Outcome::Success,
            Ok(Ok(code)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
            Ok(Err(error @ http::Error::NoAnswer { .. })) => Outcome::Failure(error.to_string()),
            Ok(Err(error @ http::Error::Request(_))) => Outcome::Error(error.to_string()),
            Err(_) => Outcome::Failure(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                http::url(container, &target.pod_ip, get).unwrap_or_default()
            )),
        };
    }
    if let Some(socket) = &probe.tcp_socket {
        let Some(port) = http::port(container, &socket.port) else {
            return Outcome::Error(http::bad_port(&socket.port));
        };
        let host = socket.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.pod_ip);
        return match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(error)) => Outcome::Failure(format!("dial tcp {host}:{port}: {error}")),
            Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
        };
    }
    Outcome::Error("this kind of probe is not supported by this node".to_owned())
}

async fn command(target: &Target, command: Vec<String>, timeout: Duration) -> Outcome {
    let shown = command.join(" ");
    match target.context.cri.exec_sync(&target.container_id, command, timeout).await {
        Ok(answer) if answer.exit_code == 0 => Outcome::Success,
        Ok(answer) => {
            let mut output = answer.stdout;
            output.extend_from_slice(&answer.stderr);
            output.truncate(MAX_OUTPUT);
            Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(skep_cri::Error::Timeout(_)) => {
            Outcome::Failure(format!("command timed out: {shown:?} timed out after {}s", timeout.as_secs()))
        }
        Err(error) => Outcome::Error(error.to_string()),
    }
}
