//! The TCP flows of a backend that is silent or dead: moved, challenged or ended, so that clients are reset instead of
//! hanging for 15 minutes. And what conntrack knows of a connection.
//!
//! In: a [`FlowOrder`](crate::dataplane::flows::FlowOrder). Out: a [`FlowReport`](crate::dataplane::flows::FlowReport). For
//! each order, conntrack entries that the backend never answered are deleted, so that the client's next SYN is translated
//! anew. What else is done is the order's [`Purpose`](crate::dataplane::flows::Purpose). To challenge, every open flow is
//! sent a challenge SYN, a bare one from the virtual IP: the client's answer, a challenge ACK (RFC 5961, section 4), travels
//! to the backend's kernel, which ignores it if it knows the connection and resets it if not. To end, the sockets of the host
//! itself are destroyed, and every other open flow is sent a challenge SYN: the challenge ACK meets the table's kill rule and
//! is rejected with a reset that the client accepts. Then conntrack is read again, until nothing is open.
//!
//! The other direction needs no order: `challenge` has a backend's kernel answer on its clients' own path, and `capture` sees
//! what comes on it.
//!
//! `entries`, `sock_diag`, `packet` and `progress` are pure: the messages, the packets, and where each flow of an order
//! stands. `kernel`, `sender` and `capture` own sockets. `terminate` is one order, `queue` its commands, `worker` the thread
//! on which all of it blocks, `lookup` reads what the kernel knows of connections.

pub mod capture;
mod challenge;
pub(crate) mod entries;
pub(crate) mod kernel;
pub mod lookup;
mod packet;
mod progress;
mod queue;
pub(crate) mod sender;
pub(crate) mod sock_diag;
mod terminate;
mod worker;

pub use crate::netlink::NetlinkError;
pub use challenge::ChallengeOutcome;
pub use queue::FlowOptions;
pub use worker::{FlowError, Flows, PathChallenger};
