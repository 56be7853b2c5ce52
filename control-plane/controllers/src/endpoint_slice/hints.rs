//! Whom an endpoint is meant for, as the Service's `trafficDistribution` has it (KEP-4444, KEP-3015): `PreferSameZone` (or
//! `PreferClose`, its former name) its own zone, `PreferSameNode` its node and, where that has none, its zone.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForNode, ForZone};

/// The hints of an endpoint. Only ready ones have any.
pub(super) fn hints(service: &Service, endpoint: &Endpoint) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_node = match distribution {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true);
    let name = |name: &Option<String>| name.clone().filter(|_| ready);
    let for_zones = name(&endpoint.zone).map(|name| vec![ForZone { name }]);
    let for_nodes = name(&endpoint.node_name).filter(|_| for_node).map(|name| vec![ForNode { name }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ServiceSpec;
    use k8s_openapi::api::discovery::v1::EndpointConditions;

    use super::*;

    /// Zones and nodes that the hints name.
    fn named(distribution: Option<&str>, ready: bool, zone: Option<&str>) -> (Vec<String>, Vec<String>) {
        let traffic_distribution = distribution.map(str::to_owned);
        let spec = Some(ServiceSpec { traffic_distribution, ..Default::default() });
        let endpoint = Endpoint {
            conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
            zone: zone.map(str::to_owned),
            node_name: Some("n1".to_owned()),
            ..Default::default()
        };
        let hints = hints(&Service { spec, ..Default::default() }, &endpoint).unwrap_or_default();
        (
            hints.for_zones.into_iter().flatten().map(|zone| zone.name).collect(),
            hints.for_nodes.into_iter().flatten().map(|node| node.name).collect(),
        )
    }

    #[test]
    fn a_ready_endpoint_is_meant_for_its_zone_and_its_node_as_the_service_prefers() {
        let (zone, node, none) = (vec!["a".to_owned()], vec!["n1".to_owned()], Vec::new());
        for distribution in ["PreferClose", "PreferSameZone"] {
            assert_eq!(named(Some(distribution), true, Some("a")), (zone.clone(), none.clone()), "{distribution}");
            assert_eq!(named(Some(distribution), true, None), (none.clone(), none.clone()), "{distribution}");
        }
        assert_eq!(named(Some("PreferSameNode"), true, Some("a")), (zone, node.clone()));
        assert_eq!(named(Some("PreferSameNode"), true, None), (none.clone(), node));
        for (distribution, ready) in [(None, true), (Some("Elsewhere"), true), (Some("PreferSameNode"), false)] {
            assert_eq!(named(distribution, ready, Some("a")), (none.clone(), none.clone()));
        }
    }
}
