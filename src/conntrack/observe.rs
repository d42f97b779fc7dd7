//! What the clients' own path shows of a backend: every segment that comes from it, whoever it is for.
//!
//! In: a backend. Out: [`Heard`], at most one each 50 ms, whatever the traffic. A packet socket with a filter in the kernel
//! sees what this host receives, before any rule translates it back. A backend on this very host is not seen: what it
//! sends bears the virtual IP before it passes a device.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

use super::filter::{self, SNAP};
use super::packet;
use crate::model::types::Backend;

/// `ETH_P_ALL`: sees packets of a bridge's port before the bridge hands them on, translated or not.
const ETH_P_ALL: u16 = 0x0003;
/// Between two events. Decisions are made over seconds.
const QUIET: Duration = Duration::from_millis(50);
/// Room for some hundred headers: while nobody reads, the kernel leaves the rest out before it copies anything.
const RECEIVE_BUFFER: usize = 128 << 10;
/// Headers taken in one go: more than the buffer holds, so that a fast sender does not keep the caller.
const MOST: usize = 1024;

/// A segment that came from a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Whom it is for: a client as the backend knows it, after translation.
    pub to: SocketAddr,
    /// It carries data, and so comes from a process that was awake. An ACK, a SYN-ACK or a reset comes from a kernel.
    pub data: bool,
}

impl Heard {
    /// Data says more than a bare segment.
    fn or(self, other: Self) -> Self {
        if other.data && !self.data { other } else { self }
    }
}

/// An ear on the segments of one backend.
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
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.attach_filter(&filter::coming_from(backend))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        // Until it had its filter the socket took in anything, and may be full of that.
        drain(&socket, backend);
        Ok(Self {
            backend,
            socket: AsyncFd::with_interest(socket, Interest::READABLE)?,
            quiet_until: Instant::now(),
        })
    }

    /// The strongest of what was heard since the last call; waits for it. Cancel safe: what was read is returned.
    pub async fn heard(&mut self) -> Heard {
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

/// Takes what is there. What is left after [`MOST`] is read with what comes next.
fn drain(mut socket: &Socket, backend: Backend) -> Option<Heard> {
    let mut buffer = [0; SNAP as usize];
    let mut strongest: Option<Heard> = None;
    for _ in 0..MOST {
        let Ok(len) = socket.read(&mut buffer) else { break };
        let segment = packet::segment_of(buffer.get(..len).unwrap_or_default());
        let Some(segment) = segment.filter(|segment| segment.from == backend) else { continue };
        let heard = Heard { to: segment.to, data: segment.data };
        strongest = Some(strongest.map_or(heard, |before| before.or(heard)));
    }
    strongest
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use tokio::time::timeout;

    use super::*;

    async fn quiet(observation: &mut Observation) {
        // What was on its way.
        while timeout(QUIET * 3, observation.heard()).await.is_ok() {}
    }

    #[tokio::test]
    async fn bare_segments_and_data_are_told_apart() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(any).unwrap();
            let backend = listener.local_addr().unwrap();
            let mut observation = Observation::open(backend).unwrap();
            let mut client = TcpStream::connect(backend).unwrap();
            let (mut server, to) = listener.accept().unwrap();
            assert_eq!(observation.heard().await, Heard { to, data: false }, "SYN-ACK");
            quiet(&mut observation).await;
            client.write_all(b"x").unwrap();
            assert_eq!(observation.heard().await, Heard { to, data: false }, "ACK");
            server.write_all(b"x").unwrap();
            assert_eq!(observation.heard().await, Heard { to, data: true });
            quiet(&mut observation).await;
            drop(server);
            assert_eq!(observation.heard().await, Heard { to, data: false }, "reset, of unread data");
        }
    }

    #[tokio::test]
    async fn a_flood_is_one_event_in_50_ms_and_data_is_the_strongest() {
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
            assert_eq!(observation.heard().await, Heard { to, data: true });
            events += 1;
        }
        assert!((2..=11).contains(&events), "{events} events");
        writer.join().unwrap();
        assert!(reader.join().unwrap() > 1 << 20);
    }
}
