//! What the response's `Warning` headers will say.

use std::{
    mem,
    sync::{Mutex, PoisonError},
};

/// The most characters the warnings of an answer have, about; upstream's.
const MOST: usize = 4 * 1024;
/// The most of each when they are too long together; upstream's.
const MOST_EACH: usize = 256;

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

    /// What was collected, cut to what headers can carry: clients give up on a head that is too large, and what is warned
    /// of may be as long as the body that caused it.
    pub(crate) fn take(&self) -> Vec<String> {
        let mut warnings = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if length(&warnings) <= MOST {
            return warnings;
        }
        for warning in &mut warnings {
            if let Some((end, _)) = warning.char_indices().nth(MOST_EACH) {
                warning.truncate(end);
            }
        }
        let mut written = 0;
        warnings.retain(|warning| {
            let fits = written < MOST;
            written += warning.chars().count();
            fits
        });
        warnings
    }
}

fn length(warnings: &[String]) -> usize {
    warnings.iter().map(|warning| warning.chars().count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_cut_only_when_they_are_too_long_together() {
        let sink = WarningSink::default();
        let long = "ö".repeat(MOST);
        sink.add(long.clone());
        sink.add(long.clone());
        assert_eq!(sink.take(), std::slice::from_ref(&long));
        for number in 0..100 {
            sink.add(format!("{number}{long}"));
        }
        let cut = sink.take();
        assert_eq!(cut.len(), MOST / MOST_EACH);
        assert!(cut.iter().all(|warning| warning.chars().count() == MOST_EACH), "{cut:?}");
        assert!(cut[11].starts_with("11ö"));
    }
}
