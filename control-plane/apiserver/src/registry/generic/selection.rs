//! Which objects a list or watch is about.

use skep_api::{
    options::ListOptions,
    selector::{FieldSelector, LabelSelector},
    status::StatusError,
};
use skep_storage::Object as Cached;

use super::Registry;

/// The objects a list, watch or deletecollection selects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// What the keys start with; a whole key when one name is asked for.
    pub(crate) scope: String,
    labels: LabelSelector,
    fields: FieldSelector,
    name: Option<String>,
    everything: bool,
}

impl Registry {
    /// The objects a request selects; 400 for fields that cannot be selected by.
    pub(crate) fn select(
        &self,
        namespace: Option<&str>,
        name: Option<&str>,
        options: &ListOptions,
    ) -> Result<Selection, StatusError> {
        let schema = self.cache.schema();
        let renamed = self.version.as_ref().map_or(&[][..], |version| version.field_names());
        let mut supported: Vec<&str> = if let Some(conversion) = &self.conversion {
            conversion.selectable().collect()
        } else if renamed.is_empty() {
            schema.fields.names().collect()
        } else {
            renamed.iter().map(|(name, _)| *name).collect()
        };
        supported.push("metadata.name");
        if self.info().namespaced {
            supported.push("metadata.namespace");
        }
        options.field_selector.check(&supported)?;
        let name = name.or_else(|| options.field_selector.exact("metadata.name"));
        let scope = match name {
            // Across namespaces a name narrows no key range.
            Some(name) if namespace.is_some() || !self.info().namespaced => self.key(namespace, name),
            _ => None,
        };
        Ok(Selection {
            scope: scope.unwrap_or_else(|| self.key_scope(namespace)),
            everything: options.label_selector.is_empty() && options.field_selector.is_empty() && name.is_none(),
            labels: options.label_selector.clone(),
            fields: options.field_selector.renamed(renamed),
            name: name.map(str::to_owned),
        })
    }
}

impl Selection {
    /// Whether every object of the scope is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether the object is selected. Its key must be in the scope.
    pub(crate) fn matches(&self, object: &Cached) -> bool {
        self.everything
            || (self.name.as_deref().is_none_or(|name| name == object.name())
                && self.labels.matches(|key| object.label(key))
                && self.fields.matches(|name| object.field(name)))
    }
}
