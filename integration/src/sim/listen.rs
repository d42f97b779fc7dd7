//! Listening sockets and the accept loop that every simulated server shares.
//!
//! In: an address. Out: a listener with a long backlog, and a loop that survives what `accept` may report.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Long enough for half a second of accepts at 8,000 connections/s; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long an address may be in use by a listener that was closed: a program that another thread has just started holds
/// copies of all descriptors until it is executed.
const INHERITED: Duration = Duration::from_secs(2);

/// Binds `addr`; an IPv6 socket takes IPv6 only, so that `[::]` and `0.0.0.0` go together.
pub fn bind(addr: SocketAddr) -> Result<TcpListener> {
    let listener = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    let deadline = Instant::now() + INHERITED;
    loop {
        match listener() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.with_context(|| format!("listen on {addr}")),
        }
    }
}

/// Accepts for ever and hands every connection to `handle`.
///
/// A connection that died in the backlog is skipped; when descriptors run out the loop waits a moment, because
/// `accept` would report the same again at once.
pub async fn accept_each(listener: TcpListener, mut handle: impl FnMut(TcpStream, SocketAddr)) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => handle(stream, canonical(peer)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
