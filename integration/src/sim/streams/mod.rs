//! Long streams of known bytes in either direction, and peers that misbehave: what a proxy must carry unharmed.
//!
//! In: a connected stream on either side. Out: for each side, how many bytes arrived, whether all were right, and how
//! the stream ended. A client's first line says what the server does; see [`order::Order`].

pub mod client;
pub mod idle;
pub mod order;
pub mod pattern;
pub mod record;
pub mod server;

#[cfg(test)]
mod tests;
