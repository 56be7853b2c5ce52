//! Between the version stored and the version served.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;
use skep_api::status::StatusError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Conversion,
    shown::{Found, Shown},
    strategy::Coercion,
};
use crate::{registry::erased::UnknownFields, scan};

/// Converts between versions by asking someone.
pub(super) trait Converter: Send + Sync {
    /// These objects, in any version of the definition, in the version `to` (`group/version`), in the same order.
    fn convert<'a>(&'a self, objects: Vec<Value>, to: &'a str) -> BoxFuture<'a, Result<Vec<Value>, StatusError>>;
}

/// A version of a definition, served or not.
pub(super) struct Sibling {
    /// `group/version`.
    pub(super) api_version: String,
    pub(super) fields: skep_apply::Custom,
}

/// One version as it is served.
pub(super) struct Version {
    /// `group/version`.
    pub(super) served: String,
    pub(super) stored: String,
    pub(super) coercion: Arc<Coercion>,
    /// That of the version stored.
    pub(super) storage: Arc<Coercion>,
    pub(super) identity: bool,
    pub(super) converter: Option<Arc<dyn Converter>>,
    /// All versions of the definition.
    pub(super) siblings: Arc<[Sibling]>,
    pub(super) selectable: Vec<String>,
    pub(super) closed: bool,
    pub(super) deprecation: Option<String>,
    pub(super) ended: CancellationToken,
    /// What is shown already; this version's is under `number`.
    pub(super) shown: Arc<Shown>,
    pub(super) number: u64,
}

impl Drop for Version {
    fn drop(&mut self) {
        self.shown.forget(self.number);
    }
}

impl Version {
    fn sibling(&self, api_version: &str) -> Option<&Sibling> {
        self.siblings.iter().find(|sibling| sibling.api_version == api_version)
    }

    async fn convert(&self, mut objects: Vec<Value>, to: &str) -> Result<Vec<Value>, StatusError> {
        let other = |object: &Value| object.get("apiVersion").and_then(Value::as_str) != Some(to);
        let Some(converter) = &self.converter else {
            // Strategy None: only the name of the version changes.
            for object in objects.iter_mut().filter(|object| other(object)) {
                object["apiVersion"] = to.into();
            }
            return Ok(objects);
        };
        let (places, asked): (Vec<usize>, Vec<Value>) = objects
            .iter()
            .enumerate()
            .filter(|(_, object)| other(object))
            .map(|(at, object)| (at, object.clone()))
            .unzip();
        if asked.is_empty() {
            return Ok(objects);
        }
        let answered = converter.convert(asked, to).await?;
        if answered.len() != places.len() {
            return Err(StatusError::internal_error(
                "a conversion returned another number of objects than it was given",
            ));
        }
        for (at, object) in places.into_iter().zip(answered) {
            objects[at] = object;
        }
        Ok(objects)
    }

    /// Stored objects as others convert them.
    async fn ask(&self, stored: &[Bytes]) -> Result<Vec<Bytes>, StatusError> {
        let objects = stored.iter().map(|json| parse(json)).collect::<Result<_, _>>()?;
        let objects = self.convert(objects, &self.served).await?;
        objects.into_iter().map(|object| self.finish(object)).collect()
    }

    /// A stored object as this version shows it, made anew.
    fn make(&self, stored: &[u8]) -> Result<Bytes, StatusError> {
        let mut object = parse(stored)?;
        if object.get("apiVersion").and_then(Value::as_str) != Some(&self.served) {
            if self.converter.is_some() {
                return Err(StatusError::internal_error("an object was not converted before it is shown"));
            }
            object["apiVersion"] = self.served.as_str().into();
        }
        self.finish(object)
    }

