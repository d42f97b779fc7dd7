//! The resources of the admin interface and the answers, the same on every listener.
//!
//! In: requests, and what the parts of the daemon know ([`Sources`]). Out: health checks, metrics, status, page, ruleset.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{interval, timeout};

use super::health::{self, HealthCheck, HealthQuery};
use super::page::{self, SAMPLE_INTERVAL, StateHistory};
use crate::conntrack::lookup;
use crate::kube::Connection;
use crate::metrics::Metrics;
use crate::model::desired::DesiredState;
use crate::model::report::Report;
use crate::model::sources::Origins;
use crate::model::traffic::Traffic;
use crate::model::types::{Backend, ServiceKey};
use crate::reconcile::{TotalsQuery, query_totals};
use crate::selftest::SelfTestResults;
use crate::status::{Parts, Status};
use crate::{metrics, nftables};

/// The reconciler answers between two commits, and during one; reading counters can take it a second.
const TOTALS: Duration = Duration::from_secs(2);
/// Whoever does not answer in this time hangs.
const ALIVE: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const THERE_IS: &str = "available paths: / /livez /readyz /healthz /metrics /status /debug/ruleset; the health checks accept ?verbose and ?exclude=NAME\n";

/// What the answers are made from.
#[derive(Clone)]
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
    /// What the self-test found.
    pub selftests: watch::Receiver<SelfTestResults>,
    /// How often it tests; `None`: never.
    pub selftest_interval: Option<Duration>,
    /// The daemon's metrics.
    pub metrics: Arc<Metrics>,
    /// Answers with connection totals.
    pub totals: mpsc::Sender<TotalsQuery>,
}

impl Sources {
    /// The status now, with these connection totals and what is open, as far as they are known.
    pub fn status(&self, totals: &BTreeMap<Backend, u64>, traffic: Option<&Traffic>) -> Status {
        Status::new(&Parts {
            service: &self.service,
            started: self.started,
            report: &self.report.borrow(),
            connection: &self.connection.borrow(),
            origins: &self.origins.borrow(),
            totals,
            traffic,
            forwarder: self.metrics.forwarder(),
            selftests: &self.selftests.borrow(),
        })
    }
}

/// Answers requests.
pub(super) struct Handler {
    sources: Sources,
    history: Mutex<StateHistory>,
    traffic_cache: TrafficCache,
}

type AdminResponse = Response<Full<Bytes>>;

impl Handler {
    pub fn new(sources: Sources) -> Self {
        Self { sources, history: Mutex::default(), traffic_cache: TrafficCache::default() }
    }

