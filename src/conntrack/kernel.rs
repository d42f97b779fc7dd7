//! What an order asks of the kernel: conntrack's entries, the host's sockets, packets to clients.
//!
//! In: a virtual IP and a backend. Out: entries read, entries deleted, sockets destroyed. Owns the sockets for all of
//! that, opened once.

use std::collections::HashSet;
use std::net::SocketAddr;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_SOCK_DIAG};

use super::sender::Sender;
use super::sockets;
use super::stale::Stale;
use crate::conntrack::entries::{self, Entry, Flow};
use crate::model::types::{Backend, Family, Vip};
use crate::netlink::netlink::{Channel, NetlinkError};

const EOPNOTSUPP: i32 = 95;
const EINVAL: i32 = 22;

/// Whether the kernel refuses a dump because it does not filter.
pub(super) fn is_no_filter(error: &NetlinkError) -> bool {
    matches!(error.refusal(), Some(EINVAL | EOPNOTSUPP))
}

/// See the module.
pub(super) struct Kernel {
    pub(super) conntrack: Channel,
    sockets: Option<Channel>,
    /// The kernel filters dumps itself (5.8 and later; before that it ignores the filter or refuses it).
    filters: bool,
    pub(super) sender: Sender,
}

impl Kernel {
    /// Only conntrack is indispensable.
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            conntrack: Channel::open(NETLINK_NETFILTER, "conntrack")?,
            sockets: Channel::open(NETLINK_SOCK_DIAG, "the host's sockets").ok(),
            filters: true,
            sender: Sender::open(),
        })
    }

    /// The TCP entries that lead from `vip` to `backend`.
    pub(super) fn entries(&mut self, vip: Vip, backend: Backend) -> Result<Vec<Entry>, NetlinkError> {
        self.select(vip, &entries::dump(vip, backend), |entry| entry.answers == backend)
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
                Err(error) if is_no_filter(&error) => self.filters = false,
                entries => return entries,
            }
        }
        self.conntrack.dump(entries::GET, &entries::dump_all(vip.ip()), select)
    }

    /// Deletes an entry. `false`: it is gone already, or the kernel refused.
    pub(super) fn delete(&mut self, entry: &Entry) -> bool {
        self.conntrack.ask(entries::DELETE, 0, &entries::delete(entry)).is_ok()
    }

    /// Deletes the entries that are [`Stale::covers`].
    pub(super) fn forget(&mut self, stale: &Stale) {
        let vip = stale.vip;
        let covers = |entry: &Entry| stale.covers(entry.answers, entry.state);
        match self.select(vip, &entries::dump_vip(vip), covers) {
            Ok(entries) => {
                let deleted = entries.iter().filter(|entry| self.delete(entry)).count();
                tracing::debug!(%vip, deleted, "conntrack forgets connections that the rules did not translate");
            }
            // They expire by themselves.
            Err(error) => tracing::debug!(%vip, %error, "read conntrack's entries of the virtual IP"),
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
            let request = sockets::list_established(backend, family);
            let client = |body: &[u8]| sockets::socket(body).ok().map(|socket| socket.flow.client);
            own.extend(channel.dump(sockets::LIST, &request, client)?);
        }
        Ok(own)
    }

    /// Destroys those of the host's sockets that are the client's end of one of `flows`, and returns which were. Before
    /// each it asks whether to `stop`.
    pub(super) fn destroy_sockets(
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
                |body: &[u8]| sockets::socket(body).ok().filter(|socket| flows.contains(&socket.flow));
            for socket in channel.dump(sockets::LIST, &sockets::list(vip, family), affected)? {
                if stop() {
                    return Ok(destroyed);
                }
                match channel.ask(sockets::DESTROY, 0, &sockets::destroy(&socket)) {
                    Ok(_) => destroyed.push(socket.flow),
                    Err(error) if error.refusal() == Some(EOPNOTSUPP) => return Err(error),
                    // It ended between the list and now.
                    Err(_) => {}
                }
            }
        }
        Ok(destroyed)
    }
}
