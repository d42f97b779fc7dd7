//! One connection to a virtual IP: TCP, TLS, `GET /readyz`, and a proper end.
//!
//! This side closes first, so that the short wait of a closed connection (TIME_WAIT) is this node's, not an
//! apiserver's; what was still on its way is read, so that nobody is reset.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::answer::{Failure, STATUS_LINE, judge};
use super::{Evidence, TIMEOUT};
use crate::model::health::FailReason;
use crate::model::types::Vip;
use crate::transport::readyz::authority;

/// How long the other side may take to close.
const CLOSE: Duration = Duration::from_secs(1);
/// More of an answer is not waited for: `/readyz` with all its reasons takes 3 KB.
const BODY: u64 = 64 << 10;

/// One connection that was made, or tried.
pub(super) struct Attempt {
    /// How long the answer took, or why there was none.
    pub outcome: Result<Duration, Failure>,
    /// This side's address, if a connection came about.
    pub local: Option<SocketAddr>,
    /// The forwarder accepted it.
    pub forwarded: bool,
}

/// Connects and asks. `look` is called once, while the connection stands, if one comes about, and says how to go on with TLS.
pub(super) async fn attempt(
    vip: Vip,
    name: ServerName<'static>,
    evidence: &dyn Evidence,
    look: impl FnOnce(SocketAddr) -> Arc<ClientConfig>,
) -> Attempt {
    let started = Instant::now();
    let end = started + TIMEOUT;
    let (socket, port) = match bound(vip) {
        Ok(bound) => bound,
        Err(_) => return Attempt { outcome: Err(Failure::Local), local: None, forwarded: false },
    };
    evidence.expect(port);
    let connected = in_time(end, socket.connect(vip)).await;
    let local = connected.as_ref().ok().and_then(|stream| stream.local_addr().ok());
    // Before anything is said: whoever does not like it closes, and takes the traces with him.
    let tls = local.map(look);
    let (outcome, stream) = match (connected, tls) {
        (Ok(stream), Some(tls)) => match in_time(end, question(stream, &name, tls)).await {
            Ok(stream) => read(end, stream).await,
            Err(failure) => (Err(failure), None),
        },
        (Ok(_), None) => (Err(Failure::Local), None),
        (Err(failure), _) => (Err(failure), None),
    };
    let outcome = outcome.map(|()| started.elapsed());
    let forwarded = evidence.accepted(port).is_some_and(|client| Some(client) == local);
    if let Some(stream) = stream {
        close(stream).await;
    }
    Attempt { outcome, local, forwarded }
}

/// A socket whose port is known before it dials.
fn bound(vip: Vip) -> io::Result<(TcpSocket, u16)> {
    let (socket, any) = match vip.ip() {
        IpAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    };
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::new(any, 0))?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}

async fn question(
    stream: TcpStream,
    name: &ServerName<'static>,
    tls: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = TlsConnector::from(tls).connect(name.clone(), stream).await?;
    let host = authority(name);
    let agent = concat!("apivip-selftest/", env!("CARGO_PKG_VERSION"));
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    Ok(stream)
}

/// Reads until the status is known.
async fn read(
    end: Instant,
    mut stream: TlsStream<TcpStream>,
) -> (Result<(), Failure>, Option<TlsStream<TcpStream>>) {
    let mut head = Vec::with_capacity(STATUS_LINE);
    loop {
        match in_time(end, stream.read_buf(&mut head)).await {
            Ok(0) => return (Err(Failure::Failed(FailReason::Reset)), Some(stream)),
            Ok(_) => {}
            Err(failure) => return (Err(failure), None),
        }
        if let Some(outcome) = judge(&head) {
            return (outcome, Some(stream));
        }
    }
}

async fn close(mut stream: TlsStream<TcpStream>) {
    let end = Instant::now() + CLOSE;
    // Whatever goes wrong from here on, the answer is known, and the socket is closed by being dropped.
    if let Ok(Ok(())) = timeout_at(end, stream.shutdown()).await {
        let (mut tcp, _) = stream.into_inner();
        let mut rest = (&mut tcp).take(BODY);
        let _ = timeout_at(end, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

async fn in_time<T>(end: Instant, step: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    match timeout_at(end, step).await {
        Ok(done) => done.map_err(|error| Failure::of(&error)),
        Err(_) => Err(Failure::Failed(FailReason::Timeout)),
    }
}
