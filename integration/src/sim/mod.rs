//! Simulated peers: apiservers, clients under load, and a translator in front of a real old apiserver.
//!
//! Each program of `src/bin` only parses arguments and calls one of these modules, so that a test can also start
//! the same thing inside its own process.

pub mod access_log;
pub mod apiserver;
pub mod body;
pub mod clients;
pub mod control;
pub mod fleet;
pub mod https;
pub mod kubelet;
pub mod listen;
pub mod load;
mod manner;
pub mod objects;
pub mod odd_api;
pub mod protocol;
pub mod streams;

#[cfg(test)]
mod fixture;
