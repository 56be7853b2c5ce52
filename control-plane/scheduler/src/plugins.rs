//! The in-tree plugins, one file each, under upstream's names.

mod default_binder;
mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_selector;
mod node_unschedulable;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
mod toleration;

use crate::framework::Factory;

/// Name and factory of every plugin here.
pub(crate) const ALL: [(&str, Factory); 11] = [
    (default_binder::NAME, default_binder::register),
    (image_locality::NAME, image_locality::register),
    (node_affinity::NAME, node_affinity::register),
    (node_name::NAME, node_name::register),
    (node_ports::NAME, node_ports::register),
    (node_resources_balanced_allocation::NAME, node_resources_balanced_allocation::register),
    (node_resources_fit::NAME, node_resources_fit::register),
    (node_unschedulable::NAME, node_unschedulable::register),
    (priority_sort::NAME, priority_sort::register),
    (scheduling_gates::NAME, scheduling_gates::register),
    (taint_toleration::NAME, taint_toleration::register),
];
