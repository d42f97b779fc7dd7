//! The bytes of lists and watches -> [`Change`]. Pure.
//!
//! In: chunks of a watch as the network delivers them, cut into lines with a bound on what one may hold; one whole
//! line or body, and the collection that it was asked of. Out: what it changes, or why it is not what the API
//! promises. Objects that the selectors should have left out are dropped here.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::resource::Resource;
use crate::model::objects::{EndpointSlice, ObjectMeta, Service};
use crate::model::types::ServiceKey;

/// The label that ties a slice to its Service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What a list or an event changes in the collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The Service is this, or does not exist.
    Service(Option<Service>),
    /// All slices, by name.
    Slices(BTreeMap<String, EndpointSlice>),
    /// One slice is new or different.
    Slice(EndpointSlice),
    /// The slice of this name is gone.
    SliceDeleted(String),
}

impl Change {
    /// Which object of its collection it is about: a slice's name, or nothing where there is but one object.
    pub fn object(&self) -> &str {
        match self {
            Self::Slice(slice) => &slice.metadata.name,
            Self::SliceDeleted(name) => name,
            Self::Service(_) | Self::Slices(_) => "",
        }
    }
}

/// A whole list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectList {
    /// What the collection consists of.
    pub change: Change,
    /// Where a watch continues.
    pub version: String,
}

/// One line of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// An object changed; `None` where it is none of ours.
    Changed(Option<Change>, String),
    /// Nothing changed up to this resourceVersion.
    Bookmark(String),
    /// The server reports a failure (410 where it no longer has the history asked for) and ends the watch.
    Error {
        /// The HTTP status code.
        code: u16,
        /// The server's words.
        message: String,
    },
}

/// Why bytes are not what the API promises.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No JSON, or not of the promised shape.
    #[error("sent JSON that does not parse ({0}); it begins with {1:?}")]
    Json(serde_json::Error, String),
    /// Something else than was asked for.
    #[error("sent {found} instead of the requested {wanted}")]
    WrongKind {
        /// apiVersion and kind that came.
        found: String,
        /// apiVersion and kind that were asked for.
        wanted: String,
    },
    /// A list that a watch cannot continue.
    #[error("sent a list without resourceVersion")]
    NoVersion,
    /// A part of a list though no limit was asked for.
    #[error("sent only a part of the list although the request had no limit")]
    Partial,
    /// An event that the API does not have.
    #[error("sent an event of the unknown type {0:?}")]
    UnknownEvent(String),
}

/// What every list and every object begins with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    api_version: Cow<'a, str>,
    #[serde(default)]
    metadata: HeadMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HeadMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
struct EventHead<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: Head<'a>,
}

#[derive(Deserialize)]
struct Whole<T> {
    object: T,
}

/// `v1` Status: the body of a failed request, and the object of an ERROR event.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
    pub(super) reason: String,
}

/// Decodes the body of a list.
pub fn list(resource: Resource, key: &ServiceKey, body: &[u8]) -> Result<ObjectList, DecodeError> {
    let head: Head<'_> = json(body)?;
    check_type(resource.list_kind(), resource.api_version(), &head)?;
    if head.metadata.next.is_some_and(|next| !next.is_empty()) {
        return Err(DecodeError::Partial);
    }
    if head.metadata.resource_version.is_empty() {
        return Err(DecodeError::NoVersion);
    }
    let change = match resource {
        Resource::Service => {
            Change::Service(items::<Service>(body)?.into_iter().find(|s| is_named(&s.metadata, key)))
        }
        Resource::EndpointSlices => Change::Slices(
            items::<EndpointSlice>(body)?
                .into_iter()
                .filter(|slice| is_slice_of(&slice.metadata, key))
                .map(|slice| (slice.metadata.name.clone(), slice))
                .collect(),
        ),
    };
    Ok(ObjectList { change, version: head.metadata.resource_version })
}

