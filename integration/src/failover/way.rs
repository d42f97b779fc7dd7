//! How the node redirects connections in a scenario that runs in each of these ways, and the verdict of scenarios in which no
//! connection may be reset. In: a way. Out: a lab, a stage and a crowd of it.

use std::time::Duration;

use anyhow::Result;

use super::trial::lab;
use super::{Crowd, Failover, Outcome};
use crate::clients::Mix;
use crate::control_plane::Variant;
use crate::lab::{Families, Lab};

/// All API servers of these labs.
pub const ALL: [u8; 3] = [1, 2, 3];

/// `--silence-timeout`, in milliseconds: no client is notified sooner.
pub const SILENCE_MS: u64 = 5_000;

/// How the node redirects connections, and over which families.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// By rules of nftables.
    Rules(Families),
    /// By the userspace forwarder.
    Forwarder(Families),
}

impl Way {
    /// A lab with these families and nothing unusual.
    pub fn lab(self) -> Result<Lab> {
        lab(self.families())
    }

    /// Which families.
    #[must_use]
    pub fn families(self) -> Families {
        let (Self::Rules(families) | Self::Forwarder(families)) = self;
        families
    }

    /// Starts real API servers, publishes these, and a daemon that serves in this way.
    pub fn start<'lab>(self, lab: &'lab Lab, published: &[u8]) -> Result<Failover<'lab>> {
        Failover::start(lab, Variant::Real, published, self.arguments())
    }

    /// What the daemon is started with.
    #[must_use]
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Rules(_) => &[],
            Self::Forwarder(_) => &["--mode", "forwarder"],
        }
    }

    /// Clients in a Pod and on the node, while these are published. Through the forwarder conntrack does not show the API
    /// server of a connection, so that all are redirected to `i`.
    pub fn crowd(self, stage: &mut Failover<'_>, mix: &Mix, published: &[u8], i: u8) -> Result<Crowd> {
        if let Self::Rules(_) = self {
            return stage.everybody(mix);
        }
        stage.plane.publish_apiservers(&[i])?;
        stage.wait_for_backends(&[i])?;
        let crowd = stage.everybody(mix)?.redirected_to(stage.plane.apiservers(i)[0]);
        stage.plane.publish_apiservers(published)?;
        stage.wait_for_backends(published)?;
        Ok(crowd)
    }
}

/// Many that are idle beside some of every kind.
#[must_use]
pub fn mix() -> Mix {
    Mix { fresh_every: Some(Duration::from_millis(50)), idle: 100, ..Mix::default() }
}

/// The same, of clients that wait as long as it takes.
#[must_use]
pub fn patient() -> Mix {
    Mix { timeout: Duration::from_secs(90), fresh_every: Some(Duration::from_millis(100)), ..mix() }
}

/// Fails if any connection was reset or refused.
pub fn expect_uncut(outcome: &Outcome, stage: &Failover<'_>) -> Result<()> {
    println!("{outcome}");
    stage.daemon.explain(outcome.expect_uncut(&[]).and_then(|()| outcome.expect_nothing_refused()))
}
