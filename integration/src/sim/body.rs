//! Response bodies: one piece, or a stream that another task feeds.
//!
//! In: bytes. Out: a body for hyper. The stream holds at most a few pieces, so a slow reader slows the writer down
//! instead of filling memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Pieces that may wait for a slow reader.
const QUEUE: usize = 16;

/// The body of an answer.
pub enum AnswerBody {
    /// Known as a whole.
    Full(Option<Bytes>),
    /// Arrives piece by piece; an error resets the stream.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl AnswerBody {
    /// A streamed body and the end that feeds it; dropping that end finishes the body cleanly.
    pub fn channel() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (sender, Self::Stream(receiver))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(receiver) => {
                receiver.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A complete answer.
pub fn full(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<AnswerBody> {
    let body = body.into();
    let body = AnswerBody::Full((!body.is_empty()).then_some(body));
    with_type(status, content_type, body)
}

/// An answer whose body has yet to arrive.
pub fn streamed(content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    with_type(StatusCode::OK, content_type, body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    answer
}
