//! The pure model: what the API publishes, what follows for the node. No I/O, no clock, no runtime.

pub mod address;
pub mod balance;
pub mod desired;
pub mod health;
pub mod objects;
pub mod proxy_routes;
pub mod report;
pub mod snapshot;
pub mod sources;
pub mod traffic;
pub mod types;
pub mod verdict;
