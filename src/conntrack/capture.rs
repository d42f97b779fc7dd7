//! Packet sockets that see TCP segments before any rule translates them, each with a filter in the kernel.
//!
//! In: virtual IPs, whose clients' answers a `Sniffer` collects while an order needs it; or a backend, of whose segments an
//! [`Observation`] reports, whoever they are for: at most once each 50 ms, whatever the traffic. A backend on this very host
//! is not seen: what it sends bears the virtual IP before it passes a device.
//!
//! The filters are classic BPF (`linux/filter.h`), in the form in which a socket takes them: a program that passes the wanted
//! segments and nothing else, cut to their headers. It runs in the kernel for every packet of the host, so the tests that
//! reject most packets stand first.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use Step::{HasAny, HasNone, Is, IsNot, Load};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::packet::{self, ClientReply};
use crate::model::types::{Backend, Vip};

/// `ETH_P_ALL`: sees packets of a bridge's port before the bridge hands them on, translated or not.
const ETH_P_ALL: u16 = 0x0003;
/// Room for the answers of thousands of clients; the kernel caps it at net.core.rmem_max.
const ANSWERS_BUFFER: usize = 4 << 20;
/// Answers taken in one go, so that a client that sends without end does not keep the caller.
const MOST_ANSWERS: usize = 4096;
/// Between two events. Decisions are made over seconds.
const QUIET: Duration = Duration::from_millis(50);
/// Room for some hundred headers: while nobody reads, the kernel leaves the rest out before it copies anything.
const SEGMENTS_BUFFER: usize = 128 << 10;
/// Headers taken in one go: more than the buffer holds, so that a fast sender does not keep the caller.
const MOST_SEGMENTS: usize = 1024;

/// Open packet sockets, one for each virtual IP.
pub(crate) struct Sniffer {
    sockets: Vec<Socket>,
}

impl Sniffer {
    /// Starts to listen. Needs CAP_NET_RAW.
    pub(crate) fn open(vips: &[Vip]) -> io::Result<Self> {
        let sockets = vips.iter().map(|vip| {
            let socket = open(&replies_to(*vip))?;
            let _ = socket.set_recv_buffer_size(ANSWERS_BUFFER);
            Ok(socket)
        });
        Ok(Self { sockets: sockets.collect::<io::Result<_>>()? })
    }

    /// The replies since the last call.
    pub(super) fn drain(&self) -> Vec<ClientReply> {
        let mut answers = Vec::new();
        for socket in &self.sockets {
            let mut buffer = [0; SNAP as usize];
            for _ in 0..MOST_ANSWERS {
                let mut socket = socket;
                let Ok(len) = socket.read(&mut buffer) else { break };
                answers.extend(packet::client_reply(buffer.get(..len).unwrap_or_default()));
            }
        }
        answers
    }
}

/// A segment that came from a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedSegment {
    /// Whom it is for: a client as the backend knows it, after translation.
    pub to: SocketAddr,
    /// It carries data, and so comes from a process that was awake. An ACK, a SYN-ACK or a reset comes from a kernel.
    pub data: bool,
}

impl ObservedSegment {
    /// Data says more than a bare segment.
    fn or(self, other: Self) -> Self {
        if other.data && !self.data { other } else { self }
    }
}

/// Observes the segments of one backend.
pub struct Observation {
    backend: Backend,
    socket: AsyncFd<Socket>,
    quiet_until: Instant,
}

impl Observation {
    /// Starts to listen, in the network namespace of this thread. Needs CAP_NET_RAW, and a runtime with I/O and time.
    #[expect(
        deprecated,
        reason = "its successor asks for what this code must not promise; a socket keeps it anyway"
    )]
    pub fn open(backend: Backend) -> io::Result<Self> {
        let socket = open(&coming_from(backend))?;
        socket.set_recv_buffer_size(SEGMENTS_BUFFER)?;
        // Until it had its filter the socket took in anything, and may be full of that.
        drain(&socket, backend);
        Ok(Self {
            backend,
            socket: AsyncFd::with_interest(socket, Interest::READABLE)?,
            quiet_until: Instant::now(),
        })
    }

    /// The strongest of what was seen since the last call; waits for it. Cancel safe: what was read is returned.
    pub async fn next_segment(&mut self) -> ObservedSegment {
        loop {
            sleep_until(self.quiet_until).await;
            let Ok(mut ready) = self.socket.readable().await else {
                // The runtime ends.
                return std::future::pending().await;
            };
            self.quiet_until = Instant::now() + QUIET;
            let heard = drain(ready.get_inner(), self.backend);
            ready.clear_ready();
            if let Some(heard) = heard {
                return heard;
            }
        }
    }
}

