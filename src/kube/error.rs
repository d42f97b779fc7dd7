//! What goes wrong while the API is read, each as one readable line.
//!
//! Text that a server sent is cleaned and cut before it becomes part of a line.

use std::net::SocketAddr;
use std::time::Duration;

use super::decode::DecodeError;
use super::frames::TooLong;
use super::resource::{Asked, Resource};
use crate::transport::words::one_line;

/// Why a session with an apiserver ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("prepare the connection: {0}")]
    Prepare(String),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{asked}: the connection broke: {cause}")]
    Broken { asked: Asked, cause: String },
    #[error("{asked}: no answer within {} s", limit.as_secs())]
    Silent { asked: Asked, limit: Duration },
    #[error("{asked}: the server does not accept the credentials (401); check {credentials}")]
    Unauthorized { asked: Asked, credentials: String },
    #[error(
        "{asked}: not allowed (403); bind a Role in namespace {} that grants list and watch on {} \
         to this user: {message}",
        asked.namespace, asked.resource.rbac_name()
    )]
    Forbidden { asked: Asked, message: String },
    #[error("{asked}: the server does not have this resource (404){}", since(asked.resource))]
    NotFound { asked: Asked },
    #[error("{asked}: the server no longer has the resourceVersion asked for (410)")]
    Expired { asked: Asked },
    #[error("{asked}: the server does not have the resourceVersion asked for yet: {message}")]
    FromTheFuture { asked: Asked, message: String },
    #[error("{asked}: the server answered {code}: {message}")]
    Status { asked: Asked, code: u16, message: String },
    #[error("{asked}: the server {problem}")]
    Protocol { asked: Asked, problem: String },
    #[error("connected through the virtual IP; an endpoint is dialled from now on")]
    ThroughVip,
    #[error("the credential plugin's certificate ends soon; it is asked for the next one")]
    EndsSoon,
}

impl ApiError {
    /// The collection whose request was answered with this, if only that one is concerned: the connection stands, and
    /// another collection may still be read over it.
    pub(crate) fn refused(&self) -> Option<Resource> {
        match self {
            Self::Forbidden { asked, .. }
            | Self::NotFound { asked }
            | Self::Expired { asked }
            | Self::FromTheFuture { asked, .. }
            | Self::Status { asked, .. }
            | Self::Protocol { asked, .. } => Some(asked.resource),
            _ => None,
        }
    }

    /// The server did answer.
    pub(crate) fn is_answer(&self) -> bool {
        self.refused().is_some() || matches!(self, Self::Unauthorized { .. })
    }

    pub(crate) fn decode(asked: &Asked, error: &DecodeError) -> Self {
        Self::Protocol { asked: asked.clone(), problem: one_line(&error.to_string()) }
    }

    pub(crate) fn too_long(asked: &Asked, error: TooLong) -> Self {
        let problem = format!("sent more than {} MiB as one object", error.limit >> 20);
        Self::Protocol { asked: asked.clone(), problem }
    }
}

/// Which servers have a collection that not all have.
fn since(resource: Resource) -> &'static str {
    match resource {
        Resource::Service => "",
        Resource::Slices => ": Kubernetes 1.21 or later is needed",
    }
}

/// No address could be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DialError {
    /// Why there was nothing to dial, or else empty.
    pub(crate) unresolved: Option<String>,
    /// What was dialled, and what came of it.
    pub(crate) attempts: Vec<(SocketAddr, String)>,
}

impl std::error::Error for DialError {}

impl std::fmt::Display for DialError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // In the order of the addresses, not of the attempts: the same failure must read the same, as it is logged
        // only when it changes.
        let mut attempts: Vec<_> = self.attempts.iter().collect();
        attempts.sort();
        f.write_str("no apiserver can be reached")?;
        let mut separator = ": ";
        for (address, cause) in attempts {
            write!(f, "{separator}{address}: {cause}")?;
            separator = "; ";
        }
        match &self.unresolved {
            Some(cause) => write!(f, "{separator}{cause}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_dial_reads_the_same_in_whatever_order() {
        let a = (SocketAddr::from(([192, 0, 2, 11], 6443)), "refused".to_owned());
        let b = (SocketAddr::from(([192, 0, 2, 12], 6443)), "no answer within 3 s".to_owned());
        let one = DialError { unresolved: None, attempts: vec![a.clone(), b.clone()] };
        let other = DialError { unresolved: None, attempts: vec![b, a] };
        assert_eq!(one.to_string(), other.to_string());
        assert_eq!(
            one.to_string(),
            "no apiserver can be reached: 192.0.2.11:6443: refused; 192.0.2.12:6443: no answer within 3 s"
        );
    }
}
