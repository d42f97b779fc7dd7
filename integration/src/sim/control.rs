//! The client of a simulated apiserver's control socket.
//!
//! In: the socket's path. Out: one method per order; each opens a connection of its own, so a client can be cloned
//! and used from any task.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::protocol::{
    Bump, Canned, Certificate, Changed, Delete, Faults, Hang, Inject, Injected, Injection, Put, Reset,
    Resource, Stats,
};
use crate::pki::KeyFiles;

/// The longest that an order may take: the server does nothing slow for any of them.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Gives orders to one simulated apiserver.
#[derive(Clone, Debug)]
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// The server whose control socket is `path`; nothing is connected yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the server answers.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let ready = async {
            while self.stats().await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(timeout, ready)
            .await
            .with_context(|| format!("wait for the control socket {}", self.path.display()))
    }

    /// Stores an object; the version must be above the store's, and is the next one when absent.
    pub async fn put(&self, object: &Value, resource_version: Option<u64>) -> Result<u64> {
        self.change("/put", &Put { resource_version, object: object.clone() }).await
    }

    /// Removes an object.
    pub async fn delete(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
        resource_version: Option<u64>,
    ) -> Result<u64> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.change("/delete", &Delete { resource_version, resource, namespace, name }).await
    }

    /// Moves the store's version on without any change of these objects.
    pub async fn bump(&self, resource_version: Option<u64>) -> Result<u64> {
        self.change("/bump", &Bump { resource_version }).await
    }

    /// Expires every version below the present one.
    pub async fn drop_history(&self) -> Result<u64> {
        self.change("/drop-history", &()).await
    }

    /// The standing faults.
    pub async fn faults(&self) -> Result<Faults> {
        self.call(Method::GET, "/faults", &()).await
    }

    /// Replaces the standing faults; `Faults::default()` heals the server.
    pub async fn set_faults(&self, faults: &Faults) -> Result<()> {
        self.call::<Faults>(Method::POST, "/faults", faults).await.map(drop)
    }

    /// Changes some of the standing faults.
    pub async fn adjust(&self, change: impl FnOnce(&mut Faults)) -> Result<()> {
        let mut faults = self.faults().await?;
        change(&mut faults);
        self.set_faults(&faults).await
    }

    /// Answers API requests with this from now on; `None` ends it.
    pub async fn answer(&self, answer: Option<Canned>) -> Result<()> {
        self.adjust(|faults| faults.answer = answer).await
    }

    /// The HTTP status of `/readyz`.
    pub async fn readyz(&self, status: u16) -> Result<()> {
        self.adjust(|faults| faults.readyz = status).await
    }

    /// Delays every answer.
    pub async fn delay(&self, delay: Duration) -> Result<()> {
        let delay_ms = u64::try_from(delay.as_millis())?;
        self.adjust(|faults| faults.delay_ms = delay_ms).await
    }

    /// Writes into every open watch (of one resource); returns how many there were.
    pub async fn inject(&self, resource: Option<Resource>, what: Injection) -> Result<usize> {
        let injected: Injected = self.call(Method::POST, "/inject", &Inject { resource, what }).await?;
        Ok(injected.watches)
    }

    /// Ends every watch cleanly; returns how many there were.
    pub async fn close_watches(&self) -> Result<usize> {
        self.inject(None, Injection::Close).await
    }

    /// Resets every API connection, and echo connections where `echo` says so.
    pub async fn reset(&self, echo: bool) -> Result<()> {
        self.call::<Reset>(Method::POST, "/reset", &Reset { echo }).await.map(drop)
    }

    /// Falls silent on every API connection (and echo connection), or speaks again.
    pub async fn hang(&self, on: bool, echo: bool) -> Result<()> {
        self.call::<Hang>(Method::POST, "/hang", &Hang { on, echo }).await.map(drop)
    }

    /// Shows this certificate from the next handshake on.
    pub async fn certificate(&self, files: &KeyFiles) -> Result<()> {
        let order = Certificate { cert: files.certificate.clone(), key: files.key.clone() };
        self.call::<Certificate>(Method::POST, "/certificate", &order).await.map(drop)
    }

    /// What the server counts.
    pub async fn stats(&self) -> Result<Stats> {
        self.call(Method::GET, "/stats", &()).await
    }

    async fn change(&self, order: &str, body: &impl Serialize) -> Result<u64> {
        let changed: Changed = self.call(Method::POST, order, body).await?;
        Ok(changed.resource_version)
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        order: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(method, order, serde_json::to_vec(body)?));
        let answer = match answer.await {
            Ok(answer) => answer,
            Err(_) => bail!("order {order} to {}: no answer in {TIMEOUT:?}", self.path.display()),
        };
        let answer = answer.with_context(|| format!("order {order} to {}", self.path.display()))?;
        serde_json::from_slice(&answer).with_context(|| format!("read the answer to {order}"))
    }

    async fn exchange(&self, method: Method, order: &str, body: Vec<u8>) -> Result<Bytes> {
        let stream = UnixStream::connect(&self.path).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(order)
            .header(http::header::HOST, "control")
            .header(http::header::CONNECTION, "close")
            .body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            anyhow::ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
            Ok(body)
        };
        // The connection has to be driven while the exchange waits for it.
        let (answer, _) = tokio::join!(exchange, connection);
        answer
    }
}
