//! ctnetlink messages: dump the entries of one virtual IP, delete one entry. Pure.
//!
//! In: a virtual IP, an entry, or a message body. Out: a message body, or an [`Entry`]. The kernel's side is
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::net::{IpAddr, SocketAddr};

use crate::model::traffic::ByteCounts;
use crate::model::types::{Backend, Vip};
use crate::netlink::message::{self, Attr, Malformed};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
pub(crate) const GET: u16 = 0x101;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
pub(super) const DELETE: u16 = 0x102;

const IPPROTO_TCP: u8 = 6;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTOINFO: u16 = 4;
const COUNTERS_ORIG: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const TUPLE_ZONE: u16 = 3;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
const COUNTERS_BYTES: u16 = 2;
const PROTOINFO_TCP: u16 = 1;
const PROTOINFO_TCP_STATE: u16 = 1;

const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
const FILTER_IP_SRC: u32 = 1 << 0;
const FILTER_IP_DST: u32 = 1 << 1;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_SRC_PORT: u32 = 1 << 4;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;

/// How far a connection got, as `enum tcp_conntrack` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TcpState {
    /// The client's SYN has had no answer (SYN_SENT, SYN_SENT2).
    Unanswered,
    /// The backend's SYN-ACK has been seen, the client's ACK not yet (SYN_RECV).
    HalfOpen,
    /// Somebody may still wait for data: ESTABLISHED, FIN_WAIT, CLOSE_WAIT.
    Open,
    /// Both sides seem to have closed: LAST_ACK, TIME_WAIT. A half-closed flow may look like this, since conntrack takes
    /// a FIN that its sender repeats for the other side's (sFW -> sLA in `net/netfilter/nf_conntrack_proto_tcp.c`).
    Closing,
    /// Nobody does: a reset was seen, or sent (CLOSE). A connection that its client opens from the same port meets this
    /// entry for 10 s, and with it the backend of the earlier one.
    Ended,
    /// Not a state of a connection.
    Other,
}

impl TcpState {
    fn of(number: u8) -> Self {
        match number {
            1 | 9 => Self::Unanswered,
            2 => Self::HalfOpen,
            3..=5 => Self::Open,
            6 | 7 => Self::Closing,
            8 => Self::Ended,
            _ => Self::Other,
        }
    }
}

/// A connection as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// The client's own address and port.
    pub(crate) client: SocketAddr,
    /// What it dialled.
    pub(crate) vip: Vip,
}

/// One TCP entry of conntrack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) flow: Flow,
    /// Who answers: the backend.
    pub(super) backend: Backend,
    /// The client as the backend knows it.
    pub(super) client_at_backend: SocketAddr,
    pub(super) state: TcpState,
    /// What it has carried, if the kernel counts that.
    pub(super) bytes: Option<ByteCounts>,
    id: Option<[u8; 4]>,
    /// The zone of both directions.
    zone: Option<[u8; 2]>,
    /// The zone of the original direction only.
    tuple_zone: Option<[u8; 2]>,
}

impl Entry {
    /// Whether `body`, a message about the connection with these addresses, says that this entry exists and has gone no further.
    pub(super) fn is_unchanged_in(&self, body: &[u8]) -> bool {
        let now = entry(body).ok().flatten();
        now.is_some_and(|now| {
            (now.flow, now.backend, now.state, now.id) == (self.flow, self.backend, self.state, self.id)
        })
    }
}

/// Asks for the TCP entries from `vip` to `backend`. The caller selects: the filter may pass more.
pub(crate) fn dump(vip: Vip, backend: Backend) -> Vec<u8> {
    filtered(vip, Some(backend.port()), Some(backend.ip()))
}

/// Asks for the TCP entries of connections that were opened to `vip`, whoever answers them. The caller selects here too.
pub(super) fn dump_vip(vip: Vip) -> Vec<u8> {
    filtered(vip, None, None)
}

/// Asks for the TCP entries from `vip` to any backend with this port. The caller selects here too.
pub(super) fn dump_port(vip: Vip, port: u16) -> Vec<u8> {
    filtered(vip, Some(port), None)
}

/// Asks for all entries of the family, which every kernel understands.
pub(crate) fn dump_all(of: IpAddr) -> Vec<u8> {
    header(of)
}

fn filtered(vip: Vip, port: Option<u16>, backend: Option<IpAddr>) -> Vec<u8> {
    let protocol = message::byte(PROTO_NUM, IPPROTO_TCP);
    let mut original =
        vec![message::nest(TUPLE_PROTO, &[protocol.clone(), message::be16(PROTO_DST_PORT, vip.port())])];
    let mut original_flags = FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT;
    let (mut reply, mut reply_flags) = (Vec::new(), 0);
    if let Some(port) = port {
        reply.push(message::nest(TUPLE_PROTO, &[protocol, message::be16(PROTO_SRC_PORT, port)]));
        reply_flags = FILTER_PROTO_NUM | FILTER_PROTO_SRC_PORT;
    }
    // Kernels as late as 6.18 drop exactly the entries whose IPv6 address equals the one asked for.
    if vip.is_ipv4() {
        original.push(message::nest(TUPLE_IP, &[message::address(IP_V4_DST, IP_V6_DST, vip.ip())]));
        original_flags |= FILTER_IP_DST;
        if let Some(ip) = backend {
            reply.push(message::nest(TUPLE_IP, &[message::address(IP_V4_SRC, IP_V6_SRC, ip)]));
            reply_flags |= FILTER_IP_SRC;
        }
    }
    let flags = [
        message::native32(FILTER_ORIG_FLAGS, original_flags),
        message::native32(FILTER_REPLY_FLAGS, reply_flags),
    ];
    let mut body = header(vip.ip());
    let mut attrs = vec![message::nest(TUPLE_ORIG, &original)];
    if !reply.is_empty() {
        attrs.push(message::nest(TUPLE_REPLY, &reply));
    }
    attrs.push(message::nest(FILTER, &flags));
    body.extend(message::emit(&attrs));
    body
}

