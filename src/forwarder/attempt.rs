//! One dial: a socket that connects.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::dialing::ATTEMPT;
use super::socket;
use super::stats::DialFailure;
use crate::model::types::Backend;

/// A dial under way. Dropping it ends it.
pub(super) struct Attempt {
    backend: Backend,
    stream: TcpStream,
}

impl Attempt {
    pub(super) fn start(backend: Backend) -> Result<Self, DialFailure> {
        let stream = connecting(backend).map_err(|error| classify(&error))?;
        Ok(Self { backend, stream })
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether it connected. Not to be asked again after that.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), DialFailure>> {
        let connected =
            ready!(self.stream.poll_write_ready(cx)).and_then(|()| match self.stream.take_error()? {
                None => Ok(()),
                Some(error) => Err(error),
            });
        Poll::Ready(connected.map_err(|error| classify(&error)))
    }

    /// The stream of one that connected.
    pub(super) fn into_stream(self) -> io::Result<TcpStream> {
        // From here on silence is the business of keepalive: with this limit a live peer that reads nothing for a
        // while, its window closed, would be taken for dead.
        SockRef::from(&self.stream).set_tcp_user_timeout(None)?;
        Ok(self.stream)
    }
}

fn connecting(backend: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket::new(backend)?;
    socket::set_options(&SockRef::from(&socket))?;
    socket.set_tcp_user_timeout(Some(ATTEMPT))?;
    match socket.connect(&backend.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    TcpStream::from_std(socket.into())
}

fn classify(error: &io::Error) -> DialFailure {
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS].map(Errno::raw_os_error);
    match error.kind() {
        ErrorKind::ConnectionRefused => DialFailure::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => DialFailure::Unreachable,
        ErrorKind::TimedOut => DialFailure::TimedOut,
        ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse | ErrorKind::OutOfMemory => DialFailure::Local,
        _ if error.raw_os_error().is_some_and(|code| lacking.contains(&code)) => DialFailure::Local,
        _ => DialFailure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_node_lacks_is_not_the_backends_fault() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
            assert_eq!(classify(&errno.into()), DialFailure::Local, "{errno}");
        }
        assert_eq!(classify(&Errno::CONNREFUSED.into()), DialFailure::Refused);
        assert_eq!(classify(&Errno::HOSTUNREACH.into()), DialFailure::Unreachable);
        assert_eq!(classify(&Errno::CONNRESET.into()), DialFailure::Other);
    }

    #[tokio::test]
    async fn the_limit_of_unacknowledged_time_ends_with_the_dial() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let attempt = Attempt::start(listener.local_addr().unwrap()).unwrap();
        let limit =
            |stream: &TcpStream| SockRef::from(stream).tcp_user_timeout().unwrap().unwrap_or_default();
        assert_eq!(limit(&attempt.stream), ATTEMPT);
        std::future::poll_fn(|cx| attempt.poll(cx)).await.unwrap();
        assert!(limit(&attempt.into_stream().unwrap()).is_zero());
    }
}
