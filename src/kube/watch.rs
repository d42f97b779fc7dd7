//! Reads the changes of one collection as they happen.
//!
//! In: a response body that may last for minutes. Out: decoded events in order, and how the watch ended.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use rand::Rng;
use tokio::time::timeout;

use super::decode::{self, Event};
use super::error::ApiError;
use super::frames::{Lines, MAX_OBJECT_BYTES, TooLong};
use super::resource::Asked;
use crate::model::types::ServiceKey;

/// How long the server is asked to keep a watch open, in seconds. Long enough to cost nothing, short enough that a
/// watch which went quiet for a reason unknown heals by itself.
const WATCH_SECONDS: f64 = 300.0;

/// How long after that the server may stay silent before it is given up.
const GRACE: Duration = Duration::from_secs(30);

/// `timeoutSeconds` of the next watch: 300 with 10 % to either side, so that nodes do not ask together.
pub(super) fn seconds(rng: &mut impl Rng) -> u64 {
    (WATCH_SECONDS * rng.random_range(0.9..=1.1)) as u64
}

/// The longest silence of a watch that was asked for `seconds`.
pub(super) fn silence(seconds: u64) -> Duration {
    Duration::from_secs(seconds) + GRACE
}

/// Hands every event of `body` to `each`, with the moment at which its last byte arrived. Returns when the server ends
/// the watch in good order.
pub(super) async fn read<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    asked: &Asked,
    key: &ServiceKey,
    silence: Duration,
    broken: impl Fn(B::Error) -> ApiError,
    mut each: impl FnMut(Event, Instant) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let mut lines = Lines::new(MAX_OBJECT_BYTES);
    loop {
        let frame = match timeout(silence, body.frame()).await {
            Ok(Some(frame)) => frame.map_err(&broken)?,
            Ok(None) => break,
            Err(_) => return Err(ApiError::Silent { asked: asked.clone(), limit: silence }),
        };
        let Some(chunk) = frame.data_ref() else { continue };
        let received = Instant::now();
        let taken = lines.push(chunk, |line| {
            let event = decode::event(asked.resource, key, line)
                .map_err(|error| Stop::Api(ApiError::decode(asked, &error)))?;
            each(event, received).map_err(Stop::Api)
        });
        match taken {
            Ok(()) => {}
            Err(Stop::Api(error)) => return Err(error),
            Err(Stop::TooLong(error)) => return Err(ApiError::too_long(asked, error)),
        }
    }
    match lines.unfinished() {
        0 => Ok(()),
        bytes => Err(ApiError::Protocol {
            asked: asked.clone(),
            problem: format!("ended the watch in the middle of an event, after {bytes} bytes of it"),
        }),
    }
}

/// What ends the reading of lines.
enum Stop {
    Api(ApiError),
    TooLong(TooLong),
}

impl From<TooLong> for Stop {
    fn from(error: TooLong) -> Self {
        Self::TooLong(error)
    }
}

#[cfg(test)]
mod tests;
