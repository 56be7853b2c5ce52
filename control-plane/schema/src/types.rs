//! Types, fields, and the way from one to the next.

mod descriptions;
#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use descriptions::Descriptions;

/// One type; a small number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type(u16);

/// One field of a type; a small number too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field(u16);

/// What the items of a list or the values of a map are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Element(u16);

/// What a value looks like. Formats are OpenAPI's, empty for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string; formats `byte` and `date-time`.
    String(&'static str),
    /// An integer; formats `int32` and `int64`.
    Integer(&'static str),
    /// A number.
    Number(&'static str),
    /// A boolean.
    Boolean,
    /// An integer or a string.
    IntOrString,
    /// A quantity: a string or a number.
    Quantity,
    /// An object that may hold anything.
    Object,
    /// Any value.
    Any,
    /// An object with the fields of the type whose shape this is.
    Struct,
    /// A value of another type.
    Ref(Type),
    /// A list.
    List(Element),
    /// A map from strings.
    Map(Element),
}

/// How the items of a list belong together (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    Atomic,
    /// Each item is there once.
    Set,
    /// Items are told apart by these fields (`x-kubernetes-list-map-keys`).
    Map(&'static [&'static str]),
}

/// Fields of which one may be set (`x-kubernetes-unions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Union {
    /// The field that says which.
    pub discriminator: &'static str,
    /// JSON names, and what the discriminator calls them.
    pub fields: &'static [(&'static str, &'static str)],
}

/// Offset and length in [`NAMES`].
#[derive(Clone, Copy)]
struct Name(u16, u8);

impl Name {
    fn get(self) -> &'static str {
        // The build script wrote both.
        NAMES.get(usize::from(self.0)..usize::from(self.0) + usize::from(self.1)).unwrap_or_default()
    }
}

struct TypeRow {
    name: Name,
    shape: u16,
    first: u16,
    end: u16,
    package: u8,
    atomic: bool,
}

struct FieldRow {
    name: Name,
    shape: u16,
    marks: u16,
}

struct KindRow {
    group: Name,
    version: Name,
    kind: Name,
    of: u16,
}

struct PackageRow {
    /// The first type of the package.
    first: u16,
    /// Length of the expanded descriptions.
    size: u32,
    docs: &'static [u8],
}

struct Marks {
    required: bool,
    list: Option<ListType>,
    atomic: bool,
    patch: &'static str,
    merge_key: Option<&'static str>,
    default: Option<&'static str>,
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));

/// All types, sorted by package and name.
pub fn all() -> impl ExactSizeIterator<Item = Type> {
    (0..TYPES.len()).map(|at| Type(at as u16))
}

