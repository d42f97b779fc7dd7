//! One connection to a virtual IP: TCP, TLS, `GET /readyz`, what the answer means, and a proper end.
//!
//! This side closes first, so that TIME_WAIT is this node's, not an API server's; what was still on its way is read, so that
//! nobody is reset.

use std::io::{self, ErrorKind as Kind};
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

use super::{ConnectionEvidence, TIMEOUT};
use crate::model::health::{FailReason, ProbeOutcome};
use crate::model::types::Vip;
use crate::transport::failure::reason;
use crate::transport::readyz::one_shot::{self, Answer, Extent, OneShotRequest};
use crate::transport::readyz::{authority, outcome};

/// Why a virtual IP did not answer. A closed set: these are labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SelfTestFailure {
    /// No answer that an apiserver would give.
    Failed(FailReason),
    /// An apiserver answered that it is not ready.
    Unready,
    /// This node could not connect: no descriptor, no free port.
    Local,
}

impl SelfTestFailure {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        FailReason::ALL.into_iter().map(Self::Failed).chain([Self::Unready, Self::Local])
    }

    /// The label in logs, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Failed(reason) => reason.label(),
            Self::Unready => "unready",
            Self::Local => "local",
        }
    }

    /// What an error of a socket, or of TLS on it, says.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            Kind::AddrNotAvailable | Kind::AddrInUse | Kind::OutOfMemory => Self::Local,
            _ => Self::Failed(reason(error)),
        }
    }
}

/// What came back is not HTTP, or an answer that no apiserver gives.
const PROTOCOL: SelfTestFailure = SelfTestFailure::Failed(FailReason::Protocol);

/// What an HTTP status of `/readyz` says of the virtual IP.
fn judge(status: u16) -> Result<(), SelfTestFailure> {
    match outcome(status) {
        ProbeOutcome::Ready | ProbeOutcome::Alive => Ok(()),
        ProbeOutcome::Unready => Err(SelfTestFailure::Unready),
        ProbeOutcome::Failed(reason) => Err(SelfTestFailure::Failed(reason)),
    }
}

/// How long the other side may take to close.
const CLOSE: Duration = Duration::from_secs(1);
/// More of an answer is not waited for: `/readyz` with all its reasons takes 3 KB.
const BODY: u64 = 64 << 10;

/// One connection, established or not.
pub(super) struct SelfTestAttempt {
    /// How long the answer took, or why there was none.
    pub outcome: Result<Duration, SelfTestFailure>,
    /// This side's address, if a connection was established.
    pub local: Option<SocketAddr>,
    /// The forwarder accepted it.
    pub forwarded: bool,
}

/// Connects and requests `/readyz`. `tls_for` is called once with an established connection and returns the TLS settings.
pub(super) async fn connect_and_request(
    vip: Vip,
    name: ServerName<'static>,
    evidence: &dyn ConnectionEvidence,
    tls_for: impl FnOnce(SocketAddr) -> Arc<ClientConfig>,
) -> SelfTestAttempt {
    let started = Instant::now();
    let end = started + TIMEOUT;
    let (socket, port) = match bound_socket(vip) {
        Ok(bound) => bound,
        Err(_) => {
            return SelfTestAttempt { outcome: Err(SelfTestFailure::Local), local: None, forwarded: false };
        }
    };
    evidence.expect(port);
    let connected = in_time(end, socket.connect(vip)).await;
    let local = connected.as_ref().ok().and_then(|stream| stream.local_addr().ok());
    // Before any data are sent: a peer that rejects them closes, and the conntrack entry goes with the connection.
    let tls = local.map(tls_for);
    let (outcome, stream) = match (connected, tls) {
        (Ok(stream), Some(tls)) => match in_time(end, send_request(stream, &name, tls)).await {
            Ok(stream) => read(end, stream).await,
            Err(failure) => (Err(failure), None),
        },
        (Ok(_), None) => (Err(SelfTestFailure::Local), None),
        (Err(failure), _) => (Err(failure), None),
    };
    let outcome = outcome.map(|()| started.elapsed());
    let forwarded = evidence.accepted(port).is_some_and(|client| Some(client) == local);
    if let Some(stream) = stream {
        close(stream).await;
    }
    SelfTestAttempt { outcome, local, forwarded }
}

/// A socket whose port is known before it dials.
fn bound_socket(vip: Vip) -> io::Result<(TcpSocket, u16)> {
    let (socket, any) = match vip.ip() {
        IpAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
    };
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::new(any, 0))?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}

async fn send_request(
    stream: TcpStream,
    name: &ServerName<'static>,
    tls: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = TlsConnector::from(tls).connect(name.clone(), stream).await?;
    let agent = concat!("apivip-selftest/", env!("CARGO_PKG_VERSION"));
    let request = OneShotRequest { host: &authority(name), agent, server_closes: false };
    request.write(&mut stream).await?;
    Ok(stream)
}

/// Reads until the status is known.
async fn read(
    end: Instant,
    mut stream: TlsStream<TcpStream>,
) -> (Result<(), SelfTestFailure>, Option<TlsStream<TcpStream>>) {
    match in_time(end, one_shot::read(&mut stream, Extent::StatusLine)).await {
        Ok(Answer::Response(response)) => (judge(response.status), Some(stream)),
        Ok(Answer::NotHttp) => (Err(PROTOCOL), Some(stream)),
        Ok(Answer::Ended) => (Err(SelfTestFailure::Failed(FailReason::Reset)), Some(stream)),
        Err(failure) => (Err(failure), None),
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

async fn in_time<T>(end: Instant, step: impl Future<Output = io::Result<T>>) -> Result<T, SelfTestFailure> {
    match timeout_at(end, step).await {
        Ok(done) => done.map_err(|error| SelfTestFailure::of(&error)),
        Err(_) => Err(SelfTestFailure::Failed(FailReason::Timeout)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_status_maps_to_success_or_failure_reason() {
        for (status, expected) in [
            (200, Ok(())),
            (401, Ok(())),
            (403, Ok(())),
            (500, Err(SelfTestFailure::Unready)),
            (404, Err(SelfTestFailure::Unready)),
        ] {
            assert_eq!(judge(status), expected, "{status}");
        }
    }

    #[test]
    fn certificate_errors_are_distinguished_from_other_tls_errors() {
        let of = |error: rustls::Error| SelfTestFailure::of(&io::Error::new(Kind::InvalidData, error));
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        assert_eq!(of(expired), SelfTestFailure::Failed(FailReason::BadCertificate));
        assert_eq!(of(rustls::Error::DecryptError), SelfTestFailure::Failed(FailReason::Tls));
        assert_eq!(
            SelfTestFailure::of(&io::Error::from_raw_os_error(111)),
            SelfTestFailure::Failed(FailReason::Refused)
        );
        assert_eq!(
            SelfTestFailure::of(&io::Error::from_raw_os_error(113)),
            SelfTestFailure::Failed(FailReason::Unreachable)
        );
        assert_eq!(
            SelfTestFailure::of(&Kind::UnexpectedEof.into()),
            SelfTestFailure::Failed(FailReason::Reset)
        );
    }

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::BTreeSet<&str> =
            SelfTestFailure::all().map(SelfTestFailure::label).collect();
        assert_eq!(labels.len(), SelfTestFailure::all().count());
    }
}
