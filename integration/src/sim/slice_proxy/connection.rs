//! One client connection and the upstream connection that belongs to it.
//!
//! In: an accepted TCP connection. Out: requests for [`super::forward`]. A client whose server cannot be reached gets
//! a reset instead of a handshake, because a dead server would not shake hands either.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::forward::{self, Client};
use crate::sim::access_log::{AccessLog, What};
use crate::sim::https::{self, Driver, Sender};
use crate::sim::listen;

/// The server is next door: no answer for so long means that it is gone.
const CONNECT: Duration = Duration::from_secs(2);
/// What answers under way get to end in once the server's connection is over.
const LINGER: Duration = Duration::from_secs(1);

/// The real server.
pub(super) struct Upstream {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) server_name: ServerName<'static>,
    pub(super) http1: Arc<ClientConfig>,
    pub(super) http2: Arc<ClientConfig>,
}

/// What every connection needs.
pub(super) struct Shared {
    pub(super) acceptor: TlsAcceptor,
    pub(super) upstream: Upstream,
    pub(super) log: AccessLog,
}

/// Serves one listener for ever; its connections end with it.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let accepting = listen::accept_each(listener, |stream, peer| {
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, peer, shared.clone()));
    });
    accepting.await;
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let Ok(local) = stream.local_addr() else { return };
    shared.log.write(peer, local, What::Connection);
    let Ok(upstream) = dial(&shared.upstream).await else {
        // Fails only when the client has already reset the connection.
        let _ = stream.set_zero_linger();
        return;
    };
    let _ = stream.set_nodelay(true);
    let Ok(stream) = shared.acceptor.accept(stream).await else { return };
    let Ok((sender, driver)) = shared.upstream.greet(upstream, &stream).await else { return };
    let client = Client { peer, local, log: shared.log.clone(), sender: Mutex::new(sender) };
    converse(stream, Arc::new(client), driver).await;
}

async fn dial(upstream: &Upstream) -> io::Result<TcpStream> {
    let connect = TcpStream::connect((upstream.host.as_str(), upstream.port));
    let stream = tokio::time::timeout(CONNECT, connect).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Upstream {
    /// Speaks the protocol that the client has chosen, so that streams map one to one.
    async fn greet(&self, stream: TcpStream, client: &TlsStream<TcpStream>) -> io::Result<(Sender, Driver)> {
        let http2 = client.get_ref().1.alpn_protocol() == Some(b"h2");
        let config = if http2 { &self.http2 } else { &self.http1 };
        https::connect(stream, config.clone(), self.server_name.clone()).await
    }
}

/// Serves the client until either side is done.
async fn converse(stream: TlsStream<TcpStream>, client: Arc<Client>, driver: Driver) {
    let service = service_fn(|request| forward::forward(client.clone(), request));
    let server = auto::Builder::new(TokioExecutor::new());
    let mut serving = pin!(server.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // How it ended is the client's business.
        _ = &mut serving => return,
        () = driver => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(LINGER, serving).await;
}
