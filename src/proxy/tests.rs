//! A forwarder between clients and backends on loopback.

mod carrying;
mod closing;
mod dialing;
mod harness;
mod limits;
mod serving;
