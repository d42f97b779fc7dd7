//! sock_diag messages: list the host's TCP sockets that dialled a virtual IP, destroy one of them, ask what TCP knows of one.
//! Pure.
//!
//! In: a virtual IP, a socket, or a message body. Out: a message body, or a [`HostSocket`]. The kernel's side is
//! `include/uapi/linux/inet_diag.h`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::entries::Flow;
use crate::model::types::{Family, Vip};
use crate::netlink::message::{self, AF_INET, AF_INET6, Malformed, octets};

/// `SOCK_DIAG_BY_FAMILY`.
pub(crate) const LIST: u16 = 20;
/// `SOCK_DESTROY`.
pub(super) const DESTROY: u16 = 21;

const IPPROTO_TCP: u8 = 6;
/// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING, as bits of `enum` in `net/tcp_states.h`. Never
/// SYN_SENT: its next SYN goes to another backend.
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// `sizeof(struct inet_diag_sockid)`.
const ID_LEN: usize = 48;
/// Family, state, timer and retransmits stand before the id in an answer.
const ID_AT: usize = 4;

/// `INET_DIAG_REQ_BYTECODE`.
const BYTECODE: u16 = 1;
/// `INET_DIAG_BC_S_COND`: the socket's own address and port.
const OWN_IS: u8 = 7;
/// `INET_DIAG_BC_D_COND`: the peer's address and port.
const PEER_IS: u8 = 8;
/// `INET_DIAG_INFO`, whose value is a `struct tcp_info` (`include/uapi/linux/tcp.h`).
const INFO: u16 = 2;
/// `sizeof(struct inet_diag_msg)`.
const MESSAGE_LEN: usize = 72;
/// Where `tcpi_last_ack_recv` is in it, in ms.
const LAST_ACK_RECV_AT: usize = 56;
/// ESTABLISHED.
const ESTABLISHED: u32 = 1 << 1;
/// SYN_SENT.
const OPENING: u32 = 1 << 2;

/// A TCP socket of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostSocket {
    /// Its own address, and the virtual IP.
    pub(crate) flow: Flow,
    family: u8,
    /// Addresses, interface and cookie as the kernel gave them: together they name this socket and no later one.
    id: [u8; ID_LEN],
}

/// Asks for the sockets of one socket family whose peer is `vip`. IPv4 connections are also made by IPv6 sockets.
pub(super) fn list(vip: Vip, sockets: Family) -> Vec<u8> {
    let family = match sockets {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    };
    let mut body = request(family, STATES, &[0; ID_LEN]);
    let address = octets(vip.ip());
    body.extend(message::emit(&[message::bytes(BYTECODE, &condition(PEER_IS, vip.port(), &address))]));
    body
}

/// The same, those only through which data may pass.
pub(super) fn list_established(peer: SocketAddr, sockets: Family) -> Vec<u8> {
    let mut body = list(peer, sockets);
    body[4..8].copy_from_slice(&ESTABLISHED.to_ne_bytes());
    body
}

/// Asks for the sockets of the family of `own` with its port, those that are still being opened, too.
pub(crate) fn of_port(own: SocketAddr) -> Vec<u8> {
    let mut body = request(message::family(own.ip()), STATES | OPENING, &[0; ID_LEN]);
    body.extend(message::emit(&[message::bytes(BYTECODE, &condition(OWN_IS, own.port(), &[]))]));
    body
}

/// Destroys this socket: its owner sees ECONNABORTED.
pub(super) fn destroy(socket: &HostSocket) -> Vec<u8> {
    request(socket.family, STATES, &socket.id)
}

