//! A stream that notes which frames of HTTP/2 the other side sends, and how it ends.
//!
//! In: decrypted bytes on their way to an HTTP/2 client. Out: the same bytes, and [`Seen`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

const HEAD: usize = 9;
const GOAWAY: u8 = 7;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server said that it sends no more.
    Closed,
    /// It was torn.
    Reset,
    /// Anything else.
    Other(io::ErrorKind),
}

impl End {
    /// What the error means. A TCP stream that ends without TLS's own word is closed as well.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            kind => Self::Other(kind),
        }
    }
}

/// What was seen on a connection so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The error code of the first GOAWAY; 0 is no error.
    pub goaway: Option<u32>,
    /// How the connection ended.
    pub end: Option<End>,
}

/// The stream.
pub(super) struct Tap<S> {
    stream: S,
    seen: watch::Sender<Seen>,
    head: Vec<u8>,
    /// Bytes that are left of a frame's payload.
    left: usize,
    /// Payload of the GOAWAY that is being read.
    goaway: Option<Vec<u8>>,
}

impl<S> Tap<S> {
    pub(super) fn new(stream: S) -> (Self, watch::Receiver<Seen>) {
        let (seen, receiver) = watch::channel(Seen::default());
        (Self { stream, seen, head: Vec::new(), left: 0, goaway: None }, receiver)
    }

    fn note(&mut self, byte: u8) {
        if self.left > 0 {
            self.left -= 1;
            if let Some(payload) = &mut self.goaway {
                payload.push(byte);
            }
        } else {
            self.head.push(byte);
            if self.head.len() < HEAD {
                return;
            }
            self.left = self.head[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            self.goaway = (self.head[3] == GOAWAY).then(Vec::new);
            self.head.clear();
        }
        if self.left == 0
            && let Some(payload) = self.goaway.take()
            && let Some(code) = payload.get(4..8).and_then(|code| code.try_into().ok())
        {
            self.seen.send_modify(|seen| seen.goaway = seen.goaway.or(Some(u32::from_be_bytes(code))));
        }
    }

    fn ended(&self, end: End) {
        self.seen.send_modify(|seen| seen.end = seen.end.or(Some(end)));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let room = buffer.remaining() > 0;
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        match &polled {
            Poll::Ready(Ok(())) if room && buffer.filled().len() == before => self.ended(End::Closed),
            Poll::Ready(Ok(())) => buffer.filled()[before..].iter().for_each(|byte| self.note(*byte)),
            Poll::Ready(Err(error)) => self.ended(End::of(error)),
            Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        if let Poll::Ready(Err(error)) = &polled {
            self.ended(End::of(error));
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