/// All groups, versions and kinds, sorted.
pub fn kinds() -> impl Iterator<Item = ((&'static str, &'static str, &'static str), Type)> {
    KINDS.iter().map(|row| ((row.group.get(), row.version.get(), row.kind.get()), Type(row.of)))
}

// === impl Type ===

impl Type {
    /// The type of a group, version and kind.
    pub fn of(group: &str, version: &str, kind: &str) -> Option<Type> {
        let key = |row: &KindRow| (row.group.get(), row.version.get(), row.kind.get());
        let at = KINDS.binary_search_by(|row| key(row).cmp(&(group, version, kind))).ok()?;
        Some(Type(KINDS[at].of))
    }

    /// The type with that definition's name, such as `io.k8s.api.core.v1.Pod`.
    pub fn named(name: &str) -> Option<Type> {
        fn key(name: &str) -> (&str, &str) {
            (name.rsplit_once('.').map_or("", |(package, _)| package), name)
        }
        TYPES.binary_search_by(|row| key(row.name.get()).cmp(&key(name))).ok().map(|at| Type(at as u16))
    }

    fn row(self) -> &'static TypeRow {
        &TYPES[usize::from(self.0)]
    }

    /// Name of its definition.
    pub fn name(self) -> &'static str {
        self.row().name.get()
    }

    /// [`Shape::Struct`] for one with fields, else what a value of it is.
    pub fn shape(self) -> Shape {
        SHAPES[usize::from(self.row().shape)]
    }

    /// Its fields, sorted by name.
    pub fn fields(self) -> impl ExactSizeIterator<Item = Field> {
        (self.row().first..self.row().end).map(Field)
    }

    /// The field of that JSON name.
    pub fn field(self, name: &str) -> Option<Field> {
        let row = self.row();
        let fields = &FIELDS[usize::from(row.first)..usize::from(row.end)];
        let at = fields.binary_search_by(|field| field.name.get().cmp(name)).ok()?;
        Some(Field(row.first + at as u16))
    }

    /// The field at a path such as `["spec", "containers", "name"]`; lists and maps are stepped through unnamed.
    pub fn walk<'a>(self, path: impl IntoIterator<Item = &'a str>) -> Option<Field> {
        let mut at = Some(self);
        let mut field = None;
        for name in path {
            let next = at?.field(name)?;
            at = next.shape().inner_type();
            field = Some(next);
        }
        field
    }

    /// Whether a value of it has one owner as a whole (`x-kubernetes-map-type: atomic`).
    pub fn is_atomic(self) -> bool {
        self.row().atomic
    }

    /// Fields of which one may be set.
    pub fn union(self) -> Option<Union> {
        UNIONS.iter().find(|(of, _)| *of == self.0).map(|(_, union)| *union)
    }

    /// The groups, versions and kinds whose type it is.
    pub fn group_version_kinds(self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        kinds().filter(move |(_, of)| *of == self).map(|(kind, _)| kind)
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Field ===

impl Field {
    fn row(self) -> &'static FieldRow {
        &FIELDS[usize::from(self.0)]
    }

    fn marks(self) -> &'static Marks {
        &MARKS[usize::from(self.row().marks)]
    }

    /// Its JSON name.
    pub fn name(self) -> &'static str {
        self.row().name.get()
    }

    /// What a value of it looks like.
    pub fn shape(self) -> Shape {
        SHAPES[usize::from(self.row().shape)]
    }

    /// Whether the OpenAPI document calls it required.
    pub fn is_required(self) -> bool {
        self.marks().required
    }

    /// For lists: how items belong together. Unmarked lists are atomic to server-side apply.
    pub fn list_type(self) -> Option<ListType> {
        self.marks().list
    }

    /// For maps and objects: whether there is one owner as a whole, by a mark here or on the type.
    pub fn is_atomic_map(self) -> bool {
        self.marks().atomic || matches!(self.shape(), Shape::Ref(of) if of.is_atomic())
    }

    /// `x-kubernetes-patch-strategy`: `merge`, `retainKeys`, `replace`, or `merge,retainKeys`.
    pub fn patch_strategy(self) -> Option<&'static str> {
        Some(self.marks().patch).filter(|strategy| !strategy.is_empty())
    }

    /// `x-kubernetes-patch-merge-key`.
    pub fn patch_merge_key(self) -> Option<&'static str> {
        self.marks().merge_key
    }

    /// The default upstream declares on the field, as JSON.
    pub fn default(self) -> Option<&'static str> {
        self.marks().default
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.name(), self.shape())
    }
}

// === impl Shape ===

impl Shape {
    /// The same, with the names of types without fields seen through: a `Time` is a string.
    pub fn resolved(self) -> Shape {
        match self {
            Shape::Ref(of) if of.shape() != Shape::Struct => of.shape().resolved(),
            other => other,
        }
    }

    /// The type with fields of a value, of a list's items or of a map's values.
    pub fn inner_type(self) -> Option<Type> {
        match self.resolved() {
            Shape::Ref(of) => Some(of),
            Shape::List(element) | Shape::Map(element) => element.shape().inner_type(),
            _ => None,
        }
    }
}

impl Element {
    /// What it looks like.
    pub fn shape(self) -> Shape {
        SHAPES[usize::from(self.0)]
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shape().fmt(f)
    }
}
