//! The HTTPS port: accept, TLS handshake, HTTP/1.1 or HTTP/2.
//!
//! In: TCP connections. Out: requests for [`super::handler`], each with what is known of its connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::connections::Gated;
use super::handler;
use super::state::State;
use crate::sim::access_log::What;
use crate::sim::listen;

/// What is known of the connection that a request came over.
#[derive(Clone, Copy)]
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    /// The client has shown a certificate, and it was verified.
    pub(super) certified: bool,
}

/// Serves one listener for ever.
pub(super) async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, state: Arc<State>) {
    let acceptor = TlsAcceptor::from(tls);
    listen::accept_each(listener, |stream, peer| accepted(stream, peer, &acceptor, &state)).await;
}

fn accepted(stream: TcpStream, peer: SocketAddr, acceptor: &TlsAcceptor, state: &Arc<State>) {
    let Ok(local) = stream.local_addr() else { return };
    // Small records must leave at once; it fails only when the peer has already reset the connection.
    let _ = stream.set_nodelay(true);
    state.log.write(peer, local, What::Connection);
    let Some(stream) = state.api.admit(stream) else { return };
    let reset = stream.reset_signal();
    let connection = Connection { peer, local, certified: false };
    let (acceptor, state) = (acceptor.clone(), state.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = serve_connection(stream, connection, acceptor, state) => {}
            () = reset.told() => {}
        }
    });
}

async fn serve_connection(stream: Gated, connection: Connection, acceptor: TlsAcceptor, state: Arc<State>) {
    let Ok(stream) = acceptor.accept(stream).await else {
        state.tls_failed.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let certified = stream.get_ref().1.peer_certificates().is_some();
    let connection = Connection { certified, ..connection };
    let service = service_fn(|request| handler::handle(state.clone(), connection, request));
    // A client that goes away in the middle is its own business.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}
