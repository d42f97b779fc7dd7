//! Sees what clients send to the virtual IPs, before any rule translates it.
//!
//! In: the virtual IPs of an order. Out: [`Answer`]s. A filter in the kernel passes nothing else, so that a busy node
//! pays for it only while an order needs it.

use std::io::{self, Read};
use std::net::IpAddr;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::packet::{self, Answer};
use crate::model::types::Vip;

/// `ETH_P_ALL`: sees packets of a bridge's port before the bridge hands them on, translated or not.
const ETH_P_ALL: u16 = 0x0003;
/// Room for the answers of thousands of clients; the kernel caps it at net.core.rmem_max.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The headers are all that is read of a packet.
const SNAP: u32 = 128;
/// Answers taken in one go, so that a client that sends without end does not keep the caller.
const MOST: usize = 4096;

/// Open packet sockets, one for each virtual IP.
pub(super) struct Sniffer {
    sockets: Vec<Socket>,
}

impl Sniffer {
    /// Starts to listen. Needs CAP_NET_RAW.
    pub(super) fn open(vips: &[Vip]) -> io::Result<Self> {
        let sockets = vips.iter().map(|vip| {
            let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
            socket.attach_filter(&filter(*vip))?;
            socket.set_nonblocking(true)?;
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
            Ok(socket)
        });
        Ok(Self { sockets: sockets.collect::<io::Result<_>>()? })
    }

    /// What was said since the last call.
    pub(super) fn drain(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for socket in &self.sockets {
            let mut buffer = [0; SNAP as usize];
            for _ in 0..MOST {
                let mut socket = socket;
                let Ok(len) = socket.read(&mut buffer) else { break };
                answers.extend(packet::answer(buffer.get(..len).unwrap_or_default()));
            }
        }
        answers
    }
}

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

/// One step of the filter: what is loaded must be as the test says, or the packet is not passed.
enum Step {
    Load(u16, u32),
    Is(u32),
    HasAny(u32),
    HasNone(u32),
}

/// TCP to `vip` that bears an ACK or RST. Offsets count from the IP header.
fn filter(vip: Vip) -> Vec<SockFilter> {
    use Step::{HasAny, HasNone, Is, Load};
    const ACK_OR_RST: u32 = 0x14;
    let port = u32::from(vip.port());
    let steps = match vip.ip() {
        IpAddr::V4(ip) => vec![
            Load(LOAD_HALF, PROTOCOL),
            Is(0x0800),
            Load(LOAD_BYTE, 9),
            Is(6),
            Load(LOAD_WORD, 16),
            Is(ip.to_bits()),
            Load(LOAD_HALF, 6),
            HasNone(0x1fff),
            Load(MEASURE_HEADER, 0),
            Load(LOAD_HALF_BEHIND, 2),
            Is(port),
            Load(LOAD_BYTE_BEHIND, 13),
            HasAny(ACK_OR_RST),
        ],
        IpAddr::V6(ip) => {
            let mut steps = vec![Load(LOAD_HALF, PROTOCOL), Is(0x86dd), Load(LOAD_BYTE, 6), Is(6)];
            for (word, at) in ip.octets().chunks_exact(4).zip([24, 28, 32, 36]) {
                let word = word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
                steps.extend([Load(LOAD_WORD, at), Is(word)]);
            }
            steps.extend([Load(LOAD_HALF, 42), Is(port), Load(LOAD_BYTE, 53), HasAny(ACK_OR_RST)]);
            steps
        }
    };
    let count = steps.len();
    let compiled = steps.into_iter().enumerate().map(|(at, step)| {
        // Over the steps that are left and the one that passes the packet.
        let drop = u8::try_from(count - at).unwrap_or(u8::MAX);
        match step {
            Load(code, from) => SockFilter::new(code, 0, 0, from),
            Is(value) => SockFilter::new(JUMP_IF_EQUAL, 0, drop, value),
            HasAny(bits) => SockFilter::new(JUMP_IF_ANY, 0, drop, bits),
            HasNone(bits) => SockFilter::new(JUMP_IF_ANY, drop, 0, bits),
        }
    });
    compiled.chain([SockFilter::new(RETURN, 0, 0, SNAP), SockFilter::new(RETURN, 0, 0, 0)]).collect()
}
