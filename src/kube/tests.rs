//! The whole module against apiservers on loopback: real sockets, TLS and HTTP, scripted answers.

mod cluster;
mod failures;
mod fake;
pub(crate) mod log;
mod reconnect;
mod requests;
mod running;
mod vip;
