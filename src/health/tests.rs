//! Probes of servers that run here, on loopback, with TLS.

mod connections;
mod credentials;
mod decisions;
mod harness;
mod probes;
mod server;
