//! Printing.

use std::{io::Write, net::SocketAddr};

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;
use skep_proxy::maps::reader::{FrontendRecord, ServiceRecord};

use crate::cli::Format;

/// Service ports, a line each.
pub(crate) fn services(format: Format, services: &[ServiceRecord], out: &mut impl Write) -> Result<()> {
    if let Some(text) = structured(format, services)? {
        return Ok(out.write_all(text.as_bytes())?);
    }
    let mut table = table(["NAMESPACE", "NAME", "PORT", "FRONTEND", "BACKENDS", "CONNECTIONS", "REFUSED"]);
    for service in services {
        table.add_row([
            service.namespace.clone(),
            service.name.clone(),
            or_dash(&service.port_name),
            frontends(service).join(","),
            service.backends.len().to_string(),
            service.connections.to_string(),
            service.refused.to_string(),
        ]);
    }
    print(&table, out)
}

/// One backend with the service port it belongs to.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Backend<'a> {
    id: u32,
    address: SocketAddr,
    local: bool,
    namespace: &'a str,
    service: &'a str,
    port_name: &'a str,
    frontends: Vec<String>,
    connections: u64,
}

/// Backends, a line each.
pub(crate) fn backends(format: Format, services: &[ServiceRecord], out: &mut impl Write) -> Result<()> {
    let backends: Vec<Backend<'_>> = services
        .iter()
        .flat_map(|service| {
            service.backends.iter().map(|backend| Backend {
                id: backend.id,
                address: backend.address,
                local: backend.local,
                namespace: &service.namespace,
                service: &service.name,
                port_name: &service.port_name,
                frontends: frontends(service),
                connections: backend.connections,
            })
        })
        .collect();
    if let Some(text) = structured(format, &backends)? {
        return Ok(out.write_all(text.as_bytes())?);
    }
    let mut table = table(["ADDRESS", "NAMESPACE", "SERVICE", "PORT", "FRONTEND", "CONNECTIONS", "ID"]);
    for backend in backends {
        table.add_row([
            backend.address.to_string(),
            backend.namespace.into(),
            backend.service.into(),
            or_dash(backend.port_name),
            backend.frontends.join(","),
            backend.connections.to_string(),
            backend.id.to_string(),
        ]);
    }
    print(&table, out)
}

/// JSON or YAML; `None` for a table.
pub(crate) fn structured<T: Serialize + ?Sized>(format: Format, value: &T) -> Result<Option<String>> {
    Ok(match format {
        Format::Table => None,
        Format::Json => Some(serde_json::to_string_pretty(value)? + "\n"),
        Format::Yaml => Some(serde_yaml_ng::to_string(value)?),
    })
}

/// Columns as kubectl sets them: three spaces apart, no lines.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}

pub(crate) fn print(table: &Table, out: &mut impl Write) -> Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn frontends(service: &ServiceRecord) -> Vec<String> {
    service.frontends.iter().map(shape).collect()
}

/// A node port has no address of its own.
pub(crate) fn shape(frontend: &FrontendRecord) -> String {
    let FrontendRecord { address, port, protocol, .. } = frontend;
    if address.is_unspecified() {
        return format!("*:{port}/{protocol}");
    }
    format!("{}/{protocol}", SocketAddr::new(*address, *port))
}

pub(crate) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.into() }
}

pub(crate) fn shown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}
