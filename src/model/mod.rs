//! The pure model: what the API publishes, what follows for the node. No I/O, no clock, no runtime.

pub mod address;
pub mod cidr;
pub mod desired;
pub mod objects;
pub mod snapshot;
pub mod types;
