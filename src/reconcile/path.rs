//! Which datapath serves connections, the rules or the forwarder, and the switch between the two: make before break.
//!
//! To the forwarder: its listeners first, then the route that brings it the packets. Back: the rules first, then the
//! route moves out of their sight; the listeners and the route go with the last connection, and with them what conntrack
//! remembers of them. A client that opens a connection from a port of an earlier one meets that memory, and with it this node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dataplane::LocalVip;
use crate::dataplane::{DataplaneError, Host};
use crate::model::desired::DesiredState;
use crate::model::report::{TrafficPath, TrafficPathReport};
use crate::proxy::{Forward, ForwarderError};

/// `--mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Rules; the forwarder while they cannot be programmed.
    #[default]
    Auto,
    /// Rules only.
    Nftables,
    /// The forwarder only.
    Forwarder,
}

impl Mode {
    /// Why rules are active, where they are.
    fn why_rules(self) -> Option<&'static str> {
        match self {
            Self::Auto => Some("--mode auto: the kernel accepts the rules"),
            Self::Nftables => Some("--mode nftables"),
            Self::Forwarder => None,
        }
    }
}

/// A commit that takes so long is abandoned for the forwarder, though it may still complete. Measured: one waits up to
/// 8 s while another program reloads the rules of 5,000 Services.
pub(super) const COMMIT_BOUND: Duration = Duration::from_secs(10);

/// One refused commit may be transient; so many in a row are not.
const MAX_FAILED_COMMITS: u32 = 2;

/// How often a commit is retried while the forwarder is the fallback.
pub(super) const RULES_RETRY: Duration = Duration::from_millis(500);

