//! What every client of the API server needs beyond `kube`: leader election over a Lease ([`leader_election`]) and an event
//! recorder that aggregates as upstream's does ([`events`]).
#![forbid(unsafe_code)]

pub mod events;
pub mod leader_election;

pub use events::Recorder;
pub use leader_election::{Error as LeaderElectionError, LeaderElection};
