//! Scenarios on a real etcd and real kube-apiservers, one file for each theme.

mod audit;
mod check;
mod cold_boot;
mod credentials;
mod failover;
mod forwarder;
mod install;
mod lab;
mod network;
mod plugins;
mod scenarios;
