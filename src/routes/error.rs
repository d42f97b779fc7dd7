//! Why routes or addresses could not be read or changed, and which refusals are none.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NetlinkPayload;

use crate::dataplane::{DataplaneError, KernelErrorKind};

/// Why routes or addresses could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct HostError {
    pub(crate) action: String,
    #[source]
    pub(crate) source: io::Error,
    /// Some of what was asked for was done.
    pub(crate) partial: bool,
}

impl From<HostError> for DataplaneError {
    fn from(error: HostError) -> Self {
        Self::kernel(KernelErrorKind::Routes { partial: error.partial }, error)
    }
}

const EINVAL: i32 = 22;
pub(crate) const ESRCH: i32 = 3;
const EACCES: i32 = 13;
pub(crate) const EAFNOSUPPORT: i32 = 97;
const ENETUNREACH: i32 = 101;
const EHOSTUNREACH: i32 = 113;

/// What the kernel answered, with its errno; or, without one, why there is no answer.
pub(super) fn answer(error: &rtnetlink::Error) -> io::Error {
    let code = match error {
        rtnetlink::Error::NetlinkError(message) => Some(message.raw_code()),
        rtnetlink::Error::UnexpectedMessage(message) => match &message.payload {
            NetlinkPayload::Error(error) => Some(error.raw_code()),
            _ => None,
        },
        _ => None,
    };
    match code {
        Some(code) => io::Error::from_raw_os_error(code.saturating_abs()),
        None => io::Error::other(error.to_string()),
    }
}

/// No route, or a route that says no: unreachable, prohibit, blackhole; or no such address family here.
pub(super) fn is_unroutable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(ENETUNREACH | EHOSTUNREACH | EACCES | EINVAL | EAFNOSUPPORT))
}

pub(crate) fn failed(action: impl Into<String>, source: io::Error) -> HostError {
    HostError { action: action.into(), source, partial: false }
}

pub(crate) fn invalid(ip: IpAddr, error: &dyn std::fmt::Display) -> HostError {
    failed(format!("describe the route to {ip}"), io::Error::other(error.to_string()))
}
