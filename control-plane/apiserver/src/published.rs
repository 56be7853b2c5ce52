//! What is told about the resources served now: discovery and OpenAPI.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{
    aggregation::Remotes,
    discovery::Discovery,
    dispatch::{Registries, Table},
    openapi::OpenApi,
};

/// The documents, made anew when they are asked for and custom resources have changed since.
pub(crate) struct Published {
    /// Where clients reach this server (`host:port`).
    address: String,
    made: Mutex<Option<Made>>,
}

/// What documents were made of, and the documents.
type Made = (Arc<Table>, Arc<Remotes>, Arc<Documents>);

/// The documents of one set of resources.
pub(crate) struct Documents {
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
}

impl Published {
    pub(crate) fn new(address: String) -> Self {
        Self { address, made: Mutex::default() }
    }

    /// The documents of what is served now.
    pub(crate) fn now(&self, registries: &Registries, remotes: Arc<Remotes>) -> Arc<Documents> {
        let custom = registries.custom();
        let mut made = self.made.lock();
        match &*made {
            Some((of, others, documents)) if Arc::ptr_eq(of, &custom) && Arc::ptr_eq(others, &remotes) => {
                Arc::clone(documents)
            }
            _ => {
                let served = registries.built_in().iter().chain(custom.iter());
                let mut schemas: Vec<_> =
                    served.map(|registry| (registry.info(), registry.strategy.open_api())).collect();
                schemas.extend(skep_api::resource::reviews().iter().map(|info| (info, None)));
                schemas.sort_by_key(|(info, _)| (&info.group, &info.version, &info.plural));
                let infos: Vec<_> = schemas.iter().map(|(info, _)| *info).collect();
                let documents = Arc::new(Documents {
                    discovery: Discovery::new(&infos, &remotes, &self.address),
                    openapi: OpenApi::new(&schemas, &remotes),
                });
                *made = Some((custom, remotes, Arc::clone(&documents)));
                documents
            }
        }
    }
}
