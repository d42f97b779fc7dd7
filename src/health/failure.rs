//! Errors on the way of a probe.

use std::error::Error;
use std::io;

/// Any error on the way of a probe.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// This node could not ask: no file descriptor, no free port, no memory. It is held against no backend.
#[derive(Debug, thiserror::Error)]
#[error("open a socket for a probe")]
pub(super) struct LocalError(#[source] pub(super) io::Error);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::socket::LocalOr;
    use crate::model::health::FailReason;
    use crate::transport::failure::reason;

    #[test]
    fn the_kernels_numbers() {
        for (number, expected) in [
            (111, FailReason::Refused),
            (104, FailReason::Reset),
            (32, FailReason::Reset),
            (110, FailReason::Timeout),
            (101, FailReason::Unreachable),
            (113, FailReason::Unreachable),
            (112, FailReason::Unreachable),
            (13, FailReason::Unreachable),
            (1, FailReason::Unreachable),
            (22, FailReason::Unreachable),
        ] {
            let error = LocalOr::Peer(io::Error::from_raw_os_error(number));
            assert_eq!(reason(&error), expected, "{error:?}");
        }
    }
}