/// Reads what is there. What is left after [`MOST_SEGMENTS`] is read with what comes next.
fn drain(mut socket: &Socket, backend: Backend) -> Option<ObservedSegment> {
    let mut buffer = [0; SNAP as usize];
    let mut strongest: Option<ObservedSegment> = None;
    for _ in 0..MOST_SEGMENTS {
        let Ok(len) = socket.read(&mut buffer) else { break };
        let segment = packet::segment_of(buffer.get(..len).unwrap_or_default());
        let Some(segment) = segment.filter(|segment| segment.from == backend) else { continue };
        let heard = ObservedSegment { to: segment.to, data: segment.data };
        strongest = Some(strongest.map_or(heard, |before| before.or(heard)));
    }
    strongest
}

/// A packet socket in the network namespace of this thread that passes what this filter does. Needs CAP_NET_RAW.
fn open(filter: &[SockFilter]) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    socket.attach_filter(filter)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The headers are all that is read of a packet: IPv4 with options and TCP without take 80 bytes.
const SNAP: u32 = 96;

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

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// Segments to this address and port that bear an ACK or RST, coming or going.
fn replies_to(address: SocketAddr) -> Vec<SockFilter> {
    let mut steps = tcp(address, End::Destination);
    let flags = match address.ip() {
        IpAddr::V4(_) => Load(LOAD_BYTE_BEHIND, 13),
        IpAddr::V6(_) => Load(LOAD_BYTE, 53),
    };
    steps.extend([flags, HasAny(ACK_OR_RST)]);
    compile(steps)
}

/// Segments that come from this address and port. Those that go out are left out: what this host forwards has come in.
fn coming_from(address: SocketAddr) -> Vec<SockFilter> {
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use tokio::time::timeout;

    use super::*;

    async fn quiet(observation: &mut Observation) {
        // What was on its way.
        while timeout(QUIET * 3, observation.next_segment()).await.is_ok() {}
    }

    #[tokio::test]
    async fn bare_segments_and_data_are_distinguished() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let backend = listener.local_addr().unwrap();
            let mut observation = Observation::open(backend).unwrap();
            let mut client = TcpStream::connect(backend).unwrap();
            let (mut server, to) = listener.accept().unwrap();
            assert_eq!(observation.next_segment().await, ObservedSegment { to, data: false }, "SYN-ACK");
            quiet(&mut observation).await;
            client.write_all(b"x").unwrap();
            assert_eq!(observation.next_segment().await, ObservedSegment { to, data: false }, "ACK");
            server.write_all(b"x").unwrap();
            assert_eq!(observation.next_segment().await, ObservedSegment { to, data: true });
            quiet(&mut observation).await;
            drop(server);
            assert_eq!(
                observation.next_segment().await,
                ObservedSegment { to, data: false },
                "reset, of unread data"
            );
        }
    }

    #[tokio::test]
    async fn flood_yields_one_event_per_50_ms_and_prefers_data() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let backend = listener.local_addr().unwrap();
        let client = TcpStream::connect(backend).unwrap();
        let (mut server, to) = listener.accept().unwrap();
        let mut observation = Observation::open(backend).unwrap();
        let reader = std::thread::spawn(move || io::copy(&mut &client, &mut io::sink()).unwrap());
        let writer = std::thread::spawn(move || {
            let chunk = vec![7; 64 << 10];
            let began = std::time::Instant::now();
            while began.elapsed() < Duration::from_millis(600) {
                server.write_all(&chunk).unwrap();
            }
        });
        let began = std::time::Instant::now();
        let mut events = 0;
        while began.elapsed() < Duration::from_millis(500) {
            assert_eq!(observation.next_segment().await, ObservedSegment { to, data: true });
            events += 1;
        }
        assert!((2..=11).contains(&events), "{events} events");
        writer.join().unwrap();
        assert!(reader.join().unwrap() > 1 << 20);
    }
}
