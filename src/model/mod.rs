//! The pure model: what the API publishes, what follows for the node. No I/O, no clock, no runtime.

pub mod address;
pub mod balance;
pub mod cidr;
pub mod desired;
pub mod forwarding;
pub mod health;
pub mod interface;
pub mod merge;
pub mod objects;
pub mod published;
pub mod report;
pub mod seed;
pub mod snapshot;
pub mod traffic;
pub mod types;
