//! Why there is no forwarder, or why it does not serve an address.

use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;

/// Why the forwarder does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ForwarderError {
    /// EADDRINUSE: the kernel does not say who it is.
    #[error("listen on {0}: another program listens on port {port}, on this address or on all", port = .0.port())]
    InUse(SocketAddr),
    /// EACCES (`__inet_bind`, net/ipv4/af_inet.c): the port is below net.ipv4.ip_unprivileged_port_start.
    #[error(
        "listen on {0}: port {port} is reserved for the privileged; give the daemon CAP_NET_BIND_SERVICE",
        port = .0.port()
    )]
    Reserved(SocketAddr),
    /// The address cannot be listened on for any other reason.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No thread, or nothing to run on it.
    #[error("start the forwarder's thread")]
    Thread(#[source] io::Error),
    /// The thread is gone.
    #[error("the forwarder's thread has ended")]
    Stopped,
}

impl ForwarderError {
    pub(super) fn listening(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address),
            _ if source.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => Self::Reserved(address),
            _ => Self::Listen { address, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_in_use_or_reserved_says_why() {
        let address = "[fd00::1]:443".parse().unwrap();
        let error = ForwarderError::listening(address, io::ErrorKind::AddrInUse.into());
        assert_eq!(
            error.to_string(),
            "listen on [fd00::1]:443: another program listens on port 443, on this address or on all"
        );
        let error = ForwarderError::listening(address, Errno::ACCESS.into());
        assert_eq!(
            error.to_string(),
            "listen on [fd00::1]:443: port 443 is reserved for the privileged; give the daemon CAP_NET_BIND_SERVICE"
        );
        let error = ForwarderError::listening(address, Errno::PERM.into());
        assert_eq!(error.to_string(), "listen on [fd00::1]:443");
    }
}
