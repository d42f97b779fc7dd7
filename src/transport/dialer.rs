//! Connects to whichever apiserver answers: TCP and TLS, one address after the other.
//!
//! In: a [`DialOrder`]. Out: a TLS stream whose certificate carries the expected name, or a [`DialError`]. The host of the
//! request's URI is ignored: which machine is dialled and which name TLS verifies are two different things.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::access::Server;
use super::failure::{ExpectedServer, explain};

/// How long one address may take for the TCP handshake, and again for TLS: two lost SYNs (1 s and 2 s) are survived.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// After how long no further address is tried in one dial: the whole ends within 15 s, as one address takes 6 s at
/// most. The next dial continues there.
const DIAL_LIMIT: Duration = Duration::from_secs(9);

/// How long a name may take to resolve; libc would try 5 s per name server.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Silence after which the kernel probes the peer, the pause between probes, and how many may be lost.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(2), Duration::from_secs(1), 3);

/// How long sent data or a probe may stay unacknowledged (TCP_USER_TIMEOUT). With it a dead peer is noticed in about
/// 4 s; the kernel's default for sent data is about 15 minutes.
const USER_TIMEOUT: Duration = Duration::from_secs(4);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Which apiservers are dialled, in which order, and the result of each.
pub(crate) trait DialOrder: Send + 'static {
    /// One address, or one name that resolves to some.
    type Target: Copy + Send;

    /// The targets to dial, in order.
    fn targets(&self) -> Vec<Self::Target>;

    /// Whether it is the server of the kubeconfig or of the Pod's environment, whose name must be resolved.
    fn is_configured_server(target: Self::Target) -> bool;

    /// The addresses to dial for one target, in order. `resolved` is what the name of the configured server resolves to.
    fn addresses(&self, target: Self::Target, resolved: &[SocketAddr]) -> Vec<SocketAddr>;

    /// A connection to `address` is established.
    fn connected(&mut self, target: Self::Target, address: SocketAddr);

    /// Nothing of `target` could be connected to.
    fn dial_failed(&mut self, target: Self::Target);
}

/// Dials for one session.
pub(crate) struct Dialer<O> {
    tls: TlsConnector,
    name: ServerName<'static>,
    server: Server,
    expected: ExpectedServer,
    order: Arc<Mutex<O>>,
}

impl<O: DialOrder> Dialer<O> {
    pub(crate) fn new(
        mut tls: ClientConfig,
        name: ServerName<'static>,
        server: Server,
        expected: ExpectedServer,
        order: Arc<Mutex<O>>,
    ) -> Self {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { tls: TlsConnector::from(Arc::new(tls)), name, server, expected, order }
    }

    /// Connects to the first address that answers.
    pub(crate) async fn dial(&self) -> Result<TlsStream<TcpStream>, DialError> {
        let mut failed = DialError { unresolved: None, attempts: Vec::new() };
        let begin = Instant::now();
        let mut vip_skipped = false;
        let targets = self.lock().targets();
        for target in targets {
            let resolved = match O::is_configured_server(target) {
                false => Vec::new(),
                true => resolve(&self.server).await.unwrap_or_else(|cause| {
                    failed.unresolved = Some(cause);
                    Vec::new()
                }),
            };
            let addresses = self.lock().addresses(target, &resolved);
            vip_skipped |= addresses.is_empty() && !resolved.is_empty();
            for address in addresses {
                if begin.elapsed() >= DIAL_LIMIT {
                    return Err(failed);
                }
                // The configured server may be an endpoint that was just tried.
                if failed.attempts.iter().any(|(tried, _)| *tried == address) {
                    continue;
                }
                match self.attempt(address).await {
                    Ok(stream) => {
                        self.lock().connected(target, address);
                        tracing::debug!(event = %"api_server_connected", %address, "Connected to API server");
                        return Ok(stream);
                    }
                    Err(cause) => {
                        tracing::debug!(
                            event = %"api_server_connect_failed", %address, error = cause,
                            "Failed to connect to API server"
                        );
                        failed.attempts.push((address, cause));
                    }
                }
            }
            self.lock().dial_failed(target);
        }
        if failed.attempts.is_empty() && failed.unresolved.is_none() {
            failed.unresolved = Some(match vip_skipped {
                true => format!("{} is the virtual IP, and no seed could be resolved yet", self.server),
                false => format!("the name {} has no address", self.server.host),
            });
        }
        Err(failed)
    }

    async fn attempt(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, String> {
        let limit = CONNECT_TIMEOUT * 2;
        let attempt = async {
            let stream = connect(address).await?;
            Ok::<_, BoxError>(self.tls.connect(self.name.clone(), stream).await?)
        };
        match timeout(limit, attempt).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(explain(error.as_ref(), &self.expected)),
            Err(_) => Err(format!("accepts connections but does not answer within {} s", limit.as_secs())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, O> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects TCP.
async fn connect(address: SocketAddr) -> Result<TcpStream, BoxError> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
        .await
        .map_err(|_| format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))??;
    detect_dead_peer(&stream)?;
    Ok(stream)
}

fn detect_dead_peer(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, probes) = KEEPALIVE;
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(probes),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

async fn resolve(server: &Server) -> Result<Vec<SocketAddr>, String> {
    let Server { host, port } = server;
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, *port)]);
    }
    match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host.as_str(), *port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(format!("the name {host} does not resolve: {error}")),
        Err(_) => {
            Err(format!("the name {host} does not resolve: no answer within {} s", RESOLVE_TIMEOUT.as_secs()))
        }
    }
}

/// No address could be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DialError {
    /// Why there was nothing to dial, or else empty.
    pub(crate) unresolved: Option<String>,
    /// What was dialled, and what came of it.
    pub(crate) attempts: Vec<(SocketAddr, String)>,
}

impl std::error::Error for DialError {}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // In the order of the addresses, not of the attempts: the same failure must read the same, as it is logged
        // only when it changes.
        let mut attempts: Vec<_> = self.attempts.iter().collect();
        attempts.sort();
        f.write_str("no API server can be reached")?;
        let mut separator = ": ";
        for (address, cause) in attempts {
            write!(f, "{separator}{address}: {cause}")?;
            separator = "; ";
        }
        match &self.unresolved {
            Some(cause) => write!(f, "{separator}{cause}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn socket_detects_a_dead_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        let keepalive = (
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
        );
        assert_eq!(keepalive, KEEPALIVE);
    }

    #[test]
    fn failed_dial_reads_the_same_in_any_order() {
        let a = (SocketAddr::from(([192, 0, 2, 11], 6443)), "refused".to_owned());
        let b = (SocketAddr::from(([192, 0, 2, 12], 6443)), "no answer within 3 s".to_owned());
        let one = DialError { unresolved: None, attempts: vec![a.clone(), b.clone()] };
        let other = DialError { unresolved: None, attempts: vec![b, a] };
        assert_eq!(one.to_string(), other.to_string());
        assert_eq!(
            one.to_string(),
            "no API server can be reached: 192.0.2.11:6443: refused; 192.0.2.12:6443: no answer within 3 s"
        );
    }
}
