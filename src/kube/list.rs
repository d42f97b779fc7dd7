//! Reads one collection whole.
//!
//! In: a client, and how fresh the list must be. Out: the decoded list, and when its last byte arrived.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::timeout;

use super::client::Client;
use super::decode::{self, Listed};
use super::error::ApiError;
use super::frames::{MAX_OBJECT_BYTES, TooLong};
use super::resource::{Asked, ListFrom, Resource};
use crate::model::types::ServiceKey;

/// How long the body of a list may take once its head is there: some kilobytes, so this is a hung server.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// Lists `resource` of the Service `key`.
pub(super) async fn list(
    client: &Client,
    resource: Resource,
    key: &ServiceKey,
    from: &ListFrom,
) -> Result<(Listed, Instant), ApiError> {
    let asked = Asked { verb: "list", resource, namespace: key.namespace.clone() };
    let response = client.get(&asked, &resource.list_target(key, from)).await?;
    let broken = |error: hyper::Error| client.broken(&asked, &error);
    let body = match timeout(BODY_TIMEOUT, collect(response.into_body(), &asked, broken)).await {
        Ok(body) => body?,
        Err(_) => return Err(ApiError::Silent { asked, limit: BODY_TIMEOUT }),
    };
    let received = Instant::now();
    let listed = decode::list(resource, key, &body).map_err(|error| ApiError::decode(&asked, &error))?;
    Ok((listed, received))
}

/// Reads a body up to the bound.
async fn collect<B: Body<Data = Bytes> + Unpin>(
    mut body: B,
    asked: &Asked,
    broken: impl Fn(B::Error) -> ApiError,
) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(&broken)?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_OBJECT_BYTES {
            return Err(ApiError::too_long(asked, TooLong { limit: MAX_OBJECT_BYTES }));
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}
