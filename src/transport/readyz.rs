//! `/readyz` of an apiserver: with which credentials it is asked, how the request is addressed, what a status means;
//! and one inspection step by step (TCP, TLS, HTTP), with the server's clock.
//!
//! In: an address, whom to trust, and credentials if there are any. Out: an [`ProbeOutcome`] per status; an
//! [`Inspection`], which says how far it got and shows no credentials. How the request is sent and the answer read stands in
//! `kept_open` for connections over which more than one is sent, as probes do, and in `one_shot` for all others.

pub(crate) mod kept_open;
pub(crate) mod one_shot;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use self::one_shot::{Answer, Extent, OneShotRequest};
use super::AGENT;
use super::access::Access;
use super::certificates::{Validity, validity};
use super::failure::{ExpectedServer, explain};
use super::text::errno_text;
use crate::model::health::ProbeOutcome;

/// The name as HTTP writes it, in `Host` and in a URI.
pub fn authority(name: &ServerName<'_>) -> String {
    match name {
        ServerName::IpAddress(rustls::pki_types::IpAddr::V6(_)) => format!("[{}]", name.to_str()),
        other => other.to_str().into_owned(),
    }
}

/// The credentials shown to apiservers, and the CA by which they are verified.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Trusts the cluster's CA, and shows no certificate.
    pub trust: Arc<ClientConfig>,
    /// The daemon's own, if it has any that can be read.
    pub credentials: Option<Credentials>,
}

impl Identity {
    /// One without credentials.
    pub fn anonymous(trust: Arc<ClientConfig>) -> Self {
        Self { trust, credentials: None }
    }
}

/// Client certificate and `Authorization` header. They are shown only over TLS, and only after the server's
/// certificate was verified. `Debug` shows no secret.
#[derive(Clone)]
pub struct Credentials {
    /// The client certificate with its key. It goes with the connection.
    pub certificate: Option<Arc<dyn ResolvesClientCert>>,
    /// The Authorization header (RFC 9110, section 11.6.2). It goes with each request.
    pub authorization: Option<HeaderValue>,
}

impl Credentials {
    /// None if there is neither.
    pub fn new(
        certificate: Option<Arc<dyn ResolvesClientCert>>,
        authorization: Option<HeaderValue>,
    ) -> Option<Self> {
        let certificate = certificate.filter(|certificate| certificate.has_certs());
        let any = certificate.is_some() || authorization.is_some();
        any.then_some(Self { certificate, authorization })
    }

    /// The chain of the certificate, the client's own first; empty without one.
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        // Clients have one key; what the server offers does not change which.
        let shown = self.certificate.as_ref().and_then(|c| c.resolve(&[], &[SignatureScheme::ED25519]));
        shown.map(|key| key.cert.clone()).unwrap_or_default()
    }

    /// Whether a connection that was made with the other ones shows the same certificate.
    pub fn connects_like(&self, other: &Self) -> bool {
        self.chain() == other.chain()
    }
}

impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        self.authorization == other.authorization && self.connects_like(other)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("certificate", &self.certificate.is_some())
            .field("authorization", &self.authorization.is_some())
            .finish()
    }
}

/// The TLS settings of a request on top of those of the CA, with the certificate to show, if there is one. A resumed
/// session would not show the server's certificate again, and the request is there to see it.
pub fn settings(
    trust: &ClientConfig,
    credentials: Option<&Credentials>,
    protocols: &[&[u8]],
) -> Arc<ClientConfig> {
    let mut config = trust.clone();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    if let Some(certificate) = credentials.and_then(|credentials| credentials.certificate.clone()) {
        config.client_auth_cert_resolver = certificate;
    }
    Arc::new(config)
}

/// The apiserver does not know these credentials, or wants some and was shown none.
pub const UNAUTHORIZED: u16 = 401;

/// Whether an HTTP status tells if the apiserver is ready: 401 and 403 only refuse the caller.
pub fn tells_readiness(status: u16) -> bool {
    !matches!(status, 401 | 403)
}

/// What an HTTP status means. A server that answers in HTTP, over TLS with a certificate that was verified, is alive: under
/// load, where priority and fairness is off, kube-apiserver says 429. 401 and 403 come from an apiserver that does
/// not let the caller see it: it is alive, and taken for ready, since nothing else is known ([`tells_readiness`]).
pub fn outcome(status: u16) -> ProbeOutcome {
    match status {
        200 | 401 | 403 => ProbeOutcome::Ready,
        _ => ProbeOutcome::Unready,
    }
}

/// The CA to trust, and the name that the certificate must carry.
#[derive(Clone)]
pub struct ServerTrust {
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    expected: ExpectedServer,
}

