//! How a server of these tests serves, and the thread on which it does.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use super::body::AnswerBody;

/// A client that hangs on to a hung server leaves before that.
const HANG: Duration = Duration::from_secs(300);
const PIECE: &[u8] = &[b'x'; 64 << 10];
/// So long its tasks may take to end.
const END: Duration = Duration::from_secs(5);

/// How it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Well,
    /// It takes connections and says nothing.
    Hangs,
    /// With so many bytes in each body.
    Floods(u64),
}

impl Manner {
    /// Whether it says nothing; then this takes longer than any client waits.
    pub(super) async fn hung(self) -> bool {
        if self == Self::Hangs {
            tokio::time::sleep(HANG).await;
        }
        self == Self::Hangs
    }

    /// A body without a meaning, if it floods.
    pub(super) fn flood(self) -> Option<AnswerBody> {
        let Self::Floods(bytes) = self else { return None };
        let (sender, body) = AnswerBody::channel();
        tokio::spawn(async move {
            for _ in 0..bytes / PIECE.len() as u64 {
                if sender.send(Ok(Bytes::from_static(PIECE))).await.is_err() {
                    return;
                }
            }
        });
        Some(body)
    }
}

/// The runtime of one server. Dropping it ends the server.
#[derive(Debug)]
pub(super) struct Serving(Option<Runtime>);

impl Serving {
    pub(super) fn new(runtime: Runtime) -> Self {
        Self(Some(runtime))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(END);
        }
    }
}

/// One thread for one server.
pub(super) fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().context("start the runtime")
}
