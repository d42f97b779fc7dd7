//! What an order needs of the kernel: conntrack's entries, the host's sockets, packets to clients.
//!
//! In: a virtual IP and a backend. Out: entries read, entries deleted, sockets destroyed. Owns the sockets for all of
//! that, opened once.

use std::collections::HashSet;
use std::net::SocketAddr;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_SOCK_DIAG};
use rustix::io::Errno;

use super::entries::{self, Entry, Flow, TcpState};
use super::sender::Sender;
use super::sock_diag;
use crate::dataplane::flows::StaleFlows;
use crate::model::types::{Backend, Family, Vip};
use crate::netlink::channel::{Channel, NetlinkError};

/// Whether the kernel refuses a dump because it does not filter.
pub(super) fn is_filter_unsupported(error: &NetlinkError) -> bool {
    matches!(error.refusal(), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

/// See the module.
pub(crate) struct KernelSockets {
    pub(crate) conntrack: Channel,
    sockets: Option<Channel>,
    /// The kernel filters dumps itself (5.8 and later; before that it ignores the filter or refuses it).
    filters: bool,
    pub(super) sender: Sender,
}

impl KernelSockets {
    /// Only conntrack is indispensable.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            conntrack: Channel::open(NETLINK_NETFILTER, "conntrack")?,
            sockets: Channel::open(NETLINK_SOCK_DIAG, "the host's sockets").ok(),
            filters: true,
            sender: Sender::open(),
        })
    }

    /// The TCP entries from `vip` to `backend`.
    pub(super) fn entries(&mut self, vip: Vip, backend: Backend) -> Result<Vec<Entry>, NetlinkError> {
        self.select(vip, &entries::dump(vip, backend), |entry| entry.backend == backend)
    }

    /// The TCP entries of connections to `vip` that `wanted` says. `filtered`: the request for them.
    fn select(
        &mut self,
        vip: Vip,
        filtered: &[u8],
        wanted: impl Fn(&Entry) -> bool + Copy,
    ) -> Result<Vec<Entry>, NetlinkError> {
        // An entry that cannot be read is none that can be acted upon.
        let select = move |body: &[u8]| {
            let entry = entries::entry(body).ok().flatten();
            entry.filter(|entry| entry.flow.vip == vip && wanted(entry))
        };
        if self.filters {
            match self.conntrack.dump(entries::GET, filtered, select) {
                Err(error) if is_filter_unsupported(&error) => self.filters = false,
                entries => return entries,
            }
        }
        self.conntrack.dump(entries::GET, &entries::dump_all(vip.ip()), select)
    }

    /// Deletes an entry that is still as it was listed. `false`: it is gone, or went on since then, or the kernel refused.
    ///
    /// Many SYNs are answered at once when a path comes back. A connection that was answered after the list was read
    /// works, and without its entry the next packet of its client goes to another backend, which resets it.
    pub(super) fn delete(&mut self, entry: &Entry) -> bool {
        let request = entries::identify(entry);
        let now = self.conntrack.ask(entries::GET, 0, &request);
        let is_unchanged = matches!(now, Ok(Some(body)) if entry.is_unchanged_in(&body));
        is_unchanged && self.conntrack.ask(entries::DELETE, 0, &request).is_ok()
    }

    /// Deletes the entries that `stale` [`covers`].
    pub(super) fn delete_stale(&mut self, stale: &StaleFlows) {
        let vip = stale.vip;
        let covers = |entry: &Entry| covers(stale, entry.backend, entry.state);
        match self.select(vip, &entries::dump_vip(vip), covers) {
            Ok(entries) => {
                let deleted = entries.iter().filter(|entry| self.delete(entry)).count();
                tracing::debug!(
                    event = %"stale_entries_deleted", %vip, deleted,
                    "Deleted conntrack entries of untranslated connections"
                );
            }
            // They expire by themselves.
            Err(error) => {
                tracing::debug!(
                    event = %"stale_entries_read_failed", %vip, %error,
                    "Failed to read conntrack entries of virtual IP"
                );
            }
        }
    }

    /// This host's own ends of its established connections to `backend` itself.
    pub(super) fn own_connections(&mut self, backend: Backend) -> Result<Vec<SocketAddr>, NetlinkError> {
        let Some(channel) = &mut self.sockets else { return Ok(Vec::new()) };
        let mut own = Vec::new();
        for family in [Family::V4, Family::V6] {
            if backend.is_ipv6() && family == Family::V4 {
                continue;
            }
            let request = sock_diag::list_established(backend, family);
            let client = |body: &[u8]| sock_diag::socket(body).ok().map(|socket| socket.flow.client);
            own.extend(channel.dump(sock_diag::LIST, &request, client)?);
        }
        Ok(own)
    }

    /// Destroys those of the host's sockets that are the client's end of one of `flows`, and returns which were. Before
    /// each it checks whether to `stop`.
    pub(crate) fn destroy_sockets(
        &mut self,
        vip: Vip,
        flows: &HashSet<Flow>,
        mut stop: impl FnMut() -> bool,
    ) -> Result<Vec<Flow>, NetlinkError> {
        let Some(channel) = &mut self.sockets else { return Ok(Vec::new()) };
        let mut destroyed = Vec::new();
        for family in [Family::V4, Family::V6] {
            if vip.is_ipv6() && family == Family::V4 {
                continue;
            }
            let affected =
                |body: &[u8]| sock_diag::socket(body).ok().filter(|socket| flows.contains(&socket.flow));
            for socket in channel.dump(sock_diag::LIST, &sock_diag::list(vip, family), affected)? {
                if stop() {
                    return Ok(destroyed);
                }
                match channel.ask(sock_diag::DESTROY, 0, &sock_diag::destroy(&socket)) {
                    Ok(_) => destroyed.push(socket.flow),
                    Err(error) if error.refusal() == Some(Errno::OPNOTSUPP) => return Err(error),
                    // It ended between the list and now.
                    Err(_) => {}
                }
            }
        }
        Ok(destroyed)
    }
}

/// Whether a connection to `backend` is one of these. Of those that another program translated to a server of its own only
/// what was never answered: the others may still be in use.
fn covers(stale: &StaleFlows, backend: Backend, state: TcpState) -> bool {
    match state {
        TcpState::Unanswered => !stale.backends.contains(&backend),
        TcpState::Closing | TcpState::Ended => stale.ended && backend == stale.vip,
        TcpState::HalfOpen | TcpState::Open | TcpState::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_covers_only_unanswered_entries_of_other_servers() {
        let (vip, ours, other): (Vip, Backend, Backend) = (
            "10.96.0.1:443".parse().unwrap(),
            "192.0.2.11:6443".parse().unwrap(),
            "192.0.2.99:6443".parse().unwrap(),
        );
        let mut stale = StaleFlows { vip, backends: [ours].into(), ended: true };
        for (answers, states) in [
            (vip, &[TcpState::Unanswered, TcpState::Closing, TcpState::Ended][..]),
            (other, &[TcpState::Unanswered]),
            (ours, &[]),
        ] {
            for state in
                [TcpState::Unanswered, TcpState::HalfOpen, TcpState::Open, TcpState::Closing, TcpState::Ended]
            {
                assert_eq!(covers(&stale, answers, state), states.contains(&state), "{answers} {state:?}");
            }
        }
        stale.ended = false;
        assert!(covers(&stale, vip, TcpState::Unanswered) && !covers(&stale, vip, TcpState::Ended));
    }
}
