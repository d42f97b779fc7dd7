//! A forwarder between clients and backends on loopback.

mod closing;
mod dialing;
mod harness;
mod limits;
mod serving;
mod transfers;
