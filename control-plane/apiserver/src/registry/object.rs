//! An API object whose type only its strategy knows.

use std::any::Any;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skep_api::meta::ApiObject;

/// What the registry needs of an object: its metadata and its JSON.
pub(crate) trait Object: Any + Send + Sync {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;
    /// Its JSON, to be looked into.
    fn to_value(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::from_slice(&self.to_json()?)
    }
    fn boxed_clone(&self) -> Box<dyn Object>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: ApiObject> Object for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    fn to_value(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(self)
    }

    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// A JSON document that takes the place of an object where only its JSON matters.
#[derive(Clone, Debug)]
pub(crate) struct JsonObject {
    meta: ObjectMeta,
    json: serde_json::Value,
}

impl JsonObject {
    pub(crate) fn new(json: serde_json::Value) -> Self {
        Self { meta: ObjectMeta::default(), json }
    }
}

impl Object for JsonObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }

    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&self.json)
    }

    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl dyn Object {
    /// `metadata.name`, empty if absent.
    pub(crate) fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or_default()
    }

    /// `metadata.uid`, empty if absent.
    pub(crate) fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or_default()
    }
}
