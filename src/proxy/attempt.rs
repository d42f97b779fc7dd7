//! One dial: a socket that connects.

use std::io::{self, ErrorKind};
use std::net::{self, SocketAddr};
use std::task::{Context, Poll, ready};

use rustix::event::PollFlags;
use rustix::io::Errno;
use socket2::{SockRef, Socket};
use tokio::net::TcpStream;

use super::dialing::ATTEMPT;
use super::socket;
use super::stats::DialFailure;
use crate::model::types::Backend;

/// A dial under way. Dropping it ends it.
pub(super) struct Attempt {
    backend: Backend,
    state: State,
}

enum State {
    /// The runtime watches it.
    Connecting(TcpStream),
    /// An apiserver of this node answers before `connect` returns, and one nearby soon after: watching such a socket
    /// would cost more than the dial.
    Connected(net::TcpStream),
}

impl Attempt {
    pub(super) fn start(backend: Backend) -> Result<Self, DialFailure> {
        let state = connect(backend).map_err(|error| classify(&error))?;
        Ok(Self { backend, state })
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// Whether it connected. Not to be asked again after that.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), DialFailure>> {
        let State::Connecting(stream) = &self.state else { return Poll::Ready(Ok(())) };
        let connected = ready!(stream.poll_write_ready(cx)).and_then(|()| match stream.take_error()? {
            None => Ok(()),
            Some(error) => Err(error),
        });
        Poll::Ready(connected.map_err(|error| classify(&error)))
    }

    /// The stream of one that connected.
    pub(super) fn into_stream(self) -> io::Result<net::TcpStream> {
        match self.state {
            State::Connecting(stream) => {
                // From here on silence is the business of keepalive: with this limit a live peer that reads nothing for
                // a while, its window closed, would be taken for dead.
                SockRef::from(&stream).set_tcp_user_timeout(None)?;
                stream.into_std()
            }
            State::Connected(stream) => Ok(stream),
        }
    }
}

fn connect(backend: SocketAddr) -> io::Result<State> {
    let socket = socket::new(backend)?;
    socket::set_options(&SockRef::from(&socket))?;
    match socket.connect(&backend.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ if is_connected(&socket) => return Ok(State::Connected(socket.into())),
        _ => {}
    }
    socket.set_tcp_user_timeout(Some(ATTEMPT))?;
    Ok(State::Connecting(TcpStream::from_std(socket.into())?))
}

/// Whether it is already, and nothing is wrong with it.
fn is_connected(socket: &Socket) -> bool {
    let state = socket::state(socket, PollFlags::OUT);
    state.contains(PollFlags::OUT) && !state.intersects(PollFlags::ERR | PollFlags::HUP)
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
    async fn the_limit_of_unacknowledged_time_is_of_the_dial_alone() {
        // Nobody answers there while its one place is taken.
        let full = socket::new("127.0.0.1:0".parse().unwrap()).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let address = full.local_addr().unwrap().as_socket().unwrap();
        let taken: Vec<_> = (0..4).map(|_| Attempt::start(address).unwrap()).collect();
        let limit = |attempt: &Attempt| match &attempt.state {
            State::Connecting(stream) => SockRef::from(stream).tcp_user_timeout().unwrap(),
            State::Connected(stream) => SockRef::from(stream).tcp_user_timeout().unwrap(),
        };
        let of = |attempt: &Attempt| limit(attempt).unwrap_or_default();
        assert_eq!(of(taken.last().unwrap()), ATTEMPT, "under way");
        assert!(of(&taken[0]).is_zero(), "connected at once");
        let listener = net::TcpListener::from(full);
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let serving = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        for attempt in taken {
            std::future::poll_fn(|cx| attempt.poll(cx)).await.unwrap();
            let stream = attempt.into_stream().unwrap();
            assert!(SockRef::from(&stream).tcp_user_timeout().unwrap().unwrap_or_default().is_zero());
        }
        serving.abort();
    }
}
