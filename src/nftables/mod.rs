//! nf_tables, spoken over netlink: no nft binary is needed at run time.
//!
//! [`build`] turns a desired state into a typed [`table::Table`], with the chains of `source_nat` and the names of [`names`].
//! `text` writes that table as nft syntax, [`encode`] as netlink messages, of `expressions` and the numbers in `uapi`.
//! [`decode`] reads what the kernel answers. [`socket`] carries the messages, [`watch`] finds out who else sent some,
//! [`dataplane`] runs both for the reconciler, and [`inventory`] lists what there is besides our table.

pub mod build;
pub mod dataplane;
pub mod decode;
pub mod encode;
mod expressions;
pub mod inventory;
pub mod names;
pub mod socket;
mod source_nat;
pub mod table;
mod text;
mod uapi;
pub mod watch;

pub use text::script;
