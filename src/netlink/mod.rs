//! Netlink messages, once for all that speaks netlink.

pub mod multicast;
pub mod netlink;
