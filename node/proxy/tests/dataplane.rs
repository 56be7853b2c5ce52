//! The data plane on the real kernel: programs attached to a cgroup of the test, clients in that cgroup and in a network
//! namespace of the test, backends in another one. Needs root; nothing leaves the namespaces.

#[path = "dataplane/agent.rs"]
mod agent;
#[path = "dataplane/established.rs"]
mod established;
#[path = "dataplane/ground.rs"]
mod ground;
#[path = "dataplane/growth.rs"]
mod growth;
#[path = "dataplane/kinds.rs"]
mod kinds;
#[path = "dataplane/loads.rs"]
mod loads;
#[path = "dataplane/locals.rs"]
mod locals;
#[path = "dataplane/maps.rs"]
mod maps;
#[path = "dataplane/restart.rs"]
mod restart;
#[path = "dataplane/tcp.rs"]
mod tcp;
#[path = "dataplane/trace.rs"]
mod trace;
#[path = "dataplane/udp.rs"]
mod udp;
#[path = "dataplane/watched.rs"]
mod watched;
#[path = "dataplane/weights.rs"]
mod weights;
