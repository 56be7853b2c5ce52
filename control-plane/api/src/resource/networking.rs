//! `networking.k8s.io`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[
    resource(Row {
        group: "networking.k8s.io",
        kind: "IngressClass",
        plural: "ingressclasses",
        singular: "ingressclass",
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "networking.k8s.io",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: strs!["ing"],
        subresources: const { &[status("Ingress")] },
        ..ROW
    }),
    resource(Row {
        group: "networking.k8s.io",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: strs!["ip"],
        namespaced: false,
        ..ROW
    }),
    resource(Row {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: strs!["netpol"],
        ..ROW
    }),
    resource(Row {
        group: "networking.k8s.io",
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        namespaced: false,
        subresources: const { &[status("ServiceCIDR")] },
        ..ROW
    }),
];