/// Why a step could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// The forwarder could not take over: its listeners.
    #[error(transparent)]
    Forwarder(#[from] ForwarderError),
    /// The kernel does not take the rules, or the forwarder could not take over: the routes.
    #[error(transparent)]
    Kernel(#[from] DataplaneError),
    /// Rules are in effect, or the forwarder serves; routes or routing rules that go with that are not as they should be.
    #[error(transparent)]
    Routes(DataplaneError),
}

/// The active datapath, and what is left of the other one.
#[derive(Debug)]
pub(super) struct PathSwitch {
    pub mode: Mode,
    pub in_use: TrafficPath,
    /// The virtual IPs have a local route on this node, for all packets or for those of open connections.
    vip_is_local: bool,
    /// The forwarder's listeners of virtual IPs are not withdrawn.
    listening: bool,
    /// Another daemon that drains has connections to them, or to other addresses.
    pub waits_for_predecessor: bool,
    /// There was one: it left routing rules, which no process owns.
    had_predecessor: bool,
    since: Instant,
    reason: Option<String>,
    failed_commits: u32,
}

impl PathSwitch {
    /// `inherited`: the forwarder took listeners of virtual IPs over from another process.
    pub fn new(mode: Mode, inherited: bool) -> Self {
        let in_use = if inherited { TrafficPath::Forwarder } else { TrafficPath::None };
        Self {
            mode,
            in_use,
            vip_is_local: false,
            listening: inherited,
            waits_for_predecessor: false,
            had_predecessor: false,
            since: Instant::now(),
            reason: None,
            failed_commits: 0,
        }
    }

    /// Whether another daemon still drains.
    pub fn follows(&mut self, drains: bool) {
        self.waits_for_predecessor = drains;
        self.had_predecessor |= drains;
    }

    /// A commit failed. Whether the forwarder is to take over, or to go on.
    pub fn refused(&mut self) -> bool {
        self.failed_commits = self.failed_commits.saturating_add(1);
        self.mode == Mode::Auto
            && (self.failed_commits >= MAX_FAILED_COMMITS || self.in_use == TrafficPath::Forwarder)
    }

    /// The forwarder serves `state`. Its listeners come first: a route without them would refuse connections.
    pub async fn forward<H: Host, W: Forward>(
        &mut self,
        host: &mut H,
        forwarder: &mut W,
        state: &DesiredState,
        (packets, reason): (LocalVip, &str),
    ) -> Result<(), PathError> {
        forwarder.serve(&state.vips()).await?;
        (self.listening, self.vip_is_local) = (true, true);
        let partly = match host.acquire_local_vips(state, packets).await {
            Err(error) if !error.is_partial() => return Err(error.into()),
            outcome => outcome.err(),
        };
        if self.reason.as_deref() != Some(reason) {
            self.reason = Some(reason.to_owned());
        }
        let chosen = self.mode == Mode::Forwarder;
        self.enter(TrafficPath::Forwarder, || match chosen {
            true => tracing::info!(event = %"forwarder_active", reason, "Forwarder serves the virtual IP"),
            false => tracing::warn!(
                event = %"forwarder_active", reason,
                "Forwarder serves the virtual IP, rules do not"
            ),
        });
        partly.map_or(Ok(()), |error| Err(PathError::Routes(error)))
    }

    /// The rules of `state` stand: new connections take them from now on.
    pub async fn withdraw<H: Host, W: Forward>(
        &mut self,
        host: &mut H,
        forwarder: &mut W,
        state: &DesiredState,
    ) -> Result<(), DataplaneError> {
        self.failed_commits = 0;
        self.vip_is_local |= self.in_use == TrafficPath::Forwarder;
        if self.vip_is_local {
            // Each time: others may have removed a part of it.
            host.acquire_local_vips(state, LocalVip::Ports).await?;
        }
        if self.listening && !self.waits_for_predecessor {
            forwarder.withdraw().await;
            self.listening = false;
        }
        self.reason = None;
        let open = forwarder.vip_connections();
        self.enter(TrafficPath::Nftables, || {
            if open > 0 {
                tracing::info!(
                    event = %"rules_active", connections = open,
                    "Rules serve the virtual IP again, draining the forwarder"
                );
            }
        });
        Ok(())
    }

    /// Whether the virtual IPs can be released: no connection needs them on this node any more.
    pub fn can_release<W: Forward>(&self, forwarder: &W) -> bool {
        let needed =
            self.in_use == TrafficPath::Forwarder || self.listening || forwarder.vip_connections() > 0;
        !needed && !self.waits_for_predecessor && (self.vip_is_local || self.had_predecessor)
    }

    /// Releases the virtual IPs.
    pub async fn release_local_vips<H: Host>(&mut self, host: &mut H) -> Result<(), DataplaneError> {
        host.release_local_vips().await?;
        self.had_predecessor = false;
        if std::mem::take(&mut self.vip_is_local) {
            tracing::info!(
                event = %"forwarder_drained",
                "Last forwarded connection through the virtual IP has ended"
            );
        }
        Ok(())
    }

    fn enter(&mut self, next: TrafficPath, tell: impl FnOnce()) {
        if self.in_use != next {
            if self.in_use != TrafficPath::None || next == TrafficPath::Forwarder {
                tell();
            }
            self.in_use = next;
            self.since = Instant::now();
        }
    }

    /// Whether rules must leave connections of the forwarder alone: of this one, or of that of a daemon that drains.
    pub fn keeps_proxied_connections(&self) -> bool {
        self.vip_is_local || self.in_use == TrafficPath::Forwarder || self.waits_for_predecessor
    }

    pub fn report(&self) -> TrafficPathReport {
        let reason = match self.in_use {
            TrafficPath::Nftables => self.mode.why_rules(),
            TrafficPath::Forwarder | TrafficPath::None => self.reason.as_deref(),
        };
        TrafficPathReport {
            in_use: self.in_use,
            since: self.since,
            reason: reason.map(Arc::from),
            fallback_active: self.in_use == TrafficPath::Forwarder && self.mode != Mode::Forwarder,
            draining: self.vip_is_local && self.in_use == TrafficPath::Nftables,
        }
    }
}
