//! A client that shows what an apiserver does on the wire: TLS, frames of HTTP/2, and how a connection ends.
//!
//! In: a namespace, an address, an authority, a token. Out: connections of one's own, each with what was
//! [`Seen`] on it. Nothing is retried, pooled or hidden.

mod http2;
mod tap;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::netns::Namespace;
use crate::pki::SERVER_NAME;
use crate::tls;

pub use http2::{Answer, Http2, Next, Watch};
pub use tap::{End, Seen};

/// Longer than an apiserver on a busy machine takes for anything that it does at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One apiserver, and what a client has to know to speak to it.
#[derive(Clone, Debug)]
pub struct Server {
    at: SocketAddr,
    authority: PathBuf,
    token: String,
}

/// Runs a future on a thread inside of a namespace: the sockets that it opens lie there.
pub fn inside<T: Send, F>(namespace: &Namespace, work: impl FnOnce() -> F + Send) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    namespace.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("start the runtime")?.block_on(work())
    })
}

/// The future's result, or an error that says what did not happen in [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("{what}: not within {PATIENCE:?}"))
}

impl Server {
    /// The server at this address, whose certificate `authority` verifies. Whoever bears the token may list and watch the
    /// Service `kubernetes` and its EndpointSlices, and nothing else of importance.
    pub fn new(at: SocketAddr, authority: &Path, token: &str) -> Self {
        Self { at, authority: authority.to_owned(), token: token.to_owned() }
    }

    /// The good token.
    pub fn token(&self) -> Option<&str> {
        Some(&self.token)
    }

    /// Opens a TCP connection.
    pub async fn dial(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.at).await
    }

    /// TLS settings of a client without a certificate, which keep the server's session tickets, and tell whether one is asked
    /// for a certificate.
    pub fn tls_config(&self, alpn: &[&[u8]]) -> Result<(Arc<ClientConfig>, Arc<Asked>)> {
        let asked = Arc::new(Asked::default());
        let mut config = ClientConfig::clone(&*tls::client_config(&self.authority, alpn)?);
        config.client_auth_cert_resolver = asked.clone();
        Ok((Arc::new(config), asked))
    }

    /// Shakes hands with these settings.
    pub async fn shake(&self, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
        let stream = soon("a TCP connection", self.dial()).await??;
        let name = ServerName::try_from(SERVER_NAME).context("name the server")?;
        let shaken = TlsConnector::from(config.clone()).connect(name, stream);
        soon("a TLS handshake", shaken).await?.context("shake hands")
    }

    /// Opens an HTTP/1.1 connection.
    pub async fn http1(&self) -> Result<TlsStream<TcpStream>> {
        self.shake(&self.tls_config(&[b"http/1.1"])?.0).await
    }

    /// Opens an HTTP/2 connection and exchanges settings.
    pub async fn http2(&self) -> Result<Http2> {
        let stream = self.shake(&self.tls_config(&[b"h2"])?.0).await?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "HTTP/2 was not chosen");
        Http2::open(stream, self.at).await
    }
}

/// Has no client certificate, and tells whether it was asked for one.
#[derive(Debug, Default)]
pub struct Asked(AtomicBool);

impl Asked {
    /// Whether any server asked.
    pub fn was(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Asks over HTTP/1.1 and reads the answer's head, and its body where its length is told.
pub async fn get_http1(stream: &mut TlsStream<TcpStream>, path: &str, token: Option<&str>) -> Result<String> {
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    ask_http1(stream, &format!("GET {path} HTTP/1.1\r\nHost: {SERVER_NAME}\r\n{token}\r\n")).await
}

/// Sends `OPTIONS *` over HTTP/1.1 as a stranger, and reads the answer.
pub async fn options_http1(stream: &mut TlsStream<TcpStream>) -> Result<String> {
    ask_http1(stream, &format!("OPTIONS * HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n")).await
}

async fn ask_http1(stream: &mut TlsStream<TcpStream>, request: &str) -> Result<String> {
    stream.write_all(request.as_bytes()).await.context("send a request")?;
    let mut answer = Vec::new();
    loop {
        let length = soon("an answer", stream.read_buf(&mut answer)).await?.context("read an answer")?;
        ensure!(length > 0, "no whole answer, but {:?}", String::from_utf8_lossy(&answer));
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        if body.len() >= length.unwrap_or(0) {
            return Ok(text.into_owned());
        }
    }
}

/// Reads and forgets until the connection ends.
pub async fn end_of(stream: &mut TlsStream<TcpStream>) -> End {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return End::Closed,
            Ok(_) => {}
            Err(error) => return End::of(&error),
        }
    }
}
