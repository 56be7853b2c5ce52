//! Which connections are meant.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use skep_proxy::maps::reader::conntrack::FlowRecord;

use crate::{peer::Peer, query::Query};

/// One end of a connection, or its address.
#[derive(Clone, Debug)]
pub(crate) struct End(IpAddr, Option<u16>);

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(Peer::Address { address, port }) => Ok(Self(address, port)),
            _ => Err(format!("{text:?} is not ADDRESS[:PORT]")),
        }
    }
}

impl End {
    /// Is it an end of that connection?
    pub(crate) fn is_of(&self, flow: &FlowRecord) -> bool {
        match self.1 {
            Some(port) => flow.has_end(SocketAddr::new(self.0, port)),
            None => flow.has_address(self.0),
        }
    }

    /// Is it that one?
    pub(crate) fn is(&self, address: IpAddr, port: u16) -> bool {
        self.0 == address && self.1.is_none_or(|wanted| wanted == port)
    }
}

/// Is the connection one of that service?
pub(crate) fn is_of(flow: &FlowRecord, service: &Query) -> bool {
    match service {
        Query::Address { at, protocol } => {
            flow.frontend == *at && protocol.is_none_or(|protocol| flow.protocol == protocol)
        }
        Query::Name { namespace, name, port } => {
            flow.service.as_deref().is_some_and(|service| is_named(service, namespace, name, port.as_deref()))
        }
    }
}

/// Is `namespace/name[:port]` meant by those parts?
pub(crate) fn is_named(service: &str, namespace: &str, name: &str, port: Option<&str>) -> bool {
    let rest = service
        .strip_prefix(namespace)
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(|rest| rest.strip_prefix(name));
    match (rest, port) {
        (Some(rest), None) => rest.is_empty() || rest.starts_with(':'),
        (Some(rest), Some(port)) => rest.strip_prefix(':').unwrap_or_default() == port,
        (None, _) => false,
    }
}
