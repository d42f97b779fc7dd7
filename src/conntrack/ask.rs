//! Asks a backend on the path of its own clients whether its host lives.
//!
//! In: a backend, and the virtual IPs that lead to it. Out: whether it could be asked; what it says is seen by
//! [`super::observe`]. A bare SYN with the addresses of an open flow, as they are after translation, is answered with a
//! challenge ACK by a living kernel (RFC 5961, section 4), though its process be stopped. Client and backend keep their
//! connection: to both it is a segment that they ignore. A rule keeps it out of conntrack, by its having no TCP options.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rand::seq::IteratorRandom;
use tokio::sync::oneshot;

use super::inbox::Command;
use super::kernel::Kernel;
use super::sender::NotSent;
use super::{of_its_family, packet};
use crate::conntrack::entries::State;
use crate::model::types::{Backend, Vip};

/// Flows asked at once: one answer is enough, and a firewall on the way may know some flows no more.
const FLOWS: usize = 5;
/// A next hop in the same network says its link address within this.
const RESOLVED: Duration = Duration::from_millis(10);
const ATTEMPTS: u32 = 4;

/// Whether a backend could be asked on its clients' path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
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

/// Asks backends on the thread that works on orders.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Command>);

impl Asker {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self(commands)
    }

    /// Asks `backend` on up to five open flows, chosen at random, that lead to it: those of clients of these virtual IPs,
    /// or, where there are none, this host's own connections to it. Returns once it is asked.
    pub async fn ask(&self, backend: Backend, vips: Vec<Vip>) -> Asked {
        let (answer, asked) = oneshot::channel();
        match self.0.send(Command::Ask(backend, vips, answer)) {
            Ok(()) => asked.await.unwrap_or(Asked::Impossible),
            Err(_) => Asked::Impossible,
        }
    }
}

impl Kernel {
    /// See [`Asker::ask`].
    pub(super) fn ask_backend(&mut self, backend: Backend, vips: &[Vip]) -> Asked {
        self.sender.refresh();
        if self.sender.refusal(backend.ip()).is_some() || self.sender.is_local(backend.ip()) {
            return Asked::Impossible;
        }
        let Some((clients, own)) = self.clients_of(backend, vips) else { return Asked::Impossible };
        if clients.is_empty() {
            return Asked::NoFlows;
        }
        let sent = clients.into_iter().filter(|client| self.ask_as(*client, backend)).count();
        if sent == 0 { Asked::Impossible } else { Asked::Sent { flows: sent, own } }
    }

    /// Some clients with open flows to a backend, as it knows them, and whether they are this host's own. `None`: nobody can tell.
    fn clients_of(&mut self, backend: Backend, vips: &[Vip]) -> Option<(Vec<SocketAddr>, bool)> {
        let mut clients = BTreeSet::new();
        let mut known = true;
        for vip in of_its_family(vips, backend) {
            match self.entries(vip, backend) {
                Ok(entries) => {
                    let open = entries.into_iter().filter(|entry| entry.state == State::Open);
                    clients.extend(open.map(|entry| entry.translated));
                }
                Err(error) => {
                    known = false;
                    tracing::debug!(%backend, %vip, %error, "read the flows of an apiserver");
                }
            }
        }
        let own = clients.is_empty();
        if own {
            match self.own_connections(backend) {
                Ok(own) => clients.extend(own),
                Err(error) => {
                    known = false;
                    tracing::debug!(%backend, %error, "read this host's connections to an apiserver");
                }
            }
        }
        let chosen = clients.into_iter().choose_multiple(&mut rand::rng(), FLOWS);
        (known || !chosen.is_empty()).then_some((chosen, own))
    }

    fn ask_as(&mut self, client: SocketAddr, backend: Backend) -> bool {
        let Some(packet) = packet::syn_to(backend, client, rand::random()) else { return false };
        for attempt in 1..=ATTEMPTS {
            match self.sender.send(&packet, backend.ip()) {
                Ok(()) => return true,
                Err(NotSent::Failed(_)) => return false,
                // The question for its link address stands in: the next hop did not answer that either.
                Err(NotSent::Unresolved) if attempt == ATTEMPTS => return true,
                Err(NotSent::Unresolved | NotSent::Busy) => thread::sleep(RESOLVED),
            }
        }
        false
    }
}
