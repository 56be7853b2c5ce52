//! The API server against a real etcd: in-process through kube::Client and raw requests, and over TLS.

mod aggregation;
mod apply;
mod backend;
mod bad_input;
mod crud;
mod fairness;
mod faults;
mod groups;
mod kubectl;
mod logs;
mod masters;
mod paths;
mod pipeline;
mod protobuf;
mod proxy;
mod rbac;
mod reads;
mod resources;
mod strategies;
mod support;
mod tls;
