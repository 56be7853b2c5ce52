//! Amounts of resources as plain integers, so that no scheduling cycle parses a quantity: milli-CPU, bytes, counts.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use skep_api::quantity::Quantity;
use tracing::warn;

/// A `ResourceList` of the API.
pub type ResourceList = BTreeMap<String, ApiQuantity>;

/// A vector of resources. Arithmetic saturates: an absurd quantity makes a pod unschedulable, never a panic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// How many pods; only meaningful in allocatable.
    pub pods: i64,
    /// Extended resources, huge pages, attachable volumes. Entries of zero are not kept.
    pub scalars: BTreeMap<Arc<str>, i64>,
}

impl Resource {
    /// Converts the API's list; names the scheduler does not account (for example `storage`) are ignored as upstream does.
    pub fn from_list(list: &ResourceList) -> Self {
        let mut resource = Self::default();
        for (name, quantity) in list {
            resource.set(name, amount(name, quantity));
        }
        resource
    }

    /// Sets one resource by its API name.
    pub fn set(&mut self, name: &str, amount: i64) {
        match name {
            "cpu" => self.milli_cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.ephemeral_storage = amount,
            "pods" => self.pods = amount,
            _ if !is_scalar(name) => {}
            _ if amount == 0 => {
                self.scalars.remove(name);
            }
            _ => {
                self.scalars.insert(name.into(), amount);
            }
        }
    }

    /// One resource by its API name; zero when absent.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            _ => self.scalars.get(name).copied().unwrap_or_default(),
        }
    }

    /// Adds every component.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    /// Subtracts every component.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    /// Keeps the greater of each component.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = with(self.pods, other.pods);
        for (name, amount) in &other.scalars {
            let combined = with(self.scalars.get(name).copied().unwrap_or_default(), *amount);
            if combined == 0 {
                self.scalars.remove(name);
            } else {
                self.scalars.insert(name.clone(), combined);
            }
        }
    }
}

/// Milli-units for `cpu`, whole units (rounded up) for everything else.
pub fn amount(name: &str, quantity: &ApiQuantity) -> i64 {
    match quantity.0.parse::<Quantity>() {
        Ok(quantity) if name == "cpu" => quantity.milli_value(),
        Ok(quantity) => quantity.value(),
        Err(error) => {
            // The API server validates quantities, so this is damage in storage; count it as nothing rather than stop.
            warn!(resource = name, quantity = quantity.0, %error, "ignoring a quantity that does not parse");
            0
        }
    }
}

fn is_scalar(name: &str) -> bool {
    name.contains('/') || name.starts_with("hugepages-") || name.starts_with("attachable-volumes-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, &str)]) -> ResourceList {
        entries.iter().map(|(name, value)| ((*name).to_owned(), ApiQuantity((*value).to_owned()))).collect()
    }

    #[test]
    fn lists_become_milli_cpu_and_bytes() {
        let resource = Resource::from_list(&list(&[
            ("cpu", "1500m"),
            ("memory", "1Gi"),
            ("pods", "110"),
            ("example.com/gpu", "2"),
            ("storage", "10Gi"),
        ]));
        assert_eq!(resource.milli_cpu, 1500);
        assert_eq!(resource.memory, 1 << 30);
        assert_eq!(resource.pods, 110);
        assert_eq!(resource.get("example.com/gpu"), 2);
        assert_eq!(resource.scalars.len(), 1, "storage is not a node resource");
    }

    #[test]
    fn taking_away_what_was_added_leaves_nothing_behind() {
        let pod = Resource::from_list(&list(&[("cpu", "1"), ("example.com/gpu", "2")]));
        let mut node = Resource::default();
        node.add(&pod);
        node.sub(&pod);
        assert_eq!(node, Resource::default());
    }

    #[test]
    fn absurd_amounts_saturate() {
        let mut resource = Resource { memory: i64::MAX, ..Resource::default() };
        resource.add(&Resource { memory: i64::MAX, ..Resource::default() });
        assert_eq!(resource.memory, i64::MAX);
    }
}
