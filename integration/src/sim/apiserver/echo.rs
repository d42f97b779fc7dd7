//! The echo ports: they tell a client which server it reached, and from which address.
//!
//! In: plain TCP connections. Out: the line `NAME PEER`, then every byte back until the client closes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::connections::Gated;
use super::state::State;
use crate::sim::access_log::What;
use crate::sim::listen;

/// Serves one listener for ever.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    listen::accept_each(listener, |stream, peer| accepted(stream, peer, &state)).await;
}

fn accepted(stream: TcpStream, peer: SocketAddr, state: &Arc<State>) {
    let Ok(local) = stream.local_addr() else { return };
    // Fails only when the peer has already reset the connection.
    let _ = stream.set_nodelay(true);
    state.log.write(peer, local, What::Echo);
    let Some(stream) = state.echo.admit(stream) else { return };
    let reset = stream.reset_signal();
    let greeting = format!("{} {peer}\n", state.name);
    tokio::spawn(async move {
        tokio::select! {
            // However it ends, there is nobody left to tell.
            _ = echo(stream, greeting) => {}
            () = reset.told() => {}
        }
    });
}

async fn echo(mut stream: Gated, greeting: String) -> io::Result<()> {
    stream.write_all(greeting.as_bytes()).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..length]).await?;
    }
}
