//! The API server against a real etcd: in-process through kube::Client and raw requests, and over TLS.

mod admission;
mod aggregation;
mod apply;
mod backend;
mod bad_input;
mod crud;
mod fairness;
mod custom;
mod faults;
mod groups;
mod kubectl;
mod identity;
mod logs;
mod masters;
mod paths;
mod pipeline;
mod pod_parts;
mod protobuf;
mod proxy;
mod rbac;
mod reads;
mod resources;
mod strategies;
mod support;
mod tls;
