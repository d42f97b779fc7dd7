//! The harness that proves apivip from the outside.

pub mod sim;
pub mod tls;
