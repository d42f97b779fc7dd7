//! nf_tables, spoken over netlink: no nft binary is needed at run time.
//!
//! [`build`] turns a desired state into a typed [`table::Table`]; `text` and [`wire`] write that same table as nft
//! syntax and as netlink messages; [`socket`] carries the messages, and [`events`] tells who else sent some.

mod attr;
pub mod build;
pub mod dataplane;
mod dump;
pub mod events;
mod expr;
mod fingerprint;
mod instruction;
mod kernel;
mod kill;
pub mod names;
mod others;
pub mod owner;
mod refuse;
pub mod reply;
mod request;
pub mod sets;
pub mod socket;
mod source;
pub mod survey;
pub mod table;
mod text;
mod verdict;
pub mod wire;

pub use text::script;
