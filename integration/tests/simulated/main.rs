//! Scenarios on simulated control planes, one file for each theme. One program, so that its tests share two threads to the
//! end.

#[path = "../shared/mod.rs"]
mod shared;

use std::sync::{Mutex, MutexGuard, PoisonError};

mod addresses;
mod admin;
mod admin_clients;
mod admin_page;
mod audit_api;
mod audit_kubelet;
mod audit_redirect;
mod bad_input_cleanup;
mod bad_input_commands;
mod bad_input_kubeconfig;
mod bad_input_server;
mod behaviours;
mod changes;
mod check;
mod check_api;
mod check_families;
mod check_kernel;
mod check_running;
mod clock;
mod coexistence;
mod cold_boot;
mod commit_mutex;
mod dead_apiserver;
mod dead_set;
mod drift;
mod early_syn;
mod failover_all;
mod failover_certificates;
mod failover_choices;
mod failover_dead;
mod failover_faults;
mod failover_forwarder;
mod failover_kept;
mod failover_matrix;
mod failover_nearest;
mod failover_paths;
mod flows;
mod flows_asked;
mod flows_obstacles;
mod forwarder_drain;
mod forwarder_drift;
mod forwarder_faults;
mod forwarder_listen;
mod forwarder_ports;
mod forwarder_reach;
mod forwarder_start;
mod forwarder_streams;
mod guard;
mod hairpin;
mod install;
mod invalid_packets;
mod kernel_status;
mod lab;
mod log_blocked;
mod log_journal;
mod log_quiet;
mod log_secrets;
mod long_run;
mod neighbours;
mod nftfault;
mod node_ways;
mod odd_objects;
mod outage;
mod owner;
mod reach;
mod restart;
mod rotated_ca;
mod rules;
mod selftest;
mod stale_watch;
mod startup;
mod status;
mod streams;
mod systemd;
mod traffic;

/// For scenarios that load the machine as far as it goes: one at a time, until what this returns is dropped.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
