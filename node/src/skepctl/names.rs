//! Names for backends, where an API server tells them.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};

use crate::api::{Api, Endpoint, Endpoints};

/// Asks for each Service at most once. Without an answer there are no names, and a warning if there should have been some.
pub(crate) struct Names {
    api: Option<Api>,
    known: RefCell<HashMap<(String, String), Endpoints>>,
    /// A kubeconfig that was named must work; one that only lies there need not.
    must: bool,
    failed: RefCell<bool>,
}

impl Names {
    pub(crate) fn new(kubeconfig: Option<&Path>) -> Result<Self> {
        let must = kubeconfig.is_some();
        let api = match Api::at_hand(kubeconfig) {
            Ok(api) => api,
            Err(error) if must => return Err(error),
            Err(error) => {
                eprintln!("warning: no names of pods: {error:#}");
                None
            }
        };
        Ok(Self { api, known: RefCell::default(), must, failed: RefCell::new(false) })
    }

    /// Without asking anybody.
    pub(crate) fn none() -> Self {
        Self { api: None, known: RefCell::default(), must: false, failed: RefCell::new(false) }
    }

    /// What is known of a Service's backend.
    pub(crate) fn endpoint(&self, namespace: &str, service: &str, address: IpAddr) -> Result<Option<Endpoint>> {
        let Some(api) = self.api.as_ref().filter(|_| !*self.failed.borrow()) else { return Ok(None) };
        let key = (namespace.to_owned(), service.to_owned());
        if !self.known.borrow().contains_key(&key) {
            let endpoints = self.heard(api.endpoints(namespace, service))?.unwrap_or_default();
            self.known.borrow_mut().insert(key.clone(), endpoints);
        }
        Ok(self.known.borrow().get(&key).and_then(|endpoints| endpoints.get(&address).cloned()))
    }

    /// The pod with that address, `namespace/name`.
    pub(crate) fn pod_at(&self, address: IpAddr) -> Result<Option<String>> {
        let Some(api) = self.api.as_ref().filter(|_| !*self.failed.borrow()) else { return Ok(None) };
        Ok(self.heard(api.pod_at(address))?.flatten())
    }

    /// The answer, if there must be one or there is one.
    fn heard<T>(&self, answer: Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if self.must => Err(error),
            Err(error) => {
                eprintln!("warning: no names of pods: {error:#}");
                *self.failed.borrow_mut() = true;
                Ok(None)
            }
        }
    }

    /// The addresses of a pod.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
        let api = self.api.as_ref().with_context(|| {
            format!("where is the pod {namespace}/{name}? Give its address, or --kubeconfig FILE to ask the API server")
        })?;
        api.pod_addresses(namespace, name)
    }
}
