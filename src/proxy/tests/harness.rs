//! A forwarder under test, and backends of all kinds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::timeout;

use super::super::*;
use crate::model::proxy_routes::ProxyRoute;

/// Longer than anything takes here.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Rig {
    pub(super) forwarder: Forwarder,
    pub(super) stats: Arc<Stats>,
    pub(super) failures: UnboundedReceiver<Backend>,
    /// Its node-local endpoint.
    pub(super) address: SocketAddr,
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::with(ForwarderOptions::default(), Vec::new()).await
    }

    /// With an endpoint on 127.0.0.1 unless there are others.
    pub(super) async fn with(mut options: ForwarderOptions, inherited: Vec<std::net::TcpListener>) -> Self {
        if options.listen.is_empty() {
            options.listen.push("127.0.0.1:0".parse().unwrap());
        }
        let (failed, failures) = mpsc::unbounded_channel();
        let stats = Arc::<Stats>::default();
        let wanted = options.listen[0].ip();
        let forwarder = Forwarder::start(options, inherited, failed, Arc::clone(&stats)).unwrap();
        let listeners = forwarder.listeners().await.unwrap();
        let mut addresses = listeners.iter().map(|listener| listener.local_addr().unwrap());
        let address = addresses.find(|address| address.ip() == wanted).unwrap();
        Self { forwarder, stats, failures, address }
    }

    /// Connections to the endpoint go to `backends`, and after them to `others`.
    pub(super) fn route_to(&mut self, backends: &[Backend], others: &[Backend]) {
        let route =
            ProxyRoute { backends: backends.to_vec(), others: others.to_vec(), ..ProxyRoute::default() };
        self.forwarder.route(Arc::new(ProxyRoutes { local: route, ..ProxyRoutes::default() }));
    }

    pub(super) async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address)).await.unwrap()
    }

    /// Whether a new connection is reset; that may be seen before the handshake is.
    pub(super) async fn resets(&self) -> bool {
        match within(TcpStream::connect(self.address)).await {
            Ok(mut stream) => is_reset(&mut stream).await,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Waits until the counts are as they should be.
    pub(super) async fn until(&self, what: impl Fn(&Stats) -> bool) {
        within(async {
            while !what(&self.stats) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("takes too long")
}

pub(super) async fn listener() -> (TcpListener, Backend) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Sends back what it receives, and ends when the other side does.
pub(super) async fn echo() -> Backend {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// An address where nothing listens.
pub(super) async fn refusing() -> SocketAddr {
    listener().await.1
}

/// Listens but completes no handshake: its backlog is full. It lives as long as what is returned with it.
pub(super) async fn unanswering() -> (Backend, Vec<Socket>) {
    let socket = || Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
    let deaf = socket();
    deaf.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    deaf.listen(0).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    let mut sockets = vec![deaf];
    for _ in 0..4 {
        let filler = socket();
        let _ = filler.connect(&address.into());
        sockets.push(filler);
    }
    // Until the handshakes of those that fit are over.
    tokio::time::sleep(Duration::from_millis(50)).await;
    (address, sockets)
}

/// Connects from an address of its own.
pub(super) async fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    within(socket.connect(to)).await.unwrap()
}

/// Whether what is sent comes back.
pub(super) async fn echoes(stream: &mut TcpStream) -> bool {
    within(async {
        let mut answer = [0; 5];
        stream.write_all(b"hello").await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
            && answer == *b"hello"
    })
    .await
}

/// Reads on until an error comes, which must be a reset.
pub(super) async fn is_reset(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match within(stream.read_to_end(&mut rest)).await {
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        Ok(_) => false,
    }
}
