//! What plugins remember between the extension points of one pod's cycle, by type.

use std::{
    any::{Any, TypeId},
    collections::{HashMap, HashSet},
};

/// One value of each type; plugins use private types of their own, so they cannot collide.
#[derive(Default)]
pub struct CycleState {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    pub(crate) skip_filter: HashSet<&'static str>,
    pub(crate) skip_score: HashSet<&'static str>,
}

impl CycleState {
    /// Stores a value, replacing one of the same type.
    pub fn write<T: Any + Send + Sync>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// The value of this type, if an earlier extension point stored one.
    pub fn read<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref()
    }
}