/// Names this entry and no later one with the same addresses, in a request to get or to delete it.
pub(super) fn identify(entry: &Entry) -> Vec<u8> {
    let mut tuple = original(entry.flow);
    tuple.extend(entry.tuple_zone.map(|zone| message::bytes(TUPLE_ZONE, &zone)));
    let mut attrs = vec![message::nest(TUPLE_ORIG, &tuple)];
    attrs.extend(entry.zone.map(|zone| message::bytes(ZONE, &zone)));
    attrs.extend(entry.id.map(|id| message::bytes(ID, &id)));
    let mut body = header(entry.flow.vip.ip());
    body.extend(message::emit(&attrs));
    body
}

/// Asks for the entry of one connection outside of every zone.
pub(super) fn one(flow: Flow) -> Vec<u8> {
    let mut body = header(flow.vip.ip());
    body.extend(message::emit(&[message::nest(TUPLE_ORIG, &original(flow))]));
    body
}

/// Asks for the entries of a connection's two ports, in any zone. The caller selects: the filter may pass more.
pub(super) fn any_zone(flow: Flow) -> Vec<u8> {
    let flags = FILTER_PROTO_NUM | FILTER_PROTO_SRC_PORT | FILTER_PROTO_DST_PORT;
    let flags = [message::native32(FILTER_ORIG_FLAGS, flags), message::native32(FILTER_REPLY_FLAGS, 0)];
    let mut body = header(flow.vip.ip());
    body.extend(message::emit(&[message::nest(TUPLE_ORIG, &[ports(flow)]), message::nest(FILTER, &flags)]));
    body
}

/// The tuple of the direction in which a connection was opened.
fn original(flow: Flow) -> Vec<Attr> {
    let addresses = [
        message::address(IP_V4_SRC, IP_V6_SRC, flow.client.ip()),
        message::address(IP_V4_DST, IP_V6_DST, flow.vip.ip()),
    ];
    vec![message::nest(TUPLE_IP, &addresses), ports(flow)]
}

/// The part of a tuple that says TCP, and which ports.
fn ports(Flow { client, vip }: Flow) -> Attr {
    let ports = [
        message::byte(PROTO_NUM, IPPROTO_TCP),
        message::be16(PROTO_SRC_PORT, client.port()),
        message::be16(PROTO_DST_PORT, vip.port()),
    ];
    message::nest(TUPLE_PROTO, &ports)
}

/// Reads one message of a dump. `None`: an entry of another protocol than TCP.
pub(super) fn entry(body: &[u8]) -> Result<Option<Entry>, Malformed> {
    let attrs = message::netfilter_attributes(body)?;
    let original = message::find(attrs, TUPLE_ORIG)?.unwrap_or_default();
    let reply = message::find(attrs, TUPLE_REPLY)?.unwrap_or_default();
    let (Some((client, vip)), Some((backend, client_at_backend))) = (tuple(original)?, tuple(reply)?) else {
        return Ok(None);
    };
    let tcp = message::find(attrs, PROTOINFO)?
        .map(|info| message::find(info, PROTOINFO_TCP))
        .transpose()?
        .flatten();
    let state = tcp.map(|tcp| message::fixed::<1>(tcp, PROTOINFO_TCP_STATE)).transpose()?.flatten();
    Ok(Some(Entry {
        flow: Flow { client, vip },
        backend,
        client_at_backend,
        state: state.map_or(TcpState::Other, |[number]| TcpState::of(number)),
        bytes: bytes(attrs, COUNTERS_ORIG)?
            .zip(bytes(attrs, COUNTERS_REPLY)?)
            .map(|(up, down)| ByteCounts { up, down }),
        id: message::fixed(attrs, ID)?,
        zone: message::fixed(attrs, ZONE)?,
        tuple_zone: message::fixed(original, TUPLE_ZONE)?,
    }))
}

/// The bytes of one direction.
fn bytes(attrs: &[u8], direction: u16) -> Result<Option<u64>, Malformed> {
    let Some(counters) = message::find(attrs, direction)? else { return Ok(None) };
    Ok(message::fixed(counters, COUNTERS_BYTES)?.map(u64::from_be_bytes))
}

/// Source and destination of a TCP tuple.
fn tuple(attrs: &[u8]) -> Result<Option<(SocketAddr, SocketAddr)>, Malformed> {
    let (Some(ip), Some(proto)) = (message::find(attrs, TUPLE_IP)?, message::find(attrs, TUPLE_PROTO)?)
    else {
        return Ok(None);
    };
    if message::fixed(proto, PROTO_NUM)? != Some([IPPROTO_TCP]) {
        return Ok(None);
    }
    let port = |kind| -> Result<u16, Malformed> {
        let port =
            message::fixed(proto, kind)?.ok_or_else(|| Malformed("a tuple without port".to_owned()))?;
        Ok(u16::from_be_bytes(port))
    };
    let (Some(source), Some(destination)) =
        (message::find_address(ip, IP_V4_SRC, IP_V6_SRC)?, message::find_address(ip, IP_V4_DST, IP_V6_DST)?)
    else {
        return Ok(None);
    };
    let source = SocketAddr::new(source, port(PROTO_SRC_PORT)?);
    Ok(Some((source, SocketAddr::new(destination, port(PROTO_DST_PORT)?))))
}

/// `struct nfgenmsg`.
fn header(of: IpAddr) -> Vec<u8> {
    vec![message::family(of), 0, 0, 0]
}

#[cfg(test)]
pub(super) mod tests;
