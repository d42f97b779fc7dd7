//! Scenarios on a real etcd and real kube-apiservers, one file for each theme.

#[path = "../shared/mod.rs"]
mod shared;

mod audit;
mod behaviours;
mod check;
mod cluster;
mod cold_boot;
mod credentials;
mod etcd;
mod failover;
mod failover_ways;
mod forwarder;
mod install;
mod killed;
mod kube_proxy;
mod kubeconfigs;
mod lab;
mod network;
mod no_harm;
mod no_harm_few;
mod no_harm_load;
mod no_harm_network;
mod node;
mod node_leases;
mod node_pods;
mod plugins;
mod rolling;
mod rolling_exec;
mod scenarios;
