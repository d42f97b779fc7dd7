//! Filters for packet sockets, as classic BPF (`linux/filter.h`), in the form in which a socket takes them.
//!
//! In: which TCP segments are wanted. Out: a program that passes those and nothing else, cut to their headers. It runs in
//! the kernel for every packet of the host, so what tells most packets apart stands first.

use std::net::{IpAddr, SocketAddr};

use socket2::SockFilter;

/// The headers are all that is read of a packet: IPv4 with options and TCP without take 80 bytes.
pub(super) const SNAP: u32 = 96;

/// Load 32, 16 or 8 bits from a fixed place, or from behind the IPv4 header.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_BEHIND: u16 = 0x48;
const LOAD_BYTE_BEHIND: u16 = 0x50;
const MEASURE_HEADER: u16 = 0xb1;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_ANY: u16 = 0x45;
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_PROTOCOL`.
const PROTOCOL: u32 = 0xffff_f000;
/// `SKF_AD_OFF + SKF_AD_PKTTYPE`.
const DIRECTION: u32 = 0xffff_f004;
/// `PACKET_OUTGOING`.
const OUTGOING: u32 = 4;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
const IPPROTO_TCP: u32 = 6;
const ACK_OR_RST: u32 = 0x14;

/// One step of the filter: what is loaded must be as the test says, or the packet is not passed.
enum Step {
    Load(u16, u32),
    Is(u32),
    IsNot(u32),
    HasAny(u32),
    HasNone(u32),
}

use Step::{HasAny, HasNone, Is, IsNot, Load};

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// Segments to this address and port that bear an ACK or RST, coming or going.
pub(super) fn answers_to(address: SocketAddr) -> Vec<SockFilter> {
    let mut steps = tcp(address, End::Destination);
    let flags = match address.ip() {
        IpAddr::V4(_) => Load(LOAD_BYTE_BEHIND, 13),
        IpAddr::V6(_) => Load(LOAD_BYTE, 53),
    };
    steps.extend([flags, HasAny(ACK_OR_RST)]);
    compile(steps)
}

/// Segments that come from this address and port. Those that go out are left out: what this host forwards has come in.
pub(super) fn coming_from(address: SocketAddr) -> Vec<SockFilter> {
    let mut steps = tcp(address, End::Source);
    steps.extend([Load(LOAD_BYTE, DIRECTION), IsNot(OUTGOING)]);
    compile(steps)
}

/// TCP with this address and port at one end. Offsets count from the IP header.
fn tcp(address: SocketAddr, end: End) -> Vec<Step> {
    let port = u32::from(address.port());
    match address.ip() {
        IpAddr::V4(ip) => {
            let (address_at, port_at) = match end {
                End::Source => (12, 0),
                End::Destination => (16, 2),
            };
            vec![
                Load(LOAD_HALF, PROTOCOL),
                Is(ETHERTYPE_IPV4),
                Load(LOAD_BYTE, 9),
                Is(IPPROTO_TCP),
                Load(LOAD_WORD, address_at),
                Is(ip.to_bits()),
                // A later fragment has no ports.
                Load(LOAD_HALF, 6),
                HasNone(0x1fff),
                Load(MEASURE_HEADER, 0),
                Load(LOAD_HALF_BEHIND, port_at),
                Is(port),
            ]
        }
        IpAddr::V6(ip) => {
            let (address_at, port_at) = match end {
                End::Source => (8, 40),
                End::Destination => (24, 42),
            };
            let mut steps =
                vec![Load(LOAD_HALF, PROTOCOL), Is(ETHERTYPE_IPV6), Load(LOAD_BYTE, 6), Is(IPPROTO_TCP)];
            for (word, at) in ip.octets().chunks_exact(4).zip((address_at..).step_by(4)) {
                let word = word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
                steps.extend([Load(LOAD_WORD, at), Is(word)]);
            }
            steps.extend([Load(LOAD_HALF, port_at), Is(port)]);
            steps
        }
    }
}

fn compile(steps: Vec<Step>) -> Vec<SockFilter> {
    let count = steps.len();
    let compiled = steps.into_iter().enumerate().map(|(at, step)| {
        // Over the steps that are left and the one that passes the packet.
        let drop = u8::try_from(count - at).unwrap_or(u8::MAX);
        match step {
            Load(code, from) => SockFilter::new(code, 0, 0, from),
            Is(value) => SockFilter::new(JUMP_IF_EQUAL, 0, drop, value),
            IsNot(value) => SockFilter::new(JUMP_IF_EQUAL, drop, 0, value),
            HasAny(bits) => SockFilter::new(JUMP_IF_ANY, 0, drop, bits),
            HasNone(bits) => SockFilter::new(JUMP_IF_ANY, drop, 0, bits),
        }
    });
    compiled.chain([SockFilter::new(RETURN, 0, 0, SNAP), SockFilter::new(RETURN, 0, 0, 0)]).collect()
}
