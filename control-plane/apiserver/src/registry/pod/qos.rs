//! The quality-of-service class of a pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use skep_api::Quantity;

type List = Option<BTreeMap<String, WireQuantity>>;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the requests and limits of cpu and memory.
pub(super) fn class(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for resource in ["cpu", "memory"] {
            let resources = container.resources.as_ref();
            let request = resources.and_then(|r| amount(&r.requests, resource));
            let limit = resources.and_then(|r| amount(&r.limits, resource));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What is given above zero.
fn amount(list: &List, resource: &str) -> Option<Quantity> {
    let quantity = Quantity::parse(&list.as_ref()?.get(resource)?.0).ok()?;
    (!quantity.is_zero() && !quantity.is_negative()).then_some(quantity)
}
