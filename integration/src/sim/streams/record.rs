//! What one side saw of a stream.
//!
//! In: reads and writes. Out: a [`Record`] as one line of JSON.

use std::io::{self, ErrorKind};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::pattern::Pattern;

/// Large enough that a system call costs little beside the bytes that it moves.
const CHUNK: usize = 256 << 10;

/// One side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The connection's number.
    pub id: u64,
    /// Bytes that arrived and were right.
    pub received: u64,
    /// Whether a wrong byte arrived.
    pub wrong: bool,
    /// Bytes that were written.
    pub sent: u64,
    /// How it ended.
    pub end: End,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The other side closed its half.
    Closed,
    /// The other side reset it.
    Reset,
    /// This side reset it.
    Aborted,
    /// Something else, in words.
    Failed(String),
}

impl Record {
    /// Before anything happened.
    pub fn new(id: u64) -> Self {
        Self { id, received: 0, wrong: false, sent: 0, end: End::Closed }
    }

    /// Reads the pattern to the end of the stream, with a pause after each read of at most `chunk` bytes.
    pub async fn read(&mut self, from: &mut (impl AsyncRead + Unpin), pace: Pace) {
        let mut pattern = Pattern::new(self.id);
        let mut buffer = vec![0; pace.chunk];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) => return,
                Ok(n) => self.wrong |= !pattern.check(&buffer[..n]),
                Err(error) => return self.end = End::from(&error),
            }
            self.received = pattern.position();
            if self.wrong {
                return;
            }
            pace.rest().await;
        }
    }

    /// Writes so many bytes of the pattern, with a pause after each write.
    pub async fn write(&mut self, to: &mut (impl AsyncWrite + Unpin), bytes: u64, pace: Pace) {
        let mut pattern = Pattern::new(self.id);
        let mut buffer = vec![0; pace.chunk];
        while self.sent < bytes {
            let piece = (bytes - self.sent).min(buffer.len() as u64) as usize;
            pattern.fill(&mut buffer[..piece]);
            if let Err(error) = to.write_all(&buffer[..piece]).await {
                return self.end = End::from(&error);
            }
            self.sent = pattern.position();
            pace.rest().await;
        }
    }
}

/// How fast a side reads or writes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes at a time.
    pub chunk: usize,
    /// Time between two times.
    pub pause: Duration,
}

impl Pace {
    /// As fast as it goes.
    pub const FAST: Self = Self { chunk: CHUNK, pause: Duration::ZERO };

    /// With pauses, and little at a time, unless there are none.
    pub fn with_pause(pause: Duration) -> Self {
        if pause.is_zero() { Self::FAST } else { Self { chunk: 16 << 10, pause } }
    }

    async fn rest(self) {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
    }
}

impl From<&io::Error> for End {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Failed(error.to_string()),
        }
    }
}
