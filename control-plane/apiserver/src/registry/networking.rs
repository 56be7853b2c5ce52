//! `networking.k8s.io`: ingresses, network policies, service ranges. (IPAddresses are beside Services, which take them.)

mod ingress;
mod ingress_class;
mod network_policy;
mod service_cidr;

pub(crate) use ingress::Ingresses;
pub(crate) use ingress_class::IngressClasses;
pub(crate) use network_policy::NetworkPolicies;
pub(crate) use service_cidr::ServiceCidrs;

/// The group's name.
const GROUP: &str = "networking.k8s.io";
