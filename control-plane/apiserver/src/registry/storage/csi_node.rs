//! CSINodes: which drivers a node has.

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1::CSINode;
use serde_json::{Value, json};
use skep_api::field::{Error, Errors, Path};
use skep_api::name;
use skep_api::resource::ResourceInfo;

use super::{GROUP, validate_driver};
use crate::registry::cell;
use crate::registry::checks::{self, not_negative};
use crate::registry::strategy::{Column, Strategy};
use crate::registry::table_info::info;

/// The strategy of CSI nodes.
#[derive(Debug)]
pub(crate) struct CsiNodes;

const MAX_NODE_ID: usize = 192;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Drivers", "integer", "drivers is a list of information of all CSI Drivers existing on a node."),
    Column::AGE,
];

impl Strategy for CsiNodes {
    type Object = CSINode;

    fn info(&self) -> &'static ResourceInfo {
        info(GROUP, "csinodes")
    }

    fn prefix(&self) -> &'static str {
        "/registry/csinodes/"
    }

    fn validate(&self, node: &CSINode) -> Errors {
        let mut errors = Errors::new();
        let list = Path::new("spec.drivers");
        let mut names = HashSet::new();
        for (i, driver) in node.spec.drivers.iter().enumerate() {
            let path = list.index(i);
            validate_driver(&driver.name, &path.child("name"), &mut errors);
            if !names.insert(&driver.name) {
                errors.push(Error::duplicate(&path.child("name"), &driver.name));
            }
            let at = path.child("nodeID");
            checks::required(&mut errors, &at, &driver.node_id);
            if driver.node_id.len() > MAX_NODE_ID {
                let why = format!("must be {MAX_NODE_ID} characters or less");
                errors.push(Error::invalid(&at, &driver.node_id, why));
            }
            let count = driver.allocatable.as_ref().and_then(|a| a.count);
            not_negative(&mut errors, &path.child("allocatable.count"), count);
            for key in driver.topology_keys.iter().flatten() {
                checks::name(&mut errors, &path, key, name::qualified_name);
            }
        }
        errors
    }

    fn validate_update(&self, node: &CSINode, old: &CSINode) -> Errors {
        let mut errors = Errors::new();
        let path = Path::new("spec.drivers");
        for was in &old.spec.drivers {
            let is = node.spec.drivers.iter().find(|driver| driver.name == was.name);
            if let Some(is) = is
                && (is.node_id != was.node_id || is.topology_keys != was.topology_keys)
            {
                errors.push(Error::invalid(&path, is, skep_api::meta::IMMUTABLE));
            }
        }
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, node: &CSINode, now: Timestamp) -> Vec<Value> {
        vec![cell::name(&node.metadata), json!(node.spec.drivers.len()), cell::age(&node.metadata, now)]
    }
}
