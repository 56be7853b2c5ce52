//! `/healthz`, `/livez` and `/readyz`.

use std::fmt::Write as _;

use http::{Response, StatusCode};
use skep_api::{request::Query, status::StatusError};
use skep_storage::Storage;

use crate::http::{body::Body, response};

/// The checks of the three endpoints.
pub(crate) struct Health {
    storage: Storage,
    /// Set when the server is shutting down.
    shutdown: tokio_util::sync::CancellationToken,
}

struct Check {
    name: &'static str,
    ready_only: bool,
    failed: bool,
}

impl Health {
    pub(crate) fn new(storage: Storage, shutdown: tokio_util::sync::CancellationToken) -> Self {
        Self { storage, shutdown }
    }

    /// The paths of the endpoints and of each of their checks.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> {
        let checks = self.checks();
        ["/healthz", "/livez", "/readyz"].into_iter().flat_map(move |root| {
            let own = checks.iter().filter(|check| !check.ready_only || root == "/readyz");
            let below: Vec<String> = own.map(|check| format!("{root}/{}", check.name)).collect();
            std::iter::once(root.to_owned()).chain(below)
        })
    }

    /// The answer if `path` is below one of the endpoints.
    pub(crate) fn respond(&self, path: &str, query: &Query) -> Option<Response<Body>> {
        let mut parts = path.trim_matches('/').splitn(2, '/');
        let endpoint = parts.next().filter(|name| matches!(*name, "healthz" | "livez" | "readyz"))?;
        let only = parts.next();
        let checks: Vec<Check> =
            self.checks().into_iter().filter(|check| !check.ready_only || endpoint == "readyz").collect();
        if let Some(only) = only {
            let Some(check) = checks.iter().find(|check| check.name == only) else {
                return Some(response::status_error(&StatusError::generic_not_found()));
            };
            return Some(if check.failed {
                response::text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: reason withheld\n")
            } else {
                response::text(StatusCode::OK, "ok")
            });
        }
        let mut report = String::new();
        let mut failed = false;
        for check in &checks {
            if query.all("exclude").any(|excluded| excluded == check.name) {
                let _ = writeln!(report, "[+]{} excluded: ok", check.name);
            } else if check.failed {
                failed = true;
                let _ = writeln!(report, "[-]{} failed: reason withheld", check.name);
            } else {
                let _ = writeln!(report, "[+]{} ok", check.name);
            }
        }
        let _ = writeln!(report, "{endpoint} check {}", if failed { "failed" } else { "passed" });
        Some(if failed {
            response::text(StatusCode::INTERNAL_SERVER_ERROR, report)
        } else if query.get("verbose").is_some() {
            response::text(StatusCode::OK, report)
        } else {
            response::text(StatusCode::OK, "ok")
        })
    }

    fn checks(&self) -> [Check; 4] {
        let etcd = !self.storage.readiness().ready;
        [
            Check { name: "ping", ready_only: false, failed: false },
            Check { name: "etcd", ready_only: false, failed: etcd },
            Check { name: "informer-sync", ready_only: true, failed: etcd },
            Check { name: "shutdown", ready_only: true, failed: self.shutdown.is_cancelled() },
        ]
    }
}
