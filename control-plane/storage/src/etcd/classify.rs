//! What an error of the etcd client means for the request.

use crate::error::Error;
use std::error::Error as _;
use tonic::{Code, ConnectError, Status};

/// How far a failed request got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection: etcd never saw it.
    NotSent,
    /// etcd declined before it proposed anything; another member, or the same a little later, may accept.
    Refused,
    /// Sent, and its answer did not come.
    Lost,
    /// etcd judged it: [`typed`] says how.
    Answer,
}

/// How far the request got that failed with `error`.
pub(crate) fn failure(error: &etcd_client::Error) -> Failure {
    let status = match error {
        etcd_client::Error::GRpcStatus(status) => status,
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => return Failure::Lost,
        etcd_client::Error::WatchError(_) => return Failure::Lost,
        _ => return Failure::Answer,
    };
    if never_connected(status) || status.message().starts_with("Service was not ready") {
        return Failure::NotSent;
    }
    let message = status.message();
    match status.code() {
        Code::Unavailable if message == "etcdserver: no leader" || message == "etcdserver: not capable" => {
            Failure::Refused
        }
        Code::ResourceExhausted if message == "etcdserver: too many requests" => Failure::Refused,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal => Failure::Lost,
        _ => Failure::Answer,
    }
}

fn never_connected(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The error with its causes.
pub(crate) fn describe(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

/// etcd's verdicts as this crate's errors.
pub(crate) fn typed(error: &etcd_client::Error) -> Error {
    let etcd_client::Error::GRpcStatus(status) = error else { return Error::Etcd(error.to_string()) };
    let message = status.message();
    match status.code() {
        Code::InvalidArgument if message.contains("request is too large") => Error::TooLarge,
        Code::ResourceExhausted if message.contains("larger than max") => Error::TooLarge,
        Code::ResourceExhausted if message.contains("space exceeded") => Error::NoSpace(message.to_owned()),
        Code::OutOfRange if message.contains("compacted") => Error::Compacted { requested: 0 },
        Code::InvalidArgument => Error::Invalid(message.to_owned()),
        Code::Unauthenticated | Code::PermissionDenied => Error::Unavailable(message.to_owned()),
        _ if failure(error) != Failure::Answer => Error::Unavailable(describe(error)),
        _ => Error::Etcd(format!("{:?}: {message}", status.code())),
    }
}

/// Did etcd refuse because the lease is gone?
pub(crate) fn lease_not_found(error: &Error) -> bool {
    matches!(error, Error::Etcd(message) if message.contains("requested lease not found"))
}

/// Did etcd refuse because the revision is gone?
pub(crate) fn compacted(error: &Error) -> bool {
    matches!(error, Error::Compacted { .. })
}