/// Decodes one line of a watch.
pub fn event(resource: Resource, key: &ServiceKey, line: &[u8]) -> Result<WatchEvent, DecodeError> {
    let head: EventHead<'_> = json(line)?;
    if head.kind == "ERROR" {
        check_type("Status", "v1", &head.object)?;
        let Status { code, message, .. } = json::<Whole<Status>>(line)?.object;
        return Ok(WatchEvent::Error { code, message });
    }
    check_type(resource.kind(), resource.api_version(), &head.object)?;
    let version = head.object.metadata.resource_version;
    let present = match &*head.kind {
        "BOOKMARK" => return Ok(WatchEvent::Bookmark(version)),
        "ADDED" | "MODIFIED" => true,
        "DELETED" => false,
        other => return Err(DecodeError::UnknownEvent(other.chars().take(40).collect())),
    };
    let change = match resource {
        Resource::Service => {
            let service = json::<Whole<Service>>(line)?.object;
            is_named(&service.metadata, key).then(|| Change::Service(present.then_some(service)))
        }
        Resource::EndpointSlices => {
            let slice = json::<Whole<EndpointSlice>>(line)?.object;
            // A slice that loses the label is gone for this Service, whatever the event is called.
            Some(match present && is_slice_of(&slice.metadata, key) {
                true => Change::Slice(slice),
                false => Change::SliceDeleted(slice.metadata.name),
            })
        }
    };
    Ok(WatchEvent::Changed(change, version))
}

fn items<T: DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, DecodeError> {
    Ok(json::<Items<T>>(body)?.items.unwrap_or_default())
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        DecodeError::Json(error, begin)
    })
}

fn check_type(kind: &str, api_version: &str, head: &Head<'_>) -> Result<(), DecodeError> {
    if head.kind == kind && head.api_version == api_version {
        return Ok(());
    }
    let found = match &*head.kind {
        "" => "an object without kind".to_owned(),
        kind => format!("a {} {kind}", head.api_version).chars().take(80).collect(),
    };
    Err(DecodeError::WrongKind { found, wanted: format!("{api_version} {kind}") })
}

fn is_named(metadata: &ObjectMeta, key: &ServiceKey) -> bool {
    metadata.name == key.name && metadata.namespace == key.namespace
}

fn is_slice_of(metadata: &ObjectMeta, key: &ServiceKey) -> bool {
    metadata.namespace == key.namespace
        && metadata.labels.get(SERVICE_NAME_LABEL).is_some_and(|name| *name == key.name)
}

/// Largest line of a watch and largest body of a list, in bytes. etcd refuses objects beyond 1.5 MiB by default, so
/// nothing that the API stores comes near it, and a server gone wrong cannot make the daemon grow.
pub const MAX_OBJECT_BYTES: usize = 4 << 20;

/// Capacity that the buffer keeps between lines, in bytes: the Service's events are a few kilobytes.
const KEPT_CAPACITY: usize = 16 << 10;

/// A line exceeds the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} bytes without a line end")]
pub struct LineTooLong {
    /// The bound, in bytes.
    pub limit: usize,
}

/// Collects chunks until a line is whole.
#[derive(Debug)]
pub struct LineBuffer {
    partial: Vec<u8>,
    limit: usize,
}

impl LineBuffer {
    /// An empty buffer for lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { partial: Vec::new(), limit }
    }

    /// Takes the next chunk and hands every line that it completes to `each`, without its line end. Blank lines are
    /// skipped. Stops at the first error.
    pub fn push<E: From<LineTooLong>>(
        &mut self,
        mut chunk: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = (&chunk[..end], &chunk[end + 1..]);
            self.check(line.len())?;
            if self.partial.is_empty() {
                deliver(line, &mut each)?;
            } else {
                self.partial.extend_from_slice(line);
                let whole = std::mem::take(&mut self.partial);
                deliver(&whole, &mut each)?;
                self.keep_buffer(whole);
            }
            chunk = rest;
        }
        self.check(chunk.len())?;
        self.partial.extend_from_slice(chunk);
        Ok(())
    }

    /// How many bytes of an unfinished line are held.
    pub fn unfinished(&self) -> usize {
        self.partial.len()
    }

    fn check(&self, more: usize) -> Result<(), LineTooLong> {
        if self.partial.len().saturating_add(more) > self.limit {
            return Err(LineTooLong { limit: self.limit });
        }
        Ok(())
    }

    fn keep_buffer(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= KEPT_CAPACITY {
            buffer.clear();
            self.partial = buffer;
        }
    }
}

fn deliver<E>(line: &[u8], each: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let line = line.trim_ascii();
    if line.is_empty() { Ok(()) } else { each(line) }
}

#[cfg(test)]
mod tests;
