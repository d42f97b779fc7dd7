//! The HTTPS port: accept, TLS handshake, HTTP/1.1 or HTTP/2.
//!
//! In: TCP connections. Out: requests for [`super::handler`], each with what is known of its connection. A connection that
//! has to end is ended as kube-apiserver does it: GOAWAY over HTTP/2, and what is under way goes on.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::activity::{self, Activity};
use super::connections::Gated;
use super::handler;
use super::identity::{self, Connection};
use super::state::State;
use crate::sim::access_log::What;
use crate::sim::listen;

/// Serves one listener until the server shuts down.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut closing = state.closing.subscribe();
    tokio::select! {
        () = listen::accept_each(listener, |stream, peer| accepted(stream, peer, &state)) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

fn accepted(stream: TcpStream, peer: SocketAddr, state: &Arc<State>) {
    let Ok(local) = stream.local_addr() else { return };
    // Small records must leave at once; it fails only when the peer has already reset the connection.
    let _ = stream.set_nodelay(true);
    state.log.write(peer, local, What::Connection);
    let Some(stream) = state.api.admit(stream) else { return };
    let reset = stream.reset_signal();
    let state = state.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = serve_connection(stream, peer, local, state) => {}
            () = reset.told() => {}
        }
    });
}

async fn serve_connection(stream: Gated, peer: SocketAddr, local: SocketAddr, state: Arc<State>) {
    let shaken = TlsAcceptor::from(state.tls()).accept(stream);
    let Ok(Ok(stream)) = tokio::time::timeout(activity::FIRST_REQUEST, shaken).await else {
        state.tls_failed.fetch_add(1, Ordering::Relaxed);
        return;
    };
    state.tls_done.fetch_add(1, Ordering::Relaxed);
    let tls = stream.get_ref().1;
    let connection = Connection {
        peer,
        local,
        certificate: identity::certificate(state.client_verifier.as_deref(), tls.peer_certificates()),
        activity: Arc::new(Activity::new(tls.alpn_protocol() == Some(b"h2"))),
        stranger: Arc::default(),
    };
    let service = service_fn(|request| handler::handle(state.clone(), connection.clone(), request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().half_close(state.faults.borrow().half_close);
    let mut closing = state.closing.subscribe();
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that goes away in the middle is its own business.
        _ = served.as_mut() => return,
        _ = closing.wait_for(|closing| *closing) => {}
        () = connection.stranger.notified() => {}
        () = connection.activity.idle() => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = served.await;
}
