//! Naming a service on the command line.

use std::{fmt, net::SocketAddr, str::FromStr};

use anyhow::{Result, bail};
use skep_proxy::{Protocol, maps::reader::ServiceRecord};

/// `[namespace/]name[:port-name]` or `address:port[/protocol]`. Without a namespace it is `default`, as for kubectl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Query {
    Name { namespace: String, name: String, port: Option<String> },
    Address { at: SocketAddr, protocol: Option<Protocol> },
}

impl FromStr for Query {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("{text:?} is neither [NAMESPACE/]NAME[:PORT-NAME] nor ADDRESS:PORT[/PROTOCOL]");
        let (head, tail) = match text.split_once('/') {
            Some((head, tail)) => (head, Some(tail)),
            None => (text, None),
        };
        if let Ok(at) = head.parse() {
            let protocol = match tail.map(str::to_ascii_uppercase) {
                None => None,
                Some(name) => Some(Protocol::from_api(Some(&name)).filter(|_| !name.is_empty()).ok_or_else(usage)?),
            };
            return Ok(Self::Address { at, protocol });
        }
        let (namespace, rest) = tail.map_or(("default", head), |tail| (head, tail));
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (rest, None),
        };
        // Names of Services are labels of DNS, so that an address without its port is no name.
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if !is_name(namespace) || !is_name(name) || !port.as_deref().is_none_or(is_name) {
            return Err(usage());
        }
        Ok(Self::Name { namespace: namespace.into(), name: name.into(), port })
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { namespace, name, port: None } => write!(f, "{namespace}/{name}"),
            Self::Name { namespace, name, port: Some(port) } => write!(f, "{namespace}/{name}:{port}"),
            Self::Address { at, protocol: None } => write!(f, "{at}"),
            Self::Address { at, protocol: Some(protocol) } => write!(f, "{at}/{protocol}"),
        }
    }
}

impl Query {
    fn matches(&self, service: &ServiceRecord) -> bool {
        match self {
            Self::Name { namespace, name, port } => {
                service.namespace == *namespace
                    && service.name == *name
                    && port.as_ref().is_none_or(|port| service.port_name == *port)
            }
            Self::Address { at, protocol } => service.frontends.iter().any(|frontend| {
                frontend.address == at.ip()
                    && frontend.port == at.port()
                    && protocol.is_none_or(|protocol| frontend.protocol == protocol)
            }),
        }
    }
}

/// The service ports that are meant.
///
/// # Errors
/// When there is none.
pub(crate) fn find(query: &Query, services: Vec<ServiceRecord>) -> Result<Vec<ServiceRecord>> {
    let found: Vec<_> = services.into_iter().filter(|service| query.matches(service)).collect();
    if found.is_empty() {
        bail!("no service {query} in the kernel of this node (headless Services have no virtual address to serve)");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        let name = |port: Option<&str>| Query::Name {
            namespace: "kube-system".into(),
            name: "kube-dns".into(),
            port: port.map(Into::into),
        };
        assert_eq!("kube-system/kube-dns".parse(), Ok(name(None)));
        assert_eq!("kube-system/kube-dns:dns-tcp".parse(), Ok(name(Some("dns-tcp"))));
        let default = |port: Option<&str>| Query::Name {
            namespace: "default".into(),
            name: "web".into(),
            port: port.map(Into::into),
        };
        assert_eq!("web".parse(), Ok(default(None)));
        assert_eq!("web:http".parse(), Ok(default(Some("http"))));
        let at = "10.96.0.10:53".parse().unwrap();
        assert_eq!("10.96.0.10:53".parse(), Ok(Query::Address { at, protocol: None }));
        let six = "[fd00::a]:53".parse().unwrap();
        assert_eq!("[fd00::a]:53".parse(), Ok(Query::Address { at: six, protocol: None }));
        assert_eq!("10.96.0.10:53/udp".parse(), Ok(Query::Address { at, protocol: Some(Protocol::Udp) }));
    }

    #[test]
    fn what_is_neither_is_refused_with_the_two_forms() {
        for text in
            ["", "Web", "fd00::a", "/web", "ns/", "ns/a/b", "10.96.0.10", "10.96.0.10:53/", "10.96.0.10:53/icmp"]
        {
            let error = text.parse::<Query>().unwrap_err();
            assert!(error.contains("[NAMESPACE/]NAME[:PORT-NAME] nor ADDRESS:PORT[/PROTOCOL]"), "{text}: {error}");
        }
    }
}