    /// Takes samples for the page, for ever.
    pub async fn sample(&self) {
        let mut ticks = interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.history().sample(&self.sources.report.borrow());
        }
    }

    /// `private`: a loopback address is asked for, by whatever name.
    pub async fn answer(&self, request: &Request<Incoming>, private: bool) -> AdminResponse {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if private && !is_own_name(host) {
            let text = "use an IP address or localhost as the host: another host name may belong to a web page of another origin\n";
            return respond(StatusCode::MISDIRECTED_REQUEST, TEXT, text);
        }
        // What HEAD must not send, the server leaves out.
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer =
                respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD are supported\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let query = request.uri().query();
        match request.uri().path() {
            // A page reloads each second for as long as it is open, and shows no traffic.
            "/" => self.page(&self.status(None).await),
            "/livez" => self.livez(query).await,
            "/readyz" => self.readyz("readyz", query).await,
            "/healthz" => self.readyz("healthz", query).await,
            "/metrics" => self.metrics(request).await,
            "/status" => match serde_json::to_string(&self.status(self.traffic().await).await) {
                Ok(text) => respond(StatusCode::OK, "application/json", text),
                Err(error) => failed(&error),
            },
            "/debug/ruleset" => match &self.sources.report.borrow().programmed {
                Some(state) => {
                    respond(StatusCode::OK, TEXT, nftables::script(&nftables::build::table(state)))
                }
                None => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "nothing is programmed yet\n"),
            },
            _ => respond(StatusCode::NOT_FOUND, TEXT, THERE_IS),
        }
    }

    /// The policy forbids whatever the document does not bring along.
    fn page(&self, status: &Status) -> AdminResponse {
        let nonce = STANDARD.encode(rand::random::<[u8; 16]>());
        let html = page::page(status, &self.history(), &hostname(), &nonce);
        let mut answer = respond(StatusCode::OK, "text/html; charset=utf-8", html);
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }

    /// In OpenMetrics, unless only the older form is asked for.
    async fn metrics(&self, request: &Request<Incoming>) -> AdminResponse {
        let totals = self.totals(TOTALS).await.unwrap_or_default();
        let verdict = self.sources.status(&totals, None).verdict;
        let text = self.sources.metrics.encode(verdict, &self.sources.connection.borrow(), &totals);
        let accepted =
            request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let older = accepted.contains("text/plain") && !accepted.contains("openmetrics");
        match text {
            Ok(text) if older => respond(StatusCode::OK, CLASSIC, metrics::prometheus_text(&text)),
            Ok(text) => respond(StatusCode::OK, OPEN_METRICS, text),
            Err(error) => failed(&error),
        }
    }

    async fn livez(&self, query: Option<&str>) -> AdminResponse {
        health_response("livez", query, &[self.reconciler().await])
    }

    async fn readyz(&self, endpoint: &str, query: Option<&str>) -> AdminResponse {
        let mut checks = vec![self.reconciler().await];
        checks.push(("dataplane", health::dataplane(&self.sources.report.borrow())));
        if let Some(interval) = self.sources.selftest_interval {
            let results = self.sources.selftests.borrow();
            checks.push(("selftest", health::selftest(&results, interval, Instant::now())));
        }
        health_response(endpoint, query, &checks)
    }

    /// The loop that owns the rules goes on.
    async fn reconciler(&self) -> HealthCheck {
        let outcome = match self.totals(ALIVE).await {
            Some(_) => Ok(()),
            None => Err(format!("no answer within {} s", ALIVE.as_secs())),
        };
        ("reconciler", outcome)
    }

    async fn traffic(&self) -> Option<Arc<Traffic>> {
        let programmed = self.sources.report.borrow().programmed.clone();
        self.traffic_cache.read(&*programmed?).await
    }

    async fn status(&self, traffic: Option<Arc<Traffic>>) -> Status {
        // A status without totals is better than one that hangs with the kernel.
        let totals = self.totals(TOTALS).await.unwrap_or_default();
        self.sources.status(&totals, traffic.as_deref())
    }

    async fn totals(&self, limit: Duration) -> Option<BTreeMap<Backend, u64>> {
        query_totals(&self.sources.totals, limit).await
    }

    fn history(&self) -> MutexGuard<'_, StateHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn health_response(endpoint: &str, query: Option<&str>, checks: &[HealthCheck]) -> AdminResponse {
    let (well, text) = HealthQuery::new(query).answer(endpoint, checks);
    respond(if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, TEXT, text)
}

/// DNS rebinding: a web page can let a name of its own resolve to loopback, and would read the answers.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok()
        || name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok()
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn failed(error: &dyn std::error::Error) -> AdminResponse {
    respond(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> AdminResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// How long an answer is reused: a busy conntrack takes tens of milliseconds, and there may be many clients.
const TRAFFIC_FRESH: Duration = Duration::from_secs(1);
/// A status without traffic is better than a late one.
const TRAFFIC_TIMEOUT: Duration = Duration::from_secs(1);

/// What open connections have carried. The kernel is asked at most once a second, on a thread where that may block.
#[derive(Default)]
struct TrafficCache {
    latest: tokio::sync::Mutex<Option<(Instant, Option<Arc<Traffic>>)>>,
}

impl TrafficCache {
    /// What goes through the rules of `state`, at most a second ago.
    pub async fn read(&self, state: &DesiredState) -> Option<Arc<Traffic>> {
        let mut latest = self.latest.lock().await;
        if let Some((at, traffic)) = latest.as_ref()
            && at.elapsed() < TRAFFIC_FRESH
        {
            return traffic.clone();
        }
        let wanted: BTreeSet<_> = state
            .frontends
            .iter()
            .flat_map(|f| f.backends.iter().chain(&f.failed).map(|backend| (f.vip, backend.port())))
            .collect();
        let traffic = match timeout(TRAFFIC_TIMEOUT, spawn_blocking(move || lookup::traffic(&wanted))).await {
            Ok(Ok(Ok(traffic))) => Some(Arc::new(traffic)),
            Ok(Ok(Err(error))) => {
                tracing::debug!(
                    event = %"conntrack_read_failed", %error,
                    "Failed to read bytes of connections from conntrack"
                );
                None
            }
            Ok(Err(_)) => None,
            Err(_) => {
                tracing::debug!(
                    event = %"conntrack_read_timeout",
                    "Timed out reading bytes of connections from conntrack"
                );
                None
            }
        };
        *latest = Some((Instant::now(), traffic.clone()));
        traffic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_header_with_foreign_name_is_rejected() {
        for own in ["", "localhost", "LOCALHOST:10299", "127.0.0.1:10299", "[::1]:10299", "::1", "192.0.2.1"]
        {
            assert!(is_own_name(own), "{own:?}");
        }
        for other in
            ["example.com", "example.com:10299", "localhost.example.com", "127.0.0.1.example.com", "a:b"]
        {
            assert!(!is_own_name(other), "{other:?}");
        }
    }
}
