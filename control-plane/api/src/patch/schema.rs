//! How strategic merge patch treats each list and map of the built-in types.

/// How one field is merged.
#[derive(Clone, Copy, Debug)]
pub enum Strategy {
    /// Maps merge key by key; the type of the value is given.
    Map(&'static TypeSchema),
    /// Maps merge, and `$retainKeys` names the keys that stay.
    RetainKeysMap(&'static TypeSchema),
    /// The value replaces what was there, map or list.
    Replace,
    /// A list of scalars that unite.
    Set,
    /// A list of objects that merge by a key.
    List {
        /// The field that tells items apart.
        key: &'static str,
        /// The type of an item.
        item: &'static TypeSchema,
        /// Whether items may carry `$retainKeys`.
        retain_keys: bool,
    },
}

/// The fields of a type that are not merged the plain way: maps merge, lists and scalars replace.
#[derive(Debug)]
pub struct TypeSchema {
    fields: &'static [(&'static str, Strategy)],
}

impl TypeSchema {
    /// How `field` is merged, when not the plain way.
    pub fn field(&self, field: &str) -> Option<Strategy> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, strategy)| *strategy)
    }
}

/// A type whose maps merge and whose lists replace.
pub static PLAIN: TypeSchema = TypeSchema { fields: &[] };

/// The schema of a built-in kind; [`PLAIN`] for one it does not know.
pub fn schema_for(_kind: &str) -> &'static TypeSchema {
    &PLAIN
}
