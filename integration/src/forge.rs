//! TCP segments that no kernel would send.
//! In: a flow's two ends, numbers that a capture shows. Out: a packet on the wire.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Namespace;

const TCP: u8 = 6;
/// `IPPROTO_RAW`: the packet brings its own IP header.
const RAW: i32 = 255;
/// PSH and ACK.
const DATA: u8 = 0x18;

/// Sends a segment with a few bytes of data from `from` to `to`, out of a namespace that has the address `from`.
pub fn send_data(
    namespace: &Namespace,
    from: SocketAddrV4,
    to: SocketAddrV4,
    (sequence, acknowledged): (u32, u32),
) -> Result<()> {
    let packet = packet(from, to, sequence, acknowledged, b"data");
    namespace.within(|| {
        let socket =
            Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).context("open a raw socket")?;
        let target = SocketAddrV4::new(*to.ip(), 0);
        socket.send_to(&packet, &target.into()).context("send a forged segment")?;
        Ok(())
    })
}

fn packet(from: SocketAddrV4, to: SocketAddrV4, sequence: u32, acknowledged: u32, data: &[u8]) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    tcp.extend([5 << 4, DATA]);
    tcp.extend(500u16.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(data);
    let sum = checksum(*from.ip(), *to.ip(), &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let length = u16::try_from(20 + tcp.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, TCP, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(tcp);
    packet
}

/// RFC 9293, section 3.1, with the pseudo header.
fn checksum(from: Ipv4Addr, to: Ipv4Addr, tcp: &[u8]) -> u16 {
    let length = u16::try_from(tcp.len()).unwrap_or(u16::MAX);
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend([0, TCP]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(tcp);
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let mut sum: u32 = bytes.chunks_exact(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_sums_up_to_nothing() {
        let (from, to) = ("192.0.2.11:7".parse().unwrap(), "10.244.0.11:40000".parse().unwrap());
        let packet = packet(from, to, 1, 2, b"odd");
        assert_eq!(packet.len(), 43);
        let (ip, tcp) = packet.split_at(20);
        assert_eq!(checksum(*from.ip(), *to.ip(), tcp), 0);
        assert_eq!(ip[9], TCP);
    }
}
