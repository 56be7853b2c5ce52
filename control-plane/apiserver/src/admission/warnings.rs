//! What the response's `Warning` headers will say.

use std::{
    mem,
    sync::{Mutex, PoisonError},
};

/// Collects the warnings of one request.
#[derive(Debug, Default)]
pub(crate) struct WarningSink(Mutex<Vec<String>>);

impl WarningSink {
    /// Adds a warning, unless the same was given before.
    pub(crate) fn add(&self, warning: impl Into<String>) {
        let warning = warning.into();
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !warning.is_empty() && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// What was collected.
    pub(crate) fn take(&self) -> Vec<String> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
