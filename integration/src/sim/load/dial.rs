//! One TCP connect, with its local address known even when it fails.
//!
//! In: target and source address. Out: a connected stream that closes with a reset, so that neither side keeps a
//! TIME_WAIT entry and ports do not run out.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::failure::Failure;
use super::recorder::Trial;

/// Linux's EINPROGRESS, which std has no kind for.
const IN_PROGRESS: i32 = 115;

/// Connects and notes in `trial` from where and how long it took.
pub(crate) async fn dial(trial: &mut Trial, source: Option<IpAddr>) -> Result<TcpStream, Failure> {
    let failed = |error: io::Error| Failure::io("connect", &error);
    let stream = begin(trial.target, source).map_err(failed)?;
    // Read at once: after a reset the kernel no longer tells it.
    trial.local = stream.local_addr().ok();
    let stream = TcpStream::from_std(stream).map_err(failed)?;
    stream.ready(Interest::WRITABLE).await.map_err(failed)?;
    if let Some(error) = stream.take_error().map_err(failed)? {
        return Err(failed(error));
    }
    // Writable without an error, yet not connected, would be a success that never was.
    stream.peer_addr().map_err(failed)?;
    trial.connected_after = trial.began.elapsed();
    Ok(stream)
}

fn begin(target: SocketAddr, source: Option<IpAddr>) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_linger(Some(std::time::Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // The port is chosen at connect, where only the whole 4-tuple has to be free.
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(IN_PROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}
