//! Challenges a backend on the path of its own clients: whether its host is alive.
//!
//! In: a backend, and the virtual IPs that lead to it. Out: whether it could be challenged; its answer is seen by
//! [`super::capture::Observation`]. A bare SYN with the addresses of an open flow, as they are after translation, is answered
//! with a challenge ACK by a living kernel (RFC 5961, section 4), though its process be stopped. Client and backend keep
//! their connection: to both it is a segment that they ignore. A rule keeps it out of conntrack, by its having no TCP
//! options.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use rand::seq::IteratorRandom;

use super::entries::TcpState;
use super::kernel::KernelSockets;
use super::packet;
use super::sender::SendError;
use crate::dataplane::flows::of_its_family;
use crate::model::types::{Backend, Vip};

/// Flows challenged at once: one answer is enough, and a firewall on the way may have forgotten some flows.
const FLOWS: usize = 5;
/// A next hop in the same network says its link address within this.
const RESOLVED: Duration = Duration::from_millis(10);
const ATTEMPTS: u32 = 4;

/// Whether a backend could be challenged on its clients' path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeOutcome {
    /// No client has an open flow to it.
    NoFlows,
    /// It was, on so many of them.
    Sent {
        /// At least one.
        flows: usize,
        /// No client of a virtual IP has one: they are this host's own connections to it, those of this daemon among them.
        own: bool,
    },
    /// This process may not send such packets, none can be sent, or the backend is on this very host, where its answer
    /// could not be seen. Silence says nothing then.
    Impossible,
}

impl KernelSockets {
    /// See [`PathChallenger::ask`](super::PathChallenger::ask).
    pub(super) fn challenge_backend(&mut self, backend: Backend, vips: &[Vip]) -> ChallengeOutcome {
        self.sender.refresh();
        if self.sender.refusal(backend.ip()).is_some() || self.sender.is_local(backend.ip()) {
            return ChallengeOutcome::Impossible;
        }
        let Some((clients, own)) = self.clients_of(backend, vips) else {
            return ChallengeOutcome::Impossible;
        };
        if clients.is_empty() {
            return ChallengeOutcome::NoFlows;
        }
        let sent = clients.into_iter().filter(|client| self.challenge_as(*client, backend)).count();
        if sent == 0 { ChallengeOutcome::Impossible } else { ChallengeOutcome::Sent { flows: sent, own } }
    }

    /// Some clients with open flows to a backend, as it knows them, and whether they are this host's own. `None`: nobody can
    /// tell.
    fn clients_of(&mut self, backend: Backend, vips: &[Vip]) -> Option<(Vec<SocketAddr>, bool)> {
        let mut clients = BTreeSet::new();
        let mut known = true;
        for vip in of_its_family(vips, backend) {
            match self.entries(vip, backend) {
                Ok(entries) => {
                    let open = entries.into_iter().filter(|entry| entry.state == TcpState::Open);
                    clients.extend(open.map(|entry| entry.client_at_backend));
                }
                Err(error) => {
                    known = false;
                    tracing::debug!(
                        event = %"flows_read_failed", %backend, %vip, %error,
                        "Failed to read connections to API server from conntrack"
                    );
                }
            }
        }
        let own = clients.is_empty();
        if own {
            match self.own_connections(backend) {
                Ok(own) => clients.extend(own),
                Err(error) => {
                    known = false;
                    tracing::debug!(
                        event = %"own_connections_read_failed", %backend, %error,
                        "Failed to read connections of this host to API server"
                    );
                }
            }
        }
        let chosen = clients.into_iter().sample(&mut rand::rng(), FLOWS);
        (known || !chosen.is_empty()).then_some((chosen, own))
    }

    fn challenge_as(&mut self, client: SocketAddr, backend: Backend) -> bool {
        let Some(packet) = packet::syn_to(backend, client, rand::random()) else { return false };
        for attempt in 1..=ATTEMPTS {
            match self.sender.send(&packet, backend.ip()) {
                Ok(()) => return true,
                Err(SendError::Failed(_)) => return false,
                // The question for its link address stands in: the next hop did not answer that either.
                Err(SendError::Unresolved) if attempt == ATTEMPTS => return true,
                Err(SendError::Unresolved | SendError::Busy) => thread::sleep(RESOLVED),
            }
        }
        false
    }
}
