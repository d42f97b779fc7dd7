//! One simulated kube-apiserver.
//!
//! In: TLS connections of API clients, plain TCP connections to the echo ports, and commands on a unix socket.
//! Out: answers in the form of a real server, or in the form of the fault that was ordered, and an access log.
//! Every process has a store of its own; the test writes the same objects into each.

pub mod connections;
pub mod route;
pub mod selector;
pub mod status;
pub mod store;

mod activity;
mod admin;
mod echo;
mod handler;
mod identity;
mod server;
mod state;
mod watch;
mod watches;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

use super::access_log::AccessLog;
use super::listen;
use super::protocol::{Inject, Injection};
use crate::tls;
use state::State;

/// How long requests under way may take once the server has stopped to accept; then watches are ended.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(60);
/// How long the ends of those watches may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What a simulated apiserver is started with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Its name, in greetings, logs and statistics.
    pub name: String,
    /// Where it serves HTTPS.
    pub listen: Vec<SocketAddr>,
    /// Its certificate chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who signs client certificates; absent means that none is good. They are asked for in any case.
    pub client_ca: Option<PathBuf>,
    /// Bearer tokens that are accepted. Without tokens and client CA nobody is asked for credentials.
    pub tokens: Vec<String>,
    /// The control socket.
    pub control: PathBuf,
    /// The access log.
    pub access_log: Option<PathBuf>,
    /// Plain TCP ports that greet and echo.
    pub echo: Vec<SocketAddr>,
}

/// A running server. Dropping it closes its sockets and resets its connections, as a killed process does.
pub struct Bound {
    /// The HTTPS addresses with their real ports.
    pub api: Vec<SocketAddr>,
    /// The echo addresses with their real ports.
    pub echo: Vec<SocketAddr>,
    state: Arc<State>,
    tasks: JoinSet<()>,
}

impl Bound {
    /// Ends as a kube-apiserver does: unready for `delay` while it serves on, then no more connections, GOAWAY to those that
    /// speak HTTP/2, the end of those that carry no request, and the requests under way go on. What is left of them after
    /// a minute is ended cleanly.
    pub async fn shut_down(self, delay: Duration) {
        self.state.faults.send_modify(|faults| faults.readyz = 500);
        tokio::time::sleep(delay).await;
        self.state.closing.send_replace(true);
        if !self.finished(SHUTDOWN_GRACE).await {
            self.state.watches.inject(&Inject { resource: None, what: Injection::Close });
            self.finished(LAST_WORDS).await;
        }
    }

    /// Whether no connection is left, waiting for that as long as `limit`.
    async fn finished(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.state.api.opened().open > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.tasks.abort_all();
        self.state.api.reset_all();
        self.state.echo.reset_all();
    }
}

/// Binds every socket and starts to serve.
pub async fn start(config: Config) -> Result<Bound> {
    let tls = tls::curious_server_config(&config.cert, &config.key, tls::ALPN_H2_AND_HTTP1)?;
    let log = AccessLog::open(&config.name, config.access_log.as_deref())?;
    let state = Arc::new(State::new(&config, tls, log)?);
    let mut tasks = JoinSet::new();
    let mut api = Vec::new();
    for addr in &config.listen {
        let listener = listen::bind(*addr)?;
        api.push(listener.local_addr()?);
        tasks.spawn(server::serve(listener, state.clone()));
    }
    let mut echo = Vec::new();
    for addr in &config.echo {
        let listener = listen::bind(*addr)?;
        echo.push(listener.local_addr()?);
        tasks.spawn(echo::serve(listener, state.clone()));
    }
    tasks.spawn(admin::serve(control_socket(&config)?, state.clone()));
    Ok(Bound { api, echo, state, tasks })
}

/// A socket file left by an earlier process is in the way of bind, and nobody else may own this path.
fn control_socket(config: &Config) -> Result<UnixListener> {
    let path = &config.control;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove old control socket {}", path.display()));
        }
        _ => {}
    }
    UnixListener::bind(path).with_context(|| format!("listen on control socket {}", path.display()))
}

#[cfg(test)]
mod loopback_tests;
