//! Server-side apply: a configuration as the source of an update.

use futures::{FutureExt as _, future::BoxFuture};
use serde_json::Value;
use skep_api::{
    options::{FieldValidation, PatchOptions},
    status::StatusError,
};
use skep_apply::{Apply, Managed, OneVersion, Versions};

use super::{
    Registry, Scope,
    decode::Warnings,
    ownership::{Ownership, apply_error, without_owners},
    strict,
    update::{Current, Source},
    versions::Converted,
};
use crate::{
    http::request_body::yaml,
    registry::{erased::UpdateKind, object::Object},
};

/// An applied configuration.
pub(crate) struct Applied<'a> {
    registry: &'a Registry,
    now: jiff::Timestamp,
    manager: &'a str,
    subresource: &'static str,
    force: bool,
    config: Value,
    pub(crate) warnings: Warnings,
}

impl<'a> Applied<'a> {
    /// Reads the body of the request.
    pub(crate) fn new(
        registry: &'a Registry,
        scope: &Scope<'a>,
        kind: UpdateKind,
        options: &PatchOptions,
        body: &[u8],
    ) -> Result<Self, StatusError> {
        let mut warnings = Warnings::new();
        let config = read(body, options.field_validation, &mut warnings)?;
        Ok(Self {
            registry,
            now: scope.now,
            manager: scope.manager,
            subresource: kind.subresource(),
            force: options.force.unwrap_or(false),
            config,
            warnings,
        })
    }

    /// Merges the configuration into the object as it is.
    fn merge(
        &self,
        live: Option<&Value>,
        managed: &mut Managed,
        versions: &dyn Versions,
    ) -> Result<Option<Value>, skep_apply::Error> {
        let info = self.registry.info();
        let request = Apply {
            of: self.registry.field_type(),
            api_version: &info.api_version(),
            kind: &info.kind,
            live,
            config: &self.config,
            manager: self.manager,
            subresource: self.subresource,
            force: self.force,
            ignored: self.registry.ignored_fields(self.subresource),
            versions,
            now: self.now,
        };
        skep_apply::apply(&request, managed)
    }

    fn object(&self, value: Value, managed: Managed) -> Result<Box<dyn Object>, StatusError> {
        // What does not fit the type was refused before; what is left unknown is upstream's concern as little as ours.
        let mut object = self.registry.decode_patched(value, FieldValidation::Ignore, &mut Warnings::new())?;
        object.meta_mut().managed_fields = managed.encode();
        Ok(object)
    }
}

impl Applied<'_> {
    /// The object with the configuration merged in. What owners in other versions know it as is asked for on the way.
    async fn merged(&self, current: &Current<'_>) -> Result<Box<dyn Object>, StatusError> {
        let live = without_owners(current.json)?;
        let stored = current.object.meta().managed_fields.clone().unwrap_or_default();
        let stored = Managed::decode(stored).unwrap_or_default();
        let mut converted = Converted::new(self.registry);
        loop {
            let mut managed = stored.clone();
            match self.merge(Some(&live), &mut managed, &converted) {
                Ok(Some(value)) => return self.object(value, managed),
                Ok(None) => {
                    let mut object = current.object.boxed_clone();
                    object.meta_mut().managed_fields = managed.encode();
                    return Ok(object);
                }
                Err(skep_apply::Error::Unconverted { object, to }) => converted.ask(*object, to).await?,
                Err(error) => return Err(apply_error(error)),
            }
        }
    }
}

impl Source for Applied<'_> {
    fn produce<'a>(&'a mut self, current: &'a Current<'_>) -> BoxFuture<'a, Result<Box<dyn Object>, StatusError>> {
        self.merged(current).boxed()
    }

    fn for_create(&mut self, _: bool) -> Result<Option<Box<dyn Object>>, StatusError> {
        let mut managed = Managed::default();
        let value =
            self.merge(None, &mut managed, &OneVersion).map_err(apply_error)?.unwrap_or_else(|| self.config.clone());
        let object = self.object(value, managed)?;
        let uid = object.uid();
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(StatusError::conflict(self.registry.info(), object.name(), why));
        }
        Ok(Some(object))
    }

    fn ownership(&self) -> Ownership {
        Ownership::Settled
    }
}

/// Reads a configuration. Most clients send JSON, which is YAML too but much cheaper to read.
pub(crate) fn read(body: &[u8], validation: FieldValidation, warnings: &mut Warnings) -> Result<Value, StatusError> {
    let refuse = |why: &str| StatusError::bad_request(format!("error decoding YAML: {why}"));
    let config = match serde_json::from_slice(body) {
        Ok(config) => {
            if validation != FieldValidation::Ignore {
                strict::judge(strict::duplicates(body), validation, warnings, |all| {
                    StatusError::bad_request(format!("error strict decoding YAML: {all}"))
                })?;
            }
            config
        }
        // The library refuses keys that are there twice by itself.
        Err(_) => yaml(body).map_err(|error| refuse(error.message()))?,
    };
    if matches!(config, Value::Object(_)) { Ok(config) } else { Err(refuse("the configuration is no object")) }
}
