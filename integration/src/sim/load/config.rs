//! What a run of the generator is told.
//!
//! In: the arguments of the program, or a test's own values. Out: a validated configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

/// One run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where connections go, in turn.
    pub targets: Vec<SocketAddr>,
    /// New connections per second; 0 opens only the long-lived ones.
    pub rate: f64,
    /// How long; `None` until told to stop.
    pub duration: Option<Duration>,
    /// Client addresses, in turn among those of the target's family; empty leaves the choice to the kernel.
    pub sources: Vec<IpAddr>,
    /// What is done with a connection.
    pub kind: Kind,
    /// The longest that one attempt may take from its first SYN to its last byte.
    pub timeout: Duration,
    /// Long-lived echo connections.
    pub established: usize,
    /// Where the long-lived ones go; empty means `targets`.
    pub established_targets: Vec<SocketAddr>,
    /// How often progress is told.
    pub report_every: Option<Duration>,
}

/// What is done with each new connection.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Connect, then reset.
    Tcp,
    /// Read the greeting, exchange 8 bytes, then reset.
    Echo,
    /// Verify the server, `GET /readyz`, close.
    Tls(TlsKind),
}

/// What a TLS attempt needs.
#[derive(Clone, Debug)]
pub struct TlsKind {
    /// CA bundle, PEM.
    pub ca: PathBuf,
    /// The name that the certificate must carry.
    pub server_name: String,
    /// Bearer token.
    pub token: Option<String>,
}

impl Config {
    /// TCP connections to one target at this rate, for this long.
    pub fn new(target: SocketAddr, rate: f64, duration: Duration) -> Self {
        Self {
            targets: vec![target],
            rate,
            duration: Some(duration),
            sources: Vec::new(),
            kind: Kind::Tcp,
            timeout: Duration::from_secs(5),
            established: 0,
            established_targets: Vec::new(),
            report_every: None,
        }
    }

    /// Refuses what could not give a meaningful result.
    pub fn validated(self) -> Result<Self> {
        ensure!(!self.targets.is_empty(), "no target");
        ensure!(self.rate.is_finite() && self.rate >= 0.0, "rate {} is no rate", self.rate);
        ensure!(self.rate > 0.0 || self.established > 0, "neither a rate nor long-lived connections");
        ensure!(!self.timeout.is_zero(), "a timeout of zero fails everything");
        for target in self.targets.iter().chain(&self.established_targets) {
            ensure!(
                self.sources.is_empty() || self.sources.iter().any(|s| s.is_ipv4() == target.is_ipv4()),
                "no source address of the family of {target}"
            );
        }
        Ok(self)
    }

    /// The `index`-th attempt's target.
    pub(super) fn target(&self, index: u64) -> SocketAddr {
        in_turn(&self.targets, index)
    }

    /// The `index`-th long-lived connection's target.
    pub(super) fn established_target(&self, index: u64) -> SocketAddr {
        match self.established_targets.as_slice() {
            [] => self.target(index),
            targets => in_turn(targets, index),
        }
    }

    /// The `index`-th attempt's client address towards `target`.
    pub(super) fn source(&self, index: u64, target: SocketAddr) -> Option<IpAddr> {
        let fits: Vec<IpAddr> =
            self.sources.iter().copied().filter(|source| source.is_ipv4() == target.is_ipv4()).collect();
        // Divided by the number of targets, or a target would meet only some of the sources.
        (!fits.is_empty()).then(|| in_turn(&fits, index / self.targets.len().max(1) as u64))
    }
}

fn in_turn<T: Copy>(items: &[T], index: u64) -> T {
    items[(index % items.len() as u64) as usize]
}
