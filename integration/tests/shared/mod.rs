//! Scenarios that run on each kind of control plane, one file for each theme. `real` and `simulated` say which, and what
//! differs there.

pub(crate) mod addresses;
pub(crate) mod behaviours;
pub(crate) mod clock;
pub(crate) mod coexistence;
pub(crate) mod commit_mutex;
pub(crate) mod dead_apiserver;
pub(crate) mod drift;
pub(crate) mod forwarder_drift;
pub(crate) mod growth;
pub(crate) mod lag;
pub(crate) mod neighbours;
pub(crate) mod odd_objects;
pub(crate) mod owner;
pub(crate) mod restart;
pub(crate) mod rotated_ca;
