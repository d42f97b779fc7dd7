//! A forwarder between clients and backends on loopback.

mod carrying;
mod dialling;
mod ending;
mod harness;
mod limiting;
mod serving;
