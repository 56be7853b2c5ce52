//! The strategy of resources that need nothing but metadata checked.

use std::marker::PhantomData;

use skep_api::{meta::ApiObject, resource::ResourceInfo};

use super::strategy::Strategy;

/// Objects of type `O` with upstream's rules for metadata and no others.
pub(crate) struct Basic<O> {
    info: &'static ResourceInfo,
    prefix: &'static str,
    object: PhantomData<fn() -> O>,
}

impl<O> Basic<O> {
    /// The strategy of the resource `info`, stored below `prefix`.
    pub(crate) fn new(info: &'static ResourceInfo, prefix: &'static str) -> Self {
        Self { info, prefix, object: PhantomData }
    }
}

impl<O: ApiObject> Strategy for Basic<O> {
    type Object = O;

    fn info(&self) -> &'static ResourceInfo {
        self.info
    }

    fn prefix(&self) -> &'static str {
        self.prefix
    }
}
