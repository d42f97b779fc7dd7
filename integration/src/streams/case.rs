//! What can happen on one connection. Pure.

use std::time::Duration;

/// The kinds of stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To the server, which answers after the client has closed its half.
    Upload,
    /// From the server, which closes its half first.
    Download,
    /// To the server and back at the same time.
    Echo,
    /// To a server that has closed its half before.
    HalfClosed,
    /// From a server that resets the connection.
    ServerResets,
    /// From a client that resets the connection.
    ClientResets,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Upload, Self::Download, Self::Echo, Self::HalfClosed, Self::ServerResets, Self::ClientResets];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Echo => "echo",
            Self::HalfClosed => "half-closed",
            Self::ServerResets => "server-resets",
            Self::ClientResets => "client-resets",
        }
    }
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// In words.
    pub title: &'static str,
    /// What happens.
    pub kind: Kind,
    /// How many bytes.
    pub bytes: u64,
    /// The reading side reads nothing for so long, and its window closes.
    pub wait: Duration,
    /// The client rests so long after each read or write of 16 KiB.
    pub client_pause: Duration,
    /// The server does.
    pub server_pause: Duration,
}

/// A debug build carries tens of megabytes a second, even beside others.
const SLOWEST: u64 = 5 << 20;

impl Case {
    /// As fast as it goes.
    pub const fn new(title: &'static str, kind: Kind, bytes: u64) -> Self {
        let none = Duration::ZERO;
        Self { title, kind, bytes, wait: none, client_pause: none, server_pause: none }
    }

    const fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    const fn client_pause(mut self, ms: u64) -> Self {
        self.client_pause = Duration::from_millis(ms);
        self
    }

    const fn server_pause(mut self, ms: u64) -> Self {
        self.server_pause = Duration::from_millis(ms);
        self
    }

    /// So many bytes each way, and both at once.
    pub const fn transfers(bytes: u64) -> [Self; 3] {
        [
            Self::new("an upload", Kind::Upload, bytes),
            Self::new("a download", Kind::Download, bytes),
            Self::new("an echo", Kind::Echo, bytes),
        ]
    }

    /// Peers that take their time.
    pub const fn slow() -> [Self; 4] {
        let bytes = 8 << 20;
        [
            Self::new("a slow writer, the client", Kind::Upload, bytes).client_pause(2),
            Self::new("a slow reader, the server", Kind::Upload, bytes).server_pause(2),
            Self::new("a slow writer, the server", Kind::Download, bytes).server_pause(2),
            Self::new("a slow reader, the client", Kind::Download, bytes).client_pause(2),
        ]
    }

    /// Peers that read nothing for a while, of more bytes than all buffers hold.
    pub const fn zero_window(wait: Duration) -> [Self; 2] {
        let bytes = 64 << 20;
        [
            Self::new("a closed window, the server's", Kind::Upload, bytes).wait(wait),
            Self::new("a closed window, the client's", Kind::Download, bytes).wait(wait),
        ]
    }

    /// Halves that close first, and resets.
    pub const fn endings() -> [Self; 4] {
        [
            Self::new("a client that closes its half first", Kind::Upload, 100_000),
            Self::new("a server that closes its half first", Kind::HalfClosed, 1 << 20),
            Self::new("a server that resets midway", Kind::ServerResets, 1 << 20),
            Self::new("a client that resets midway", Kind::ClientResets, 1 << 20),
        ]
    }

    /// Longest that it may take.
    pub fn limit(&self) -> Duration {
        let pieces = u32::try_from(self.bytes >> 14).unwrap_or(u32::MAX);
        let resting = (self.client_pause + self.server_pause) * pieces;
        Duration::from_secs(30) + self.wait * 2 + resting * 10 + Duration::from_secs(self.bytes / SLOWEST)
    }
}
