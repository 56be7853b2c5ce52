//! Finalizers that protect objects in use: put on what lives, taken off what goes and is used no more.

use kube::api::{Api, ObjectMeta, PostParams};
use tracing::debug;

use crate::error::{Context as _, Error};
use crate::informer::{Informer, Object};
use crate::meta;

/// What is to become of an object's finalizer.
pub(crate) enum Wanted {
    /// It protects the object from now on.
    Added,
    /// It holds an object that is going.
    Removed,
}

/// Nothing to do for an object that is protected, or is going and not ours to hold.
pub(crate) fn wanted(meta: &ObjectMeta, finalizer: &str) -> Option<Wanted> {
    let protected = meta.finalizers.iter().flatten().any(|own| own == finalizer);
    match (meta::is_deleting(meta), protected) {
        (false, false) => Some(Wanted::Added),
        (true, true) => Some(Wanted::Removed),
        _ => None,
    }
}

/// Writes the object with or without the finalizer.
pub(crate) async fn write<K>(
    api: &Api<K>,
    informer: &Informer<K>,
    object: &K,
    finalizer: &str,
    wanted: &Wanted,
) -> Result<(), Error>
where
    K: Object + serde::Serialize,
{
    let mut object = object.clone();
    let meta = object.meta_mut();
    let name = meta::name(meta).to_owned();
    let finalizers = meta.finalizers.get_or_insert_default();
    match wanted {
        Wanted::Added => finalizers.push(finalizer.to_owned()),
        Wanted::Removed => finalizers.retain(|own| own != finalizer),
    }
    match api.replace(&name, &PostParams::default(), &object).await.context(|| format!("protecting {name}")) {
        Ok(written) => {
            if matches!(wanted, Wanted::Added) {
                informer.wrote(&written);
            }
            debug!(%name, finalizer, added = matches!(wanted, Wanted::Added), "finalizer set");
            Ok(())
        }
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
