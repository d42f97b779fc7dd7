//! The access log of a simulated server: one JSON line per connection and per request.
//!
//! In: what was seen. Out: lines that a reader finds complete as soon as the peer has its answer, because each is
//! one `write` of its own.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Microseconds since 1970.
    pub time_us: u64,
    /// Name of the server that wrote the line.
    pub server: String,
    /// The client's address as the server saw it.
    pub peer: SocketAddr,
    /// The server's own address.
    pub local: SocketAddr,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What a line is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A TCP connection was accepted on the API port.
    Connection,
    /// A TCP connection was accepted on an echo port.
    Echo,
    /// A request arrived.
    Request {
        /// HTTP method.
        method: String,
        /// Path with query.
        path: String,
        /// `HTTP/1.1` or `HTTP/2.0`.
        version: String,
        /// `User-Agent`, empty when absent.
        user_agent: String,
    },
}

/// Where the lines go; clones share one file.
#[derive(Clone)]
pub struct AccessLog {
    server: String,
    file: Option<Arc<Mutex<File>>>,
}

impl AccessLog {
    /// Appends to `path`; without a path nothing is written.
    pub fn open(server: &str, path: Option<&Path>) -> Result<Self> {
        let file = match path {
            None => None,
            Some(path) => {
                let file = File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("open access log {}", path.display()))?;
                Some(Arc::new(Mutex::new(file)))
            }
        };
        Ok(Self { server: server.to_owned(), file })
    }

    /// Writes one line; a full disk is reported on standard error and does not stop the server.
    pub fn write(&self, peer: SocketAddr, local: SocketAddr, what: What) {
        let Some(file) = &self.file else { return };
        let entry = Entry { time_us: now_us(), server: self.server.clone(), peer, local, what };
        let written = serde_json::to_vec(&entry).map_err(std::io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
        });
        if let Err(error) = written {
            eprintln!("write access log: {error}");
        }
    }
}

/// Reads a log back; a last line without its newline is still being written and is left out.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("read access log {}", path.display()))?;
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("access log line {line:?}")))
        .collect()
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
