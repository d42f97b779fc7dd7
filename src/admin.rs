//! The socket that `apivip status` asks: HTTP on `RUN_DIR/apivip.sock`, readable by root only.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};

use crate::apiserver::Connection;
use crate::lock::{self, SOCKET_FILE};
use crate::metrics::Metrics;
use crate::model::merge::Origins;
use crate::model::types::{Backend, ServiceKey};
use crate::reconcile::TotalsQuery;
use crate::report::Report;
use crate::status::Status;

/// The reconciler answers between two commits; a commit can wait for another program's.
const TOTALS_TIMEOUT: Duration = Duration::from_secs(2);
/// An asker that says nothing for so long is gone.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("listen on {}", .path.display())]
pub struct AdminError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What the answers are made from.
pub struct Sources {
    /// The Service.
    pub service: ServiceKey,
    /// When the daemon started.
    pub started: Instant,
    /// The reconciler's state.
    pub report: watch::Receiver<Report>,
    /// The API client's state.
    pub connection: watch::Receiver<Connection>,
    /// Where each apiserver was learnt.
    pub origins: watch::Receiver<Origins>,
    /// The daemon's metrics.
    pub metrics: Arc<Metrics>,
    /// Where to ask for connection totals.
    pub totals: mpsc::Sender<TotalsQuery>,
}

/// Binds the socket in `run_dir`, whose lock the caller holds.
pub fn bind(run_dir: &Path) -> Result<UnixListener, AdminError> {
    let path = run_dir.join(SOCKET_FILE);
    lock::bind(&path).map_err(|source| AdminError { path, source })
}

/// Answers until the task is dropped.
pub async fn serve(listener: UnixListener, sources: Sources) {
    let sources = Arc::new(sources);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept on the status socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let sources = Arc::clone(&sources);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let sources = Arc::clone(&sources);
                async move { Ok::<_, Infallible>(answer(&request, &sources).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "serve the status socket");
            }
        });
    }
}

async fn answer(request: &Request<Incoming>, sources: &Sources) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => {
            let totals = totals(sources).await;
            let status = Status::new(
                &sources.service,
                sources.started,
                &sources.report.borrow(),
                &sources.connection.borrow(),
                &sources.origins.borrow(),
                &totals,
                sources.metrics.forwarder(),
            );
            match serde_json::to_vec(&status) {
                Ok(body) => respond(StatusCode::OK, "application/json", body),
                Err(error) => failed(&error),
            }
        }
        (&Method::GET, "/metrics") => {
            let totals = totals(sources).await;
            match sources.metrics.encode(&sources.connection.borrow(), &totals) {
                Ok(body) => respond(
                    StatusCode::OK,
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    body.into_bytes(),
                ),
                Err(error) => failed(&error),
            }
        }
        _ => respond(StatusCode::NOT_FOUND, "text/plain", b"GET /status or /metrics\n".to_vec()),
    }
}

/// Nothing is better than a status that hangs with the kernel.
async fn totals(sources: &Sources) -> BTreeMap<Backend, u64> {
    let (query, answer) = oneshot::channel();
    let asked = async {
        sources.totals.send(query).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(TOTALS_TIMEOUT, asked).await.ok().flatten().unwrap_or_default()
}

fn failed(error: &dyn std::error::Error) -> Response<Full<Bytes>> {
    respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n").into_bytes())
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
