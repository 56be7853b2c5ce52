//! `skepctl service get`: the ports of a Service, their backends, and where those are.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;
use skep_proxy::maps::reader::{BackendRecord, ServiceRecord};

use crate::{
    api::Endpoint,
    cli::Format,
    names::Names,
    output::{or_dash, print, shape, structured, table},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Backend<'a> {
    #[serde(flatten)]
    backend: &'a BackendRecord,
    #[serde(flatten)]
    endpoint: Option<Endpoint>,
}

/// Service ports with their backends.
pub(crate) fn show(format: Format, services: &[ServiceRecord], names: &Names, out: &mut impl Write) -> Result<()> {
    let shown = services.iter().map(|service| Ok((service, known(service, names)?))).collect::<Result<Vec<_>>>()?;
    let values = shown.iter().map(|(service, backends)| {
        let mut value = serde_json::to_value(service)?;
        value["backends"] = serde_json::to_value(backends)?;
        Ok(value)
    });
    if let Some(text) = structured(format, &values.collect::<Result<Vec<_>>>()?)? {
        return Ok(out.write_all(text.as_bytes())?);
    }
    for (n, (service, backends)) in shown.iter().enumerate() {
        if n > 0 {
            writeln!(out)?;
        }
        one(service, backends, out)?;
    }
    Ok(())
}

/// The backends of a service port with what the API knows of them.
fn known<'a>(service: &'a ServiceRecord, names: &Names) -> Result<Vec<Backend<'a>>> {
    let backend = |backend: &'a BackendRecord| {
        let endpoint = names.endpoint(&service.namespace, &service.name, backend.address.ip())?;
        Ok(Backend { backend, endpoint })
    };
    service.backends.iter().map(backend).collect()
}

fn one(service: &ServiceRecord, backends: &[Backend<'_>], out: &mut impl Write) -> Result<()> {
    writeln!(out, "Service:      {}/{}", service.namespace, service.name)?;
    writeln!(out, "Port:         {}", or_dash(&service.port_name))?;
    for frontend in &service.frontends {
        writeln!(out, "Frontend:     {} ({:?})", shape(frontend), frontend.kind)?;
    }
    if let Some(seconds) = service.affinity_seconds {
        writeln!(out, "Affinity:     a client keeps its backend for {seconds} s")?;
    }
    writeln!(out, "Id:           {} (generation {})", service.id, service.generation)?;
    writeln!(out, "Connections:  {}, refused {}", service.connections, service.refused)?;
    if backends.is_empty() {
        return Ok(writeln!(out, "Backends:     none, connections are refused")?);
    }
    writeln!(out, "Backends:")?;
    let mut table = table(["  ADDRESS", "NODE", "POD", "ZONE", "STATE", "CONNECTIONS", "ID"]);
    for Backend { backend, endpoint } in backends {
        let endpoint = endpoint.as_ref();
        let here = if backend.local { "(this)" } else { "-" };
        let text = |field: fn(&Endpoint) -> &Option<String>| endpoint.and_then(|endpoint| field(endpoint).clone());
        table.add_row([
            format!("  {}", backend.address),
            text(|endpoint| &endpoint.node).unwrap_or_else(|| here.into()),
            text(|endpoint| &endpoint.pod).unwrap_or_else(|| "-".into()),
            text(|endpoint| &endpoint.zone).unwrap_or_else(|| "-".into()),
            endpoint.map_or("-", |endpoint| endpoint.state).into(),
            backend.connections.to_string(),
            backend.id.to_string(),
        ]);
    }
    print(&table, out)
}
