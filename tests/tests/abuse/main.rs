//! Clients that mean harm, or are badly made, against a running server: everybody else is served meanwhile, and what the
//! server spends on them is bounded.
//!
//! Nothing is timed: memory is compared with what a copy for each client would take, and waits have generous ends.

mod bodies;
mod lists;
mod unfinished;
mod watches;
mod world;
