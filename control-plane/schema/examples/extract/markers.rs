//! `data/markers.txt`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

/// Markers by the full name of a type or field.
pub(crate) type Markers = BTreeMap<String, Vec<String>>;

pub(crate) fn read(text: &str) -> Result<Markers> {
    let mut markers = Markers::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, words) = line.split_once(' ').with_context(|| format!("no marker in {line:?}"))?;
        let prefix = if name.contains(".pkg.") { "io.k8s." } else { "io.k8s.api." };
        markers.entry(format!("{prefix}{name}")).or_default().extend(words.split(' ').map(str::to_owned));
    }
    Ok(markers)
}
