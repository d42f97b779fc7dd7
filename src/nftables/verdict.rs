//! What the kernel's answer to a transaction means. Pure.

use std::io;

use super::reply::{Content, Reply};
use super::socket::NftError;
use super::wire::Batch;

const ERESTART: i32 = 85;

/// What one reply says of the whole transaction.
pub(super) enum Verdict {
    NotOurs,
    Accepted,
    /// The error, and whether no other answer to this batch will follow.
    Refused(NftError, bool),
}

/// What a reply means for a batch whose last step has sequence number `last`.
pub(super) fn verdict(batch: &Batch, last: u32, reply: &Reply) -> Verdict {
    let offset = reply.sequence.wrapping_sub(batch.first_sequence);
    let step = match usize::try_from(offset) {
        // The answer to the message that begins the batch concerns the transaction as a whole.
        Ok(0) => "commit the transaction".to_owned(),
        Ok(n) if n <= batch.steps.len() => batch.steps[n - 1].clone(),
        _ => return Verdict::NotOurs,
    };
    match reply.content {
        Content::Outcome(None) if reply.sequence == last => Verdict::Accepted,
        Content::Outcome(Some(errno)) => {
            let source = io::Error::from_raw_os_error(errno);
            Verdict::Refused(NftError::Refused { step, source }, offset == 0 || reply.sequence == last)
        }
        _ => Verdict::NotOurs,
    }
}

/// ERESTART: the ruleset is of a later generation than the one that was looked at. ENOENT, EEXIST, EBUSY: what the table
/// held is no longer what it holds.
pub(super) fn is_race(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERESTART)
        || matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy
        )
}

/// EOPNOTSUPP, EINVAL: the kernel does not know the flags of a table.
pub(super) fn is_unknown(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}
