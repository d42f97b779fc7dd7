//! apivip keeps the virtual IP of the `kubernetes` Service pointing at live apiservers, on every node.
//!
//! Data flows one way: [`apiserver`] watches and builds a [`model::snapshot::Snapshot`], the reconciler turns it
//! into a desired state, and the dataplane programs the kernel.

pub mod apiserver;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod lock;
pub mod model;
pub mod privileges;
pub mod telemetry;
