//! An apiserver on loopback with a certificate authority of its own for each test. It says what it is told to, can be
//! killed, started again, and stop answering.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::transport::pki::server_config;
use crate::transport::readyz::{Credentials, Identity};

/// The token that servers know.
pub(super) const TOKEN: &str = "known";
pub(super) const NAME: &str = "kubernetes.default.svc";

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(super) enum Valid {
    Now,
    Until2021,
    From2090,
}

/// A CA, and what it signs.
pub(super) struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// A client that trusts this CA alone, and that servers know by [`TOKEN`].
    pub(super) fn client(&self) -> Identity {
        self.bearer(TOKEN)
    }

    /// A client that trusts this CA alone and shows a token.
    pub(super) fn bearer(&self, token: &str) -> Identity {
        let authorization = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        Identity { credentials: Credentials::new(None, Some(authorization)), ..self.stranger() }
    }

    /// A client that trusts this CA alone and shows nothing.
    pub(super) fn stranger(&self) -> Identity {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Identity::anonymous(Arc::new(config))
    }

    /// A sound server.
    pub(super) fn server(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        self.server_of(NAME, Valid::Now, protocols)
    }

    /// Any server. `protocols` is its ALPN.
    pub(super) fn server_of(&self, name: &str, valid: Valid, protocols: &[&str]) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (params.not_before, params.not_after),
            Valid::Until2021 => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Valid::From2090 => (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1)),
        };
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        server_config(&certificate, &key, protocols)
    }
}

/// What the server does, and what was done to it.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) status: AtomicU16,
    pub(super) delay_ms: AtomicU64,
    pub(super) silent: AtomicBool,
    pub(super) connections: AtomicUsize,
    pub(super) questions: AtomicUsize,
    /// The token that is known now, if that is another one than [`TOKEN`].
    pub(super) token: Mutex<Option<String>>,
    /// Whoever shows no credentials is answered 401.
    pub(super) shuns_strangers: AtomicBool,
}

impl Shared {
    /// The status for a request with such an Authorization header, and whether its sender is known.
    fn receive(&self, authorization: Option<&HeaderValue>) -> (u16, bool) {
        let token = self.token.lock().unwrap();
        let known = format!("Bearer {}", token.as_deref().unwrap_or(TOKEN));
        match authorization {
            Some(shown) if *shown == known => (self.status.load(Ordering::Relaxed), true),
            None if !self.shuns_strangers.load(Ordering::Relaxed) => {
                (self.status.load(Ordering::Relaxed), false)
            }
            _ => (401, false),
        }
    }
}

/// One server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Answers `/readyz` with 200.
    pub(super) async fn start(tls: Arc<ServerConfig>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), tls).await
    }

    pub(super) async fn start_at(address: SocketAddr, tls: Arc<ServerConfig>) -> Self {
        let shared = Arc::new(Shared { status: AtomicU16::new(200), ..Shared::default() });
        let known = Arc::clone(&shared);
        Self::accept(address, shared, move |stream| serve(stream, Arc::clone(&tls), Arc::clone(&known))).await
    }

    /// Does `serve` with each TCP connection.
    pub(super) async fn raw<F: Future<Output = ()> + Send + 'static>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        Self::accept("127.0.0.1:0".parse().unwrap(), Arc::default(), serve).await
    }

    /// Does `serve` with each TLS connection.
    pub(super) async fn raw_tls<F: Future<Output = ()> + Send + 'static>(
        tls: Arc<ServerConfig>,
        serve: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static,
    ) -> Self {
        let serve = Arc::new(serve);
        Self::raw(move |stream| {
            let (tls, serve) = (Arc::clone(&tls), Arc::clone(&serve));
            async move {
                if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                    serve(stream).await;
                }
            }
        })
        .await
    }

    async fn accept<F: Future<Output = ()> + Send + 'static>(
        address: SocketAddr,
        shared: Arc<Shared>,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let counted = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::Relaxed);
                serving.spawn(serve(stream));
            }
        });
        Self { address, shared, accepting }
    }

    pub(super) fn say(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    pub(super) fn wait_before_answers(&self, delay: Duration) {
        self.shared.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }

    /// From now on nothing is read or written, and nothing closed: what SIGSTOP does to a process.
    pub(super) fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub(super) fn questions(&self) -> usize {
        self.shared.questions.load(Ordering::Relaxed)
    }

    /// Closes the listener and every connection.
    pub(super) async fn kill(mut self) -> SocketAddr {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, tls: Arc<ServerConfig>, shared: Arc<Shared>) {
    let stream = Mutable { stream, shared: Arc::clone(&shared) };
    let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await else { return };
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stranger = Arc::new(Notify::new());
    let strange = Arc::clone(&stranger);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (shared, strange) = (Arc::clone(&shared), Arc::clone(&strange));
        async move {
            if request.method() == http::Method::OPTIONS {
                assert_eq!(request.uri().path(), "*");
                return Ok::<_, Infallible>(Response::new(Full::default()));
            }
            assert_eq!(request.uri().path(), "/readyz");
            shared.questions.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed))).await;
            let (status, known) = shared.receive(request.headers().get("authorization"));
            if !known {
                strange.notify_one();
            }
            let body = Full::new(Bytes::from_static(b"ok"));
            Ok(Response::builder().status(status).body(body).unwrap())
        }
    });
    let stream = TokioIo::new(stream);
    if is_h2 {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let mut connection = std::pin::pin!(server.serve_connection(stream, service));
        // As kube-apiserver does, an HTTP/2 connection over which a stranger asks is ended, with its answer.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stranger.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
    }
}

struct Mutable {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl Mutable {
    fn is_mute(&self) -> bool {
        self.shared.silent.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Mutable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_mute() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Mutable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_mute() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
