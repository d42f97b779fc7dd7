//! apivip keeps the virtual IP of the `kubernetes` Service pointing at live apiservers, on every node.
//!
//! Data flows one way: [`kube`] watches and builds a [`model::snapshot::Snapshot`], [`bootstrap`] brings one along from
//! [`bootstrap::seeds`] and saved [`bootstrap::saved_state`] until then, [`health`] asks who lives, [`reconcile`] turns all of it into a desired state,
//! and [`nftables`] and the rooms beside it program the kernel. [`daemon`] wires them together.

pub mod admin;
#[cfg(feature = "audit")]
pub mod audit;
pub mod bootstrap;
pub mod check;
pub mod cli;
pub mod columns;
pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod dataplane;
pub mod health;
pub mod kernel_features;
pub mod kube;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod nftables;
pub mod process;
pub mod proxy;
pub mod reconcile;
pub mod routes;
pub mod selftest;
pub mod status;
pub mod transport;
