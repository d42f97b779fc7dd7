//! What everything that talks to an apiserver shares: access and credentials, and what an answer to `/readyz` means.

pub mod access;
pub(crate) mod explain;
pub(crate) mod percent;
#[cfg(test)]
pub(crate) mod pki;
pub mod readyz;
pub mod words;
