/// What can go wrong with a document.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptions in the binary cannot be expanded.
    #[error("cannot expand the descriptions of the API types: {0}")]
    Descriptions(#[from] std::io::Error),
    /// A resource is served whose type is not known.
    #[error("no schema of {0}")]
    UnknownKind(String),
}
