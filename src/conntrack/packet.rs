//! The TCP packets that are forged in the name of a backend or a client, and those that they answer. Pure.
//!
//! In: addresses and sequence numbers, or the bytes of an IP packet. Out: an IP packet with its checksums, or what was
//! said. No options: a bare SYN or RST is all that is ever sent, and by that a rule knows it.

use std::net::{IpAddr, SocketAddr};

use super::entries::Flow;

const IPPROTO_TCP: u8 = 6;
const TTL: u8 = 64;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
/// Never used by the client: neither packet opens a connection.
const WINDOW: u16 = 1024;

/// A bare SYN from the virtual IP. A client with an open connection answers with a challenge ACK whatever `sequence`
/// is (RFC 5961, section 4).
pub(super) fn syn(flow: Flow, sequence: u32) -> Option<Vec<u8>> {
    segment(flow.vip, flow.client, sequence, SYN)
}

/// A bare SYN to a backend in the name of one of its clients, as the backend knows it. A kernel with such a connection
/// answers with a challenge ACK, whatever its process does.
pub(super) fn syn_to(backend: SocketAddr, client: SocketAddr, sequence: u32) -> Option<Vec<u8>> {
    segment(client, backend, sequence, SYN)
}

/// A reset from the virtual IP. The client accepts it if `sequence` is exactly the one that it expects next, which
/// is what its own packets acknowledge.
pub(super) fn rst(flow: Flow, sequence: u32) -> Option<Vec<u8>> {
    segment(flow.vip, flow.client, sequence, RST)
}

/// `None`: the two are not of one family.
fn segment(from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8) -> Option<Vec<u8>> {
    let mut tcp = Vec::with_capacity(TCP_HEADER);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend([5 << 4, flags]);
    tcp.extend(WINDOW.to_be_bytes());
    tcp.extend([0; 4]);
    let len = u16::try_from(TCP_HEADER).unwrap_or_default();
    let (mut packet, pseudo) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend((len + 20).to_be_bytes());
            // Identification 0 is allowed: it may not be fragmented.
            header.extend([0, 0, 0x40, 0, TTL, IPPROTO_TCP, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            let pseudo = [&from.octets()[..], &to.octets(), &[0, IPPROTO_TCP], &len.to_be_bytes()].concat();
            (header, pseudo)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(len.to_be_bytes());
            header.extend([IPPROTO_TCP, TTL]);
            header.extend(from.octets());
            header.extend(to.octets());
            let length = u32::from(len).to_be_bytes();
            let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, IPPROTO_TCP]].concat();
            (header, pseudo)
        }
        _ => return None,
    };
    let sum = checksum(&[&pseudo, &tcp]);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    packet.extend(tcp);
    Some(packet)
}

/// RFC 1071 over parts that each have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).map_or(0, |sum| !sum)
}

/// What a client sent towards a virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientReply {
    pub(super) flow: Flow,
    pub(super) kind: ReplyKind,
}

/// See [`ClientReply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyKind {
    /// Its connection is open, and this is the next sequence number that it expects.
    Open(u32),
    /// It has no such connection.
    Closed,
}

/// A TCP segment that was overheard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    /// It carries some.
    pub(super) data: bool,
    flags: u8,
    acknowledged: u32,
}

/// Reads the beginning of an IP packet. `None`: no TCP, or cut short. Whether there is data is what the headers say, of
/// however much was captured.
pub(super) fn segment_of(packet: &[u8]) -> Option<Segment> {
    let half = |at: usize| Some(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?));
    // One that was put together from several and is longer than 64 KiB says 0.
    let (source, destination, header, length): (IpAddr, IpAddr, usize, Option<usize>) =
        match packet.first()? >> 4 {
            4 => {
                let header = usize::from(packet[0] & 0x0f) * 4;
                let is_fragment = half(6)? & 0x1fff != 0;
                if header < IPV4_HEADER || *packet.get(9)? != IPPROTO_TCP || is_fragment {
                    return None;
                }
                let at = |from: usize| <[u8; 4]>::try_from(packet.get(from..from + 4)?).ok();
                let length = Some(usize::from(half(2)?)).filter(|length| *length > 0);
                (at(12)?.into(), at(16)?.into(), header, length.map(|total| total.saturating_sub(header)))
            }
            6 => {
                if *packet.get(6)? != IPPROTO_TCP {
                    return None;
                }
                let at = |from: usize| <[u8; 16]>::try_from(packet.get(from..from + 16)?).ok();
                let length = Some(usize::from(half(4)?)).filter(|length| *length > 0);
                (at(8)?.into(), at(24)?.into(), IPV6_HEADER, length)
            }
            _ => return None,
        };
    let tcp = packet.get(header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let own_header = usize::from(*tcp.get(12)? >> 4) * 4;
    Some(Segment {
        from: SocketAddr::new(source, port(0)?),
        to: SocketAddr::new(destination, port(2)?),
        data: length.is_none_or(|length| length > own_header),
        flags: *tcp.get(13)?,
        acknowledged: u32::from_be_bytes(tcp.get(8..12)?.try_into().ok()?),
    })
}

