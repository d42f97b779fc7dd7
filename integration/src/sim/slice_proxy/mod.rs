//! Makes a kube-apiserver 1.20 look like one that serves `discovery.k8s.io/v1`.
//!
//! In: HTTPS connections of API clients. Out: the same requests to the real server, with EndpointSlices of `v1beta1`
//! turned into `v1` on the way back, event by event. Each client connection has one upstream connection, and the two
//! live and die together, so that the death of the server looks to a client as it would without a proxy.
//!
//! Bearer tokens pass through; client certificates and upgraded connections (exec, port-forward) cannot.

mod connection;
mod forward;
mod lines;
mod translate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use http::Uri;
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::access_log::AccessLog;
use super::listen;
use crate::tls;
use connection::{Shared, Upstream};

/// What a proxy is started with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Its name in the access log.
    pub name: String,
    /// Where it serves HTTPS.
    pub listen: Vec<SocketAddr>,
    /// Its certificate chain, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The real server: `https://HOST:PORT`.
    pub upstream: String,
    /// Who signs the real server's certificate, PEM.
    pub upstream_ca: PathBuf,
    /// The name that this certificate must carry; the host of `upstream` when absent.
    pub upstream_server_name: Option<String>,
    /// The access log, in the form of the simulated apiserver's.
    pub access_log: Option<PathBuf>,
}

/// A running proxy. Dropping it closes its listeners and connections.
pub struct Bound {
    /// The addresses with their real ports.
    pub addrs: Vec<SocketAddr>,
    tasks: JoinSet<()>,
}

impl Bound {
    /// Serves until the process ends.
    pub async fn run(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Binds every socket and starts to serve.
pub async fn start(config: Config) -> Result<Bound> {
    let tls = tls::server_config(&config.cert, &config.key, None, tls::ALPN_H2_AND_HTTP1)?;
    let shared = Arc::new(Shared {
        acceptor: TlsAcceptor::from(tls),
        upstream: upstream(&config)?,
        log: AccessLog::open(&config.name, config.access_log.as_deref())?,
    });
    let mut tasks = JoinSet::new();
    let mut addrs = Vec::new();
    for addr in &config.listen {
        let listener = listen::bind(*addr)?;
        addrs.push(listener.local_addr()?);
        tasks.spawn(connection::serve(listener, shared.clone()));
    }
    Ok(Bound { addrs, tasks })
}

fn upstream(config: &Config) -> Result<Upstream> {
    let uri: Uri = config.upstream.parse().with_context(|| format!("upstream {}", config.upstream))?;
    ensure!(uri.scheme_str() == Some("https"), "upstream {} is not https://HOST:PORT", config.upstream);
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = config.upstream_server_name.clone().unwrap_or_else(|| host.clone());
    Ok(Upstream {
        port: uri.port_u16().unwrap_or(443),
        host,
        server_name: ServerName::try_from(name.clone()).with_context(|| format!("server name {name:?}"))?,
        http1: tls::client_config(&config.upstream_ca, &[b"http/1.1"])?,
        http2: tls::client_config(&config.upstream_ca, &[b"h2"])?,
    })
}

#[cfg(test)]
mod tests;
