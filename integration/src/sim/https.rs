//! One HTTPS connection to one address, with the name that its certificate must carry given apart.
//!
//! In: a TCP stream and TLS settings. Out: a sender for requests in the protocol that ALPN chose, and the task that
//! drives the connection. There is no pool: whoever asks sees exactly what happens to this connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A request's body: made here, or passed on from elsewhere.
pub type Outgoing = Either<Full<Bytes>, Incoming>;

/// Drives the connection; ends when it is closed.
pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Sends requests over the connection.
#[derive(Debug)]
pub enum Sender {
    /// HTTP/1.1: one request after the other.
    Http1(http1::SendRequest<Outgoing>),
    /// HTTP/2.
    Http2(http2::SendRequest<Outgoing>),
}

impl Sender {
    /// Sends one request. HTTP/2 needs a URI with scheme and authority, HTTP/1.1 a `Host` header.
    pub async fn send(&mut self, request: Request<Outgoing>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

/// Shakes hands over `stream` and prepares the connection; the caller runs the driver.
pub async fn connect(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
) -> io::Result<(Sender, Driver)> {
    let stream = TlsConnector::from(config).connect(server_name, stream).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    if http2 {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
        return Ok((Sender::Http2(sender), Box::pin(finished(connection))));
    }
    let (sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
    Ok((Sender::Http1(sender), Box::pin(finished(connection))))
}

/// How a connection ended is told by its requests.
async fn finished(connection: impl Future<Output = hyper::Result<()>>) {
    let _ = connection.await;
}
