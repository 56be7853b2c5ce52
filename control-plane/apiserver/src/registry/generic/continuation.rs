//! The answer to a page that cannot be had any more.

use skep_api::{continuation::ContinueToken, status::StatusError};

/// 410 for a token whose revision history has forgotten, with a token to go on inconsistently.
pub(crate) fn expired(token: &ContinueToken) -> StatusError {
    let mut status = StatusError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
    .into_status();
    status.metadata.continue_ = Some(ContinueToken::new(-1, token.start.clone()).encode());
    status.into()
}
