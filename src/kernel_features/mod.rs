//! Tries what the daemon asks of the kernel, in a network namespace of its own that goes with the thread that made it.
//!
//! In: nothing. Out: for each [`Feature`] what came of it. The code that asks is the daemon's own. Nothing that runs on
//! the node sees any of it; the kernel may load modules, as it would for the daemon.

mod conntrack;
mod routes;
mod rules;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

/// Something that the daemon asks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// A table of family inet, by netlink.
    NfTables,
    /// NAT in family inet, in prerouting, output and postrouting.
    Nat,
    /// A TCP reset in prerouting.
    Reject,
    /// Looking up whether an address is local.
    Fib,
    /// A random number and a map of verdicts.
    Balance,
    /// A hash of the client's address.
    ClientHash,
    /// What conntrack knows of a packet's flow, and keeping packets from it.
    ConntrackRules,
    /// All of it: the table of a node with apiservers of both families, one of them dead.
    WholeTable,
    /// Tables that belong to the daemon and outlive it.
    TableOwner,
    /// Listing conntrack's entries.
    ConntrackNetlink,
    /// A list that the kernel filters.
    ConntrackFilter,
    /// Destroying a socket of the host.
    SocketDestroy,
    /// Raw sockets.
    RawSockets,
    /// Packet sockets with a filter.
    PacketSockets,
    /// A tun device.
    Tun,
    /// A local route on it.
    LocalRoutes,
    /// A routing rule with protocol and port.
    RoutingRules,
}

impl Feature {
    /// Each, in the order in which they are tried.
    pub const ALL: [Self; 17] = [
        Self::NfTables,
        Self::Nat,
        Self::Reject,
        Self::Fib,
        Self::Balance,
        Self::ClientHash,
        Self::ConntrackRules,
        Self::WholeTable,
        Self::TableOwner,
        Self::ConntrackNetlink,
        Self::ConntrackFilter,
        Self::SocketDestroy,
        Self::RawSockets,
        Self::PacketSockets,
        Self::Tun,
        Self::LocalRoutes,
        Self::RoutingRules,
    ];
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel does it.
    Works,
    /// The kernel does not, in its words.
    Missing(String),
    /// This process lacks a privilege.
    Forbidden(String),
    /// That cannot be said.
    Unclear(String),
}

/// A feature and what came of it.
pub type Tried = (Feature, Outcome);

/// Tries everything that can be tried within `limit`. What is missing in the answer was not reached.
///
/// # Errors
/// There is no namespace to try it in.
pub fn run(limit: Duration) -> io::Result<Vec<Tried>> {
    let (sender, answers) = mpsc::channel();
    thread::Builder::new().name("trial".to_owned()).spawn(move || {
        match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => attempt(&sender),
            Err(errno) => drop(sender.send(Err(errno.into()))),
        }
    })?;
    let deadline = Instant::now() + limit;
    let mut tried = Vec::new();
    while let Ok(one) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        tried.push(one?);
    }
    Ok(tried)
}

/// Dials `vip` in this network namespace, and says whom the kernel took that for. Nothing is sent over the connection.
///
/// # Errors
/// One line.
pub fn peer_of(vip: SocketAddr) -> Result<SocketAddr, String> {
    conntrack::peer_of(vip)
}

fn attempt(sender: &Sender<io::Result<Tried>>) {
    // Whoever asked may have gone.
    let mut tried = |one: Tried| drop(sender.send(Ok(one)));
    let loopback = conntrack::loopback_up();
    let tracked = rules::attempt(&mut tried);
    match loopback {
        Ok(()) => conntrack::connection(tracked.is_some(), &mut tried),
        Err(error) => {
            let unclear = Outcome::Unclear(format!("bring the loopback device up: {}", chain(&error)));
            for feature in [Feature::ConntrackNetlink, Feature::ConntrackFilter, Feature::SocketDestroy] {
                tried((feature, unclear.clone()));
            }
        }
    }
    conntrack::packets(&mut tried);
    routes::attempt(&mut tried);
}

/// What a refusal by the kernel means; `said` is shown.
pub(super) fn refused(source: &io::Error, said: &(dyn Error + 'static)) -> Outcome {
    /// ENOENT and EOPNOTSUPP: no such part; EINVAL and EPROTONOSUPPORT: not known; EAFNOSUPPORT, ENODEV, ENXIO: not built.
    const MISSING: [i32; 8] = [2, 6, 19, 22, 93, 95, 97, 99];
    match source.raw_os_error() {
        Some(1 | 13) => Outcome::Forbidden(chain(said)),
        Some(errno) if MISSING.contains(&errno) => Outcome::Missing(chain(said)),
        _ => Outcome::Unclear(chain(said)),
    }
}

/// An error and its causes on one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a string does not fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!(": {cause}"));
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_lack_of_a_part_or_of_a_right() {
        let of = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            refused(&error, &error)
        };
        assert!(matches!(of(95), Outcome::Missing(text) if text.contains("not supported")));
        assert!(matches!(of(1), Outcome::Forbidden(_)) && matches!(of(13), Outcome::Forbidden(_)));
        assert!(matches!(of(12), Outcome::Unclear(_)));
    }

    #[test]
    fn a_socket_that_nobody_translates_has_the_peer_that_it_dialled() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(peer_of(address), Ok(address));
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(peer_of(address), Ok(address));
    }

    /// The tests run as root, on a kernel that has everything.
    #[test]
    fn each_feature_is_tried_once_and_the_node_stays_as_it_was() {
        let before = crate::routes::links::links().unwrap();
        let tried = run(Duration::from_secs(50)).unwrap();
        assert_eq!(tried.iter().map(|(feature, _)| *feature).collect::<Vec<_>>(), Feature::ALL);
        for (feature, outcome) in &tried {
            assert_eq!(*outcome, Outcome::Works, "{feature:?}");
        }
        assert_eq!(crate::routes::links::links().unwrap(), before);
    }
}
