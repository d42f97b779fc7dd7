//! A watch on its way back: complete lines are translated, half a line waits for its rest.
//!
//! In: the upstream body, in whatever pieces it comes. Out: a body with the same lines translated, each passed on as
//! soon as it is complete; an error of the upstream body breaks this one too.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};

use super::translate;

/// A line beyond this is no event of an API server (etcd takes objects up to 1.5 MiB).
const MAX_LINE: usize = 64 << 20;

/// Collects bytes until a line is complete.
#[derive(Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes and returns the lines that they complete, translated.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
            self.rest.extend_from_slice(bytes);
            return match self.rest.len() > MAX_LINE {
                true => Err(io::Error::other("an event without end")),
                false => Ok(Vec::new()),
            };
        };
        self.rest.extend_from_slice(&bytes[..end]);
        let complete = std::mem::replace(&mut self.rest, bytes[end + 1..].to_vec());
        let mut out = Vec::with_capacity(complete.len() + 1);
        for line in complete.split(|byte| *byte == b'\n') {
            out.extend_from_slice(&translate::event_line(line));
            out.push(b'\n');
        }
        Ok(out)
    }

    /// What came after the last newline.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }
}

/// The translated body.
pub(super) struct LinesBody {
    inner: Incoming,
    lines: Lines,
}

impl LinesBody {
    pub(super) fn new(inner: Incoming) -> Self {
        Self { inner, lines: Lines::default() }
    }
}

impl Body for LinesBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            let out = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => match self.lines.push(&bytes) {
                        Ok(out) if out.is_empty() => continue,
                        out => out,
                    },
                    // Trailers say nothing about events.
                    Err(_) => continue,
                },
                None => match self.lines.finish() {
                    rest if rest.is_empty() => return Poll::Ready(None),
                    rest => Ok(rest),
                },
            };
            return Poll::Ready(Some(out.map(|out| Frame::data(out.into()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_when_complete() {
        let mut lines = Lines::default();
        let event =
            br#"{"type":"ADDED","object":{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1beta1"}}"#;
        assert!(lines.push(&event[..40]).unwrap().is_empty());
        let out = lines.push(&[&event[40..], b"\nnot json\n{\"ty"].concat()).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains(r#""apiVersion":"discovery.k8s.io/v1""#), "{out}");
        assert!(out.ends_with("\nnot json\n"), "{out}");
        assert_eq!(lines.finish(), b"{\"ty");
        assert!(lines.finish().is_empty());
    }
}
