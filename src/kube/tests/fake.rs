//! An apiserver on loopback that answers as its [`Cluster`] says, can be killed, and can fall silent.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::cluster::{Cluster, Reply};

type Body = BoxBody<Bytes, Infallible>;

/// One server.
pub(crate) struct FakeApiserver {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    silent: Arc<AtomicBool>,
    accepting: JoinHandle<()>,
}

impl FakeApiserver {
    /// Serves `cluster` at 127.0.0.`last`, on `port` or any.
    pub(crate) async fn start(last: u8, port: u16, tls: Arc<ServerConfig>, cluster: Cluster) -> Self {
        let listener = TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, last), port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let silent = Arc::new(AtomicBool::new(false));
        let server = Server { requests: Arc::clone(&requests), cluster, tls, silent: Arc::clone(&silent) };
        let counted = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                serving.spawn(server.clone().serve(stream));
            }
        });
        Self { address, requests, connections, silent, accepting }
    }

    /// The request targets so far, each without its timeoutSeconds, with the protocol and token in front.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// From now on nothing is read or written on any connection, and none is closed.
    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Closes the listener and every connection.
    pub(crate) async fn kill(mut self) {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for FakeApiserver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[derive(Clone)]
struct Server {
    requests: Arc<Mutex<Vec<String>>>,
    cluster: Cluster,
    tls: Arc<ServerConfig>,
    silent: Arc<AtomicBool>,
}

impl Server {
    async fn serve(self, stream: TcpStream) {
        let stream = Mutable { stream, silent: Arc::clone(&self.silent) };
        let Ok(stream) = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream).await else { return };
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.answer(&request).await) }
        });
        let stream = TokioIo::new(stream);
        if is_h2 {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await;
        } else {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let target = request.uri().path_and_query().unwrap().as_str().to_owned();
        let token = request.headers().get("authorization").map_or("", |value| value.to_str().unwrap());
        let shown: Vec<&str> =
            target.split('&').filter(|parameter| !parameter.starts_with("timeoutSeconds=")).collect();
        let shown = shown.join("&");
        self.requests.lock().unwrap().push(format!("{:?} {token} {shown}", request.version()));
        let (reply, feed) = self.cluster.answer(&target);
        let (code, kind, body) = match reply {
            Reply::Body(code, kind, bytes) => (code, kind, Full::new(bytes).boxed()),
            Reply::SessionEnd(bytes) => (200, "application/json", streamed(stream::iter([bytes]))),
            Reply::Watch(begin) => {
                let rest = stream::unfold(feed, |feed| async move {
                    let mut feed = feed?;
                    feed.recv().await.map(|bytes| (bytes, Some(feed)))
                });
                let begin = stream::iter((!begin.is_empty()).then_some(begin));
                (200, "application/json", streamed(begin.chain(rest)))
            }
            Reply::Hang => std::future::pending().await,
        };
        Response::builder().status(code).header("content-type", kind).body(body).unwrap()
    }
}

fn streamed(chunks: impl stream::Stream<Item = Bytes> + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(chunks.map(|chunk| Ok(Frame::data(chunk)))))
}

/// A stream that can be muted: a machine that hangs, or a cable that was pulled, as far as the protocol can tell.
struct Mutable {
    stream: TcpStream,
    silent: Arc<AtomicBool>,
}

impl AsyncRead for Mutable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.silent.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Mutable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.silent.load(Ordering::Relaxed) {
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
