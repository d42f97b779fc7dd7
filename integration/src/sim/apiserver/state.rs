//! What the tasks of one simulated apiserver share.
//!
//! In: changes from the control socket and counts from the handlers. Out: the store and faults as they are now.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;

use super::Config;
use super::connections::Connections;
use super::store::Store;
use super::watches::Watches;
use crate::sim::access_log::AccessLog;
use crate::sim::protocol::{Faults, RequestCount};
use crate::tls;

/// Different paths that are counted one by one; later ones count as `other`.
const MAX_PATHS: usize = 500;

/// The shared state.
pub(super) struct State {
    pub(super) name: String,
    /// Accepted bearer tokens; `None` when nobody is asked for credentials.
    pub(super) tokens: Option<Vec<String>>,
    /// Judges client certificates; without it none is good.
    pub(super) client_verifier: Option<Arc<dyn ClientCertVerifier>>,
    pub(super) api: Arc<Connections>,
    pub(super) echo: Arc<Connections>,
    pub(super) tls_done: AtomicU64,
    pub(super) tls_failed: AtomicU64,
    /// Turns true when the server takes no more connections and ends those that it has.
    pub(super) closing: watch::Sender<bool>,
    pub(super) watches: Arc<Watches>,
    pub(super) log: AccessLog,
    pub(super) faults: watch::Sender<Faults>,
    tls: Mutex<Arc<ServerConfig>>,
    store: Mutex<Store>,
    changed: watch::Sender<u64>,
    requests: Mutex<BTreeMap<(String, String), u64>>,
}

impl State {
    pub(super) fn new(config: &Config, tls: Arc<ServerConfig>, log: AccessLog) -> Result<Self> {
        let asks = config.client_ca.is_some() || !config.tokens.is_empty();
        Ok(Self {
            name: config.name.clone(),
            tokens: asks.then(|| config.tokens.clone()),
            client_verifier: config.client_ca.as_deref().map(tls::client_verifier).transpose()?,
            api: Arc::default(),
            echo: Arc::default(),
            tls_done: AtomicU64::new(0),
            tls_failed: AtomicU64::new(0),
            closing: watch::Sender::new(false),
            watches: Arc::default(),
            log,
            faults: watch::Sender::new(Faults::default()),
            tls: Mutex::new(tls),
            store: Mutex::default(),
            changed: watch::Sender::new(0),
            requests: Mutex::default(),
        })
    }

    /// What the next handshake is done with.
    pub(super) fn tls(&self) -> Arc<ServerConfig> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another certificate from the next handshake on.
    pub(super) fn show(&self, tls: Arc<ServerConfig>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    /// Reads the store.
    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the store and wakes every watch.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store();
        let result = change(&mut store);
        let version = store.version();
        drop(store);
        self.changed.send_replace(version);
        result
    }

    /// Ticks at every change of the store.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Counts one request.
    pub(super) fn count(&self, verb: &str, path: &str) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (verb.to_owned(), path.to_owned());
        if requests.len() >= MAX_PATHS && !requests.contains_key(&key) {
            key.1 = "other".to_owned();
        }
        *requests.entry(key).or_default() += 1;
    }

    /// The counts so far.
    pub(super) fn request_counts(&self) -> Vec<RequestCount> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests
            .iter()
            .map(|((verb, path), count)| RequestCount {
                verb: verb.clone(),
                path: path.clone(),
                count: *count,
            })
            .collect()
    }
}