/// Reads an IP packet that a client sent. `None`: no TCP, cut short, or it says neither.
pub(super) fn client_reply(packet: &[u8]) -> Option<ClientReply> {
    let Segment { from, to, flags, acknowledged, .. } = segment_of(packet)?;
    let kind = match flags {
        _ if flags & RST != 0 => ReplyKind::Closed,
        _ if flags & ACK != 0 && flags & (SYN | FIN) == 0 => ReplyKind::Open(acknowledged),
        _ => return None,
    };
    Some(ClientReply { flow: Flow { client: from, vip: to }, kind })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow(client: &str, vip: &str) -> Flow {
        Flow { client: client.parse().unwrap(), vip: vip.parse().unwrap() }
    }

    #[test]
    fn checksum_matches_rfc_1071() {
        // RFC 1071, section 3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        // An IPv4 header whose checksum is known, with that field zero.
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0x00, 0x01, 0xc0,
            0xa8, 0x00, 0xc7,
        ];
        assert_eq!(checksum(&[&header]), 0xb861);
    }

    #[test]
    fn syn_has_forty_bytes_and_known_checksums() {
        let packet = syn(flow("10.244.0.11:40000", "10.96.0.1:443"), 0x0102_0304).unwrap();
        assert_eq!(packet.len(), 40);
        assert_eq!(packet[20..34], [1, 187, 0x9c, 0x40, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 2]);
        // 4500+0028+0000+4000+4006+0a60+0001+0af4+000b = da8e, complemented.
        assert_eq!(packet[10..12], [0x25, 0x71]);
    }

    fn verified(packet: &[u8]) -> bool {
        let (addresses, tcp) = if packet[0] >> 4 == 4 {
            (&packet[12..20], &packet[20..])
        } else {
            (&packet[8..40], &packet[40..])
        };
        let rest = [0, IPPROTO_TCP, 0, u8::try_from(tcp.len()).unwrap()];
        let header = packet[0] >> 4 == 6 || checksum(&[&packet[..20]]) == 0;
        header && checksum(&[addresses, &rest, tcp]) == 0
    }

    #[test]
    fn data_is_judged_by_length_fields_not_by_captured_bytes() {
        for (from, to) in [("192.0.2.11:6443", "10.244.0.11:40000"), ("[fd00::1]:6443", "[fd00::2]:40000")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let bare = segment(from, to, 1, ACK).unwrap();
            let (length_at, header) = if bare[0] >> 4 == 4 { (2, IPV4_HEADER) } else { (4, IPV6_HEADER) };
            let read = segment_of(&bare).unwrap();
            assert_eq!((read.from, read.to, read.data), (from, to, false));
            let mut cut = bare.clone();
            cut[length_at + 1] += 100;
            assert!(segment_of(&cut).unwrap().data);
            // All of that is options now.
            cut[length_at + 1] -= 60;
            cut[header + 12] = 15 << 4;
            assert!(!segment_of(&cut).unwrap().data);
            cut[length_at..length_at + 2].fill(0);
            assert!(segment_of(&cut).unwrap().data, "longer than the field");
            let mut padded = bare;
            padded.extend([0; 6]);
            assert!(!segment_of(&padded).unwrap().data, "a short frame is padded");
        }
    }

    proptest! {
        #[test]
        fn forged_packets_have_valid_checksums(v6: bool, a: [u8; 16], b: [u8; 16], ports: (u16, u16), sequence: u32) {
            let ip = |octets: [u8; 16]| match v6 {
                true => IpAddr::from(octets),
                false => IpAddr::from(<[u8; 4]>::try_from(&octets[..4]).unwrap()),
            };
            let flow = Flow { client: SocketAddr::new(ip(a), ports.0), vip: SocketAddr::new(ip(b), ports.1) };
            for packet in [syn(flow, sequence).unwrap(), rst(flow, sequence).unwrap()] {
                prop_assert!(verified(&packet));
            }
        }

        #[test]
        fn client_replies_are_parsed(sequence: u32, port: u16) {
            let client: SocketAddr = SocketAddr::new("fd00::1".parse().unwrap(), port);
            let vip: SocketAddr = "[fd00::2]:443".parse().unwrap();
            let open = segment(client, vip, sequence, ACK).unwrap();
            prop_assert_eq!(client_reply(&open), Some(ClientReply { flow: Flow { client, vip }, kind: ReplyKind::Open(0) }));
            let closed = segment(client, vip, sequence, RST | ACK).unwrap();
            prop_assert_eq!(client_reply(&closed).unwrap().kind, ReplyKind::Closed);
            prop_assert_eq!(client_reply(&segment(client, vip, sequence, SYN | ACK).unwrap()), None);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(input: Vec<u8>, version in 4u8..=6) {
            let _ = client_reply(&input);
            let mut input = input;
            if let Some(first) = input.first_mut() {
                *first = version << 4 | (*first & 0x0f);
            }
            let _ = client_reply(&input);
        }
    }

    #[test]
    fn mixed_address_families_yield_no_packet() {
        assert_eq!(syn(flow("10.244.0.11:1", "[fd00::1]:443"), 1), None);
    }
}