    /// Fills in what is missing in `shown`, as far as nobody else is at it already. Returns what others are at.
    async fn advance(
        &self,
        stored: &[Bytes],
        shown: &mut [Option<Bytes>],
    ) -> Result<Vec<watch::Receiver<Option<StatusError>>>, StatusError> {
        let missing: Vec<usize> = (0..stored.len()).filter(|at| shown[*at].is_none()).collect();
        let (found, claim) = self.shown.look(self.number, missing.iter().map(|at| &stored[*at]));
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for (at, found) in missing.into_iter().zip(found) {
            match found {
                Found::Ready(ready) => shown[at] = Some(ready),
                Found::Pending(pending) => theirs.push(pending),
                Found::Claimed => mine.push(at),
            }
        }
        if !mine.is_empty() {
            let asked: Vec<Bytes> = mine.iter().map(|at| stored[*at].clone()).collect();
            let made = match self.ask(&asked).await {
                Ok(made) => made,
                Err(error) => {
                    claim.fail(&error);
                    return Err(error);
                }
            };
            for (at, made) in mine.into_iter().zip(made) {
                self.shown.put(self.number, &stored[at], &made);
                shown[at] = Some(made);
            }
        }
        Ok(theirs)
    }

    fn finish(&self, mut object: Value) -> Result<Bytes, StatusError> {
        self.coercion.coerce(&mut object, &mut UnknownFields::new());
        let json = serde_json::to_vec(&object).map_err(StatusError::internal_error)?;
        Ok(scan::metadata_first(json).into())
    }
}

fn parse(stored: &[u8]) -> Result<Value, StatusError> {
    let object: Value = serde_json::from_slice(stored).map_err(StatusError::internal_error)?;
    if object.is_object() { Ok(object) } else { Err(StatusError::internal_error("a stored value is no object")) }
}

impl Conversion for Version {
    fn selectable(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.selectable.iter().map(String::as_str))
    }

    fn is_identity(&self) -> bool {
        self.identity
    }

    fn is_remote(&self) -> bool {
        self.converter.is_some()
    }

    fn show<'a>(&'a self, stored: &'a [Bytes]) -> BoxFuture<'a, Result<Vec<Bytes>, StatusError>> {
        async move {
            if self.converter.is_none() {
                return stored.iter().map(|json| self.present(json)).collect();
            }
            let mut shown = vec![None; stored.len()];
            loop {
                let pending = self.advance(stored, &mut shown).await?;
                if pending.is_empty() {
                    return Ok(shown.into_iter().flatten().collect());
                }
                for mut pending in pending {
                    // An error here only says that nobody is at it any more.
                    if let Ok(failed) = pending.wait_for(Option::is_some).await
                        && let Some(error) = failed.clone()
                    {
                        return Err(error);
                    }
                }
            }
        }
        .boxed()
    }

    fn present(&self, stored: &Bytes) -> Result<Bytes, StatusError> {
        if let Some(shown) = self.shown.get(self.number, stored) {
            return Ok(shown);
        }
        let mut shown = self.make(stored)?;
        if shown == *stored {
            shown = stored.clone();
        }
        self.shown.put(self.number, stored, &shown);
        Ok(shown)
    }

    fn store(&self, served: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, StatusError>> {
        async move {
            if self.served == self.stored {
                return Ok(served);
            }
            let mut objects = self.convert(vec![parse(&served)?], &self.stored).await?;
            let mut object = objects.pop().unwrap_or_default();
            self.storage.coerce(&mut object, &mut UnknownFields::new());
            serde_json::to_vec(&object).map_err(StatusError::internal_error)
        }
        .boxed()
    }

    fn in_version<'a>(&'a self, object: &'a Value, to: &'a str) -> BoxFuture<'a, Result<Option<Value>, StatusError>> {
        async move {
            if self.sibling(to).is_none() {
                return Ok(None);
            }
            // Nothing is dropped or filled in: what is converted there and back must be what it was.
            Ok(self.convert(vec![object.clone()], to).await?.pop())
        }
        .boxed()
    }

    fn field_type_in(&self, api_version: &str) -> skep_apply::Type<'_> {
        self.sibling(api_version).map_or(skep_apply::Type::Deduced, |sibling| sibling.fields.view())
    }

    fn is_closed(&self) -> bool {
        self.closed
    }

    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}
