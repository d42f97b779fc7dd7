//! Probes of servers that run here, on loopback, with TLS.

mod decisions;
mod harness;
mod hostile;
mod kept;
mod outcomes;
mod pki;
mod server;
mod strangers;
mod trust;