impl ServerTrust {
    /// That of the daemon: the cluster's CA, and the name that certificates must carry.
    ///
    /// # Errors
    /// One line: the CA or the name cannot be used.
    pub fn new(access: &Access, name: Option<&str>) -> Result<Self, String> {
        let mut tls = access.trust()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let shown = name.unwrap_or(access.tls_name()).to_owned();
        let name = match name {
            None => access.server_name(),
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| format!("{name:?} is neither a DNS name nor an IP address"))?,
        };
        Ok(Self {
            tls: Arc::new(tls),
            name,
            expected: ExpectedServer { name: shown, ca: access.ca().to_owned() },
        })
    }

    /// The name that a certificate must carry.
    pub fn name(&self) -> &str {
        &self.expected.name
    }
}

/// Verifies the chain that an apiserver shows now, its own certificate first and each in DER.
///
/// # Errors
/// Why not, as one line.
pub fn verify_chain(access: &Access, chain: &[Vec<u8>]) -> Result<(), String> {
    let (verifier, name) = (access.verifier()?, access.server_name());
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let (leaf, issuers) = chain.split_first().ok_or("it presents no certificate")?;
    let verified = verifier.verify_server_cert(leaf, issuers, &name, &[], UnixTime::now());
    let expected = ExpectedServer { name: access.tls_name().to_owned(), ca: access.ca().to_owned() };
    verified.map(drop).map_err(|error| explain(&error, &expected))
}

/// How far the inspection of an apiserver got; a step that was not reached is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Which apiserver.
    pub address: SocketAddr,
    /// How long the TCP handshake took, or why there was none.
    pub connected: Result<Duration, String>,
    /// The validity of its certificate, which was verified, or why TLS failed.
    pub secured: Option<Result<Option<Validity>, String>>,
    /// What it answered to `/readyz`, or why not.
    pub answered: Option<Result<ReadyzResponse, String>>,
}

/// An answer to `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyzResponse {
    /// The HTTP status.
    pub status: u16,
    /// By how many seconds the server's clock is ahead of this node's, as far as its `Date` header says.
    pub clock_ahead: Option<i64>,
}

/// Inspects the apiserver at `address`, without credentials. Ends within `limit`.
pub async fn inspect(address: SocketAddr, trust: Option<ServerTrust>, limit: Duration) -> Inspection {
    let mut inspection =
        Inspection { address, connected: Err(timed_out(limit)), secured: None, answered: None };
    // What was found before the timeout stays.
    let _ = timeout(limit, steps(&mut inspection, trust, limit)).await;
    inspection
}

async fn steps(inspection: &mut Inspection, trust: Option<ServerTrust>, limit: Duration) {
    let begin = Instant::now();
    let stream = match TcpStream::connect(inspection.address).await {
        Ok(stream) => stream,
        Err(error) => {
            inspection.connected = Err(errno_text(&error));
            return;
        }
    };
    inspection.connected = Ok(begin.elapsed());
    let Some(ServerTrust { tls, name, expected }) = trust else { return };
    inspection.secured = Some(Err(timed_out(limit)));
    let host = authority(&name);
    let mut stream = match TlsConnector::from(tls).connect(name, stream).await {
        Ok(stream) => stream,
        Err(error) => {
            inspection.secured = Some(Err(explain(&error, &expected)));
            return;
        }
    };
    let certificates = stream.get_ref().1.peer_certificates();
    inspection.secured = Some(Ok(certificates.and_then(|all| validity(all.first()?))));
    inspection.answered = Some(Err(timed_out(limit)));
    let request = OneShotRequest { host: &host, agent: AGENT, server_closes: true };
    let answered = match request.write(&mut stream).await {
        Ok(()) => one_shot::read(&mut stream, Extent::Head).await,
        Err(error) => Err(error),
    };
    inspection.answered = Some(match answered {
        Ok(Answer::Response(response)) => Ok(response),
        Ok(Answer::NotHttp) => Err("its answer is not HTTP".to_owned()),
        Ok(Answer::Ended) => Err(explain(&io::Error::from(io::ErrorKind::UnexpectedEof), &expected)),
        Err(error) => Err(explain(&error, &expected)),
    });
}

fn timed_out(limit: Duration) -> String {
    format!("no answer within {:.1} s", limit.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn silent_server_is_given_up_after_the_limit() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inspection = inspect(address, None, Duration::from_millis(200)).await;
        assert!(inspection.connected.is_ok() && inspection.secured.is_none());
        drop(listener);
        let inspection = inspect(address, None, Duration::from_secs(5)).await;
        assert_eq!(inspection.connected, Err("connection refused".to_owned()));
    }
}
