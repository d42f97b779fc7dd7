//! apivip keeps the virtual IP of the `kubernetes` Service pointing at live apiservers, on every node.
//!
//! Data flows one way: [`apiserver`] watches and builds a [`model::snapshot::Snapshot`], [`gather`] brings one along from
//! [`seeds`] and saved [`state`] until then, [`health`] asks who lives, [`reconcile`] turns all of it into a desired state,
//! and [`dataplane`] programs the kernel. [`app`] wires them together.

pub mod admin;
pub mod apiserver;
pub mod app;
pub mod audit;
pub mod check;
pub mod cli;
pub mod clock;
pub mod columns;
pub mod config;
pub mod dataplane;
pub mod forwarder;
pub mod gather;
pub mod handover;
pub mod health;
pub mod ledger;
pub mod lock;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod privileges;
pub mod readyz;
pub mod reconcile;
pub mod report;
pub mod seeds;
pub mod selftest;
pub mod state;
pub mod status;
pub mod telemetry;
