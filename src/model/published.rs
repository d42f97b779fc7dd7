//! A snapshot on its way from the API to the node.

use std::sync::Arc;
use std::time::Instant;

use super::snapshot::Snapshot;

/// A snapshot, and when it became known.
#[derive(Clone, Debug)]
pub struct Published {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// When the last byte of the event or list arrived that it follows from.
    pub received: Instant,
}
