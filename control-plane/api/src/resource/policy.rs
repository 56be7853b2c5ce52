//! `policy`.

use super::ResourceInfo;
use super::row::{ROW, Row, resource, status, strs};

pub(super) static ROWS: &[ResourceInfo] = &[resource(Row {
    group: "policy",
    kind: "PodDisruptionBudget",
    plural: "poddisruptionbudgets",
    singular: "poddisruptionbudget",
    short_names: strs!["pdb"],
    subresources: const { &[status("PodDisruptionBudget")] },
    ..ROW
})];
