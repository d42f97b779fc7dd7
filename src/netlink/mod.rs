//! Netlink, once for all that speaks it: nf_tables, ctnetlink, sock_diag and rtnetlink.
//!
//! [`message`] is the wire format, [`channel`] a blocking socket for requests and dumps, [`multicast`] one that listens to
//! notifications.

pub mod channel;
pub mod message;
pub mod multicast;

pub use channel::NetlinkError;
pub use message::Malformed;
