//! Custom resources among the types that are known.

use std::{ops::Deref, sync::Arc};

use serde_json::Value;
use skep_api::resource::ResourceInfo;

use super::operations::META;
use crate::Type;

/// The schema of a kind that a CustomResourceDefinition defines.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Such as `com.example.stable.v1.CronTab`.
    pub name: String,
    /// The schema in documents of OpenAPI 2.0.
    pub v2: Value,
    /// The schema in documents of OpenAPI 3.0.
    pub v3: Value,
}

/// A resource and, if it is a custom one, its kind and that of its list.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) info: ResourceInfo,
    pub(super) custom: Option<(Arc<Definition>, Arc<Definition>)>,
}

impl Served {
    pub(super) fn new(info: ResourceInfo, custom: Option<(Definition, Definition)>) -> Self {
        Self { info, custom: custom.map(|(object, list)| (Arc::new(object), Arc::new(list))) }
    }
}

impl Deref for Served {
    type Target = ResourceInfo;

    fn deref(&self) -> &ResourceInfo {
        &self.info
    }
}

/// What an operation speaks of.
#[derive(Clone, Debug)]
pub(super) enum Of {
    Known(Type),
    Custom(Arc<Definition>),
}

impl Of {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Known(of) => of.name(),
            Self::Custom(definition) => &definition.name,
        }
    }
}

/// The types custom kinds refer to.
pub(super) fn metadata() -> impl Iterator<Item = Type> {
    ["ObjectMeta", "ListMeta"].into_iter().filter_map(|kind| Type::named(&format!("{META}{kind}")))
}
