//! Tries what the ending of flows asks of the kernel, on a connection of its own over the loopback device.
//!
//! In: a network namespace that nobody else uses, with a chain that looks at conntrack. Out: what came of each attempt.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::{Feature, Outcome, Tried, chain, refused};
use crate::conntrack::capture::Sniffer;
use crate::conntrack::entries::{self, Flow};
use crate::conntrack::kernel::KernelSockets;
use crate::conntrack::sender::Sender;
use crate::conntrack::sock_diag;
use crate::netlink::channel::{Channel, NetlinkError};

/// `RTM_NEWLINK`.
const NEW_LINK: u16 = 16;
/// The kernel gives this index to the loopback device of every network namespace.
const LOOPBACK: u32 = 1;
const IFF_UP: u32 = 1;

/// Brings the loopback device up.
pub(crate) fn loopback_up() -> Result<(), NetlinkError> {
    let mut body = vec![0; 4];
    for word in [LOOPBACK, IFF_UP, IFF_UP] {
        body.extend(word.to_ne_bytes());
    }
    Channel::open(NETLINK_ROUTE, "network devices")?.ask(NEW_LINK, 0, &body).map(drop)
}

/// Sockets that forge and overhear packets.
pub(crate) fn packets(tried: &mut impl FnMut(Tried)) {
    let sender = Sender::open();
    let refusals = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
    // A kernel without IPv6 has no clients of that family.
    let raw = refusals.iter().filter_map(|ip| sender.refusal(*ip));
    let outcome = raw
        .filter(|error| Errno::from_io_error(error) != Some(Errno::AFNOSUPPORT))
        .map(|e| refused(e, e))
        .next();
    tried((Feature::RawSockets, outcome.unwrap_or(Outcome::Works)));
    let vip = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
    let outcome = match Sniffer::open(&[vip]) {
        Ok(_) => Outcome::Works,
        Err(error) => refused(&error, &error),
    };
    tried((Feature::PacketSockets, outcome));
}

/// Dials `vip` and returns whom the kernel took that for: a program at the sockets may have put another in its place. The
/// connection is given up at once.
pub(crate) fn peer_of(vip: SocketAddr) -> Result<SocketAddr, String> {
    let dial = || -> io::Result<(Socket, SocketAddr)> {
        let socket = Socket::new(Domain::for_address(vip), Type::STREAM.nonblocking(), None)?;
        match socket.connect(&vip.into()) {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => return Err(error),
            _ => {}
        }
        let own = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok((socket, own))
    };
    let (_socket, own) = dial().map_err(|error| format!("cannot be dialed: {}", error.kind()))?;
    let listed = Channel::open(NETLINK_SOCK_DIAG, "the host's sockets")
        .and_then(|mut channel| {
            channel.dump(sock_diag::LIST, &sock_diag::of_port(own), |body| sock_diag::socket(body).ok())
        })
        .map_err(|error| chain(&error))?;
    let ours = listed.into_iter().find(|socket| socket.flow.client.port() == own.port());
    ours.map(|socket| socket.flow.vip).ok_or_else(|| "the connection ended before its inspection".to_owned())
}

/// Conntrack and the host's sockets. `tracked`: a chain that looks at conntrack stands.
pub(crate) fn connection(tracked: bool, tried: &mut impl FnMut(Tried)) {
    let mut kernel = match KernelSockets::open() {
        Ok(kernel) => kernel,
        Err(error) => return tried((Feature::ConntrackNetlink, of_netlink(&error))),
    };
    let pair = match Pair::open() {
        Ok(pair) => pair,
        Err(error) => {
            let unclear = Outcome::Unclear(format!("connect over the loopback device: {error}"));
            for feature in [Feature::ConntrackNetlink, Feature::ConntrackFilter, Feature::SocketDestroy] {
                tried((feature, unclear.clone()));
            }
            return;
        }
    };
    let (client, vip) = (pair.client, pair.server);
    let listed = count(&mut kernel, &entries::dump_all(vip.ip()));
    let seen = matches!(&listed, Ok(entries) if *entries > 0);
    tried((
        Feature::ConntrackNetlink,
        match &listed {
            Ok(_) if seen || !tracked => Outcome::Works,
            Ok(_) => Outcome::Missing("conntrack lists no entry for a connection".to_owned()),
            Err(error) => of_netlink(error),
        },
    ));
    // One that asks for another port must bring nothing; a kernel that does not know the filter brings all.
    let other = SocketAddr::new(vip.ip(), vip.port() ^ 1);
    tried((
        Feature::ConntrackFilter,
        match count(&mut kernel, &entries::dump(other, other)) {
            _ if !seen => Outcome::Unclear("no entry exists that the filter can exclude".to_owned()),
            Ok(0) => Outcome::Works,
            Ok(_) => Outcome::Missing("the filter is ignored".to_owned()),
            Err(error) => of_netlink(&error),
        },
    ));
    let flow = Flow { client, vip };
    tried((
        Feature::SocketDestroy,
        match kernel.destroy_sockets(vip, &HashSet::from([flow]), || false) {
            Ok(destroyed) if destroyed.contains(&flow) => Outcome::Works,
            Ok(_) => Outcome::Missing("the socket of a connection is not found or not destroyed".to_owned()),
            Err(error) => of_netlink(&error),
        },
    ));
}

fn count(kernel: &mut KernelSockets, request: &[u8]) -> Result<usize, NetlinkError> {
    Ok(kernel.conntrack.dump(entries::GET, request, |_| Some(()))?.len())
}

/// One connection, both ends of it.
struct Pair {
    client: SocketAddr,
    server: SocketAddr,
    _ends: (TcpStream, TcpStream),
}

impl Pair {
    fn open() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = listener.local_addr()?;
        let ours = TcpStream::connect_timeout(&server, std::time::Duration::from_secs(1))?;
        let (theirs, client) = listener.accept()?;
        Ok(Self { client, server, _ends: (ours, theirs) })
    }
}

fn of_netlink(error: &NetlinkError) -> Outcome {
    match error {
        NetlinkError::Open(_, source) | NetlinkError::Send(_, source) | NetlinkError::Refused(_, source) => {
            refused(source, error)
        }
        other => Outcome::Unclear(other.to_string()),
    }
}