/// Asks for the socket of this host from `local` to `peer`; the kernel names a listener on `local` where there is none.
pub(super) fn one(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut id = [0; ID_LEN];
    id[..2].copy_from_slice(&local.port().to_be_bytes());
    id[2..4].copy_from_slice(&peer.port().to_be_bytes());
    for (at, ip) in [(4, local.ip()), (20, peer.ip())] {
        match ip {
            IpAddr::V4(ip) => id[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => id[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    // `INET_DIAG_NOCOOKIE`.
    id[40..].fill(0xff);
    request(message::family(local.ip()), STATES, &id)
}

/// The same, with what TCP knows of it.
pub(super) fn one_with_info(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut body = one(local, peer);
    // `idiag_ext`: a bit for each attribute that is wanted, from 1 on.
    body[2] = 1 << (INFO - 1);
    body
}

/// How long ago the peer acknowledged something last, by the answer to [`one_with_info`]. A keepalive is acknowledged, too.
pub(super) fn last_ack(body: &[u8]) -> Result<Option<Duration>, Malformed> {
    if !is_connection(body) {
        return Ok(None);
    }
    let Some(info) = message::find(body.get(MESSAGE_LEN..).unwrap_or_default(), INFO)? else {
        return Ok(None);
    };
    let ms = info.get(LAST_ACK_RECV_AT..LAST_ACK_RECV_AT + 4).and_then(|ms| <[u8; 4]>::try_from(ms).ok());
    Ok(ms.map(|ms| Duration::from_millis(u32::from_ne_bytes(ms).into())))
}

/// Whether an answer to [`one`] is a connection, and no listener.
pub(super) fn is_connection(body: &[u8]) -> bool {
    const LISTEN: u8 = 10;
    body.get(1).is_some_and(|state| *state != LISTEN)
}

/// Reads one message of a list.
pub(crate) fn socket(body: &[u8]) -> Result<HostSocket, Malformed> {
    let short = || Malformed("a truncated socket".to_owned());
    let family = *body.first().ok_or_else(short)?;
    let id = body.get(ID_AT..ID_AT + ID_LEN).and_then(|id| <[u8; ID_LEN]>::try_from(id).ok());
    let id = id.ok_or_else(short)?;
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let address = |at: usize| match family {
        AF_INET => Ok(IpAddr::from([id[at], id[at + 1], id[at + 2], id[at + 3]])),
        AF_INET6 => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&id[at..at + 16]);
            Ok(IpAddr::from(octets).to_canonical())
        }
        other => Err(Malformed(format!("a TCP socket of family {other}"))),
    };
    let client = SocketAddr::new(address(4)?, port(0));
    let vip = SocketAddr::new(address(20)?, port(2));
    Ok(HostSocket { flow: Flow { client, vip }, family, id })
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, states: u32, id: &[u8; ID_LEN]) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

/// One condition in the kernel's filter language: its offsets say where to go on when it holds, and when not.
/// Without an address any will do.
fn condition(code: u8, port: u16, address: &[u8]) -> Vec<u8> {
    let family = match address.len() {
        0 => 0,
        4 => AF_INET,
        _ => AF_INET6,
    };
    let len = 4 + 8 + address.len();
    let accept = u8::try_from(len).unwrap_or(u8::MAX);
    let reject = u16::try_from(len + 4).unwrap_or(u16::MAX);
    let bits = u8::try_from(address.len() * 8).unwrap_or(u8::MAX);
    let mut code = vec![code, accept];
    code.extend(reject.to_ne_bytes());
    code.extend([family, bits, 0, 0]);
    code.extend(i32::from(port).to_ne_bytes());
    code.extend(address);
    code
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(family: u8, client: (&[u8], u16), vip: (&[u8], u16)) -> Vec<u8> {
        let mut id = [0; ID_LEN];
        id[..2].copy_from_slice(&client.1.to_be_bytes());
        id[2..4].copy_from_slice(&vip.1.to_be_bytes());
        id[4..4 + client.0.len()].copy_from_slice(client.0);
        id[20..20 + vip.0.len()].copy_from_slice(vip.0);
        id[40..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut body = vec![family, 1, 0, 0];
        body.extend(id);
        body.extend([0; 20]);
        body
    }

    #[test]
    fn ipv4_mapped_address_reads_as_ipv4() {
        let mapped = |last: [u8; 4]| {
            let mut ip = [0; 16];
            ip[10..12].copy_from_slice(&[255, 255]);
            ip[12..].copy_from_slice(&last);
            ip
        };
        let body = answer(AF_INET6, (&mapped([192, 0, 2, 1]), 40000), (&mapped([10, 96, 0, 1]), 443));
        let read = socket(&body).unwrap();
        assert_eq!(read.flow.client, "192.0.2.1:40000".parse().unwrap());
        assert_eq!(read.flow.vip, "10.96.0.1:443".parse().unwrap());
        // The kernel gets back what it gave, cookie and all.
        assert_eq!(destroy(&read)[8..], body[4..52]);
        assert_eq!(destroy(&read)[0], AF_INET6);
    }

    #[test]
    fn list_request_states_its_length_in_the_condition() {
        let v4 = list("10.96.0.1:443".parse().unwrap(), Family::V6);
        assert_eq!(v4.len(), 56 + 4 + 16);
        assert_eq!((v4[0], v4[60], v4[61], v4[64]), (AF_INET6, PEER_IS, 16, AF_INET));
        let v6 = list("[fd00:10:96::1]:443".parse().unwrap(), Family::V6);
        let established = list_established("[fd00:10:96::1]:443".parse().unwrap(), Family::V6);
        assert_eq!((&established[8..], &established[4..8]), (&v6[8..], &2u32.to_ne_bytes()[..]));
        assert_eq!((v6[61], v6[62..64].to_vec()), (28, 32u16.to_ne_bytes().to_vec()));
    }

    proptest! {
        #[test]
        fn ipv4_sockets_are_parsed(client: [u8; 4], vip: [u8; 4], ports: (u16, u16)) {
            let read = socket(&answer(AF_INET, (&client, ports.0), (&vip, ports.1))).unwrap();
            prop_assert_eq!(read.flow.client, SocketAddr::new(client.into(), ports.0));
            prop_assert_eq!(read.flow.vip, SocketAddr::new(vip.into(), ports.1));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(input: Vec<u8>) {
            let _ = socket(&input);
            let _ = last_ack(&input);
        }
    }
}
