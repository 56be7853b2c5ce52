//! Subresources that are not the object itself. One file each.

pub(crate) mod binding;
pub(crate) mod eviction;
mod location;
pub(crate) mod log;
pub(crate) mod proxy;
pub(crate) mod scale;
pub(crate) mod stream;
pub(crate) mod token;
