//! What lies between HTTP and the API: bodies, media types, responses.

pub mod body;
pub(crate) mod gzip;
pub(crate) mod negotiate;
pub(crate) mod request_body;
pub(crate) mod response;
pub(crate) mod timeout;
