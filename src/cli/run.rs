//! Commands that change the node: `apivip run`, the daemon, and `apivip cleanup`, which removes everything that it made.

use std::path::Path;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use crate::bootstrap::saved_state;
use crate::config::{CleanupArgs, RunArgs};
use crate::daemon::{Bound, DaemonError};
use crate::dataplane::{Dataplane, Host};
use crate::nftables::dataplane::Nftables;
use crate::process::handover::HANDOVER_FILE;
use crate::process::lock::{LOCK_FILE, Lock, SOCKET_FILE};
use crate::process::{log, privileges};
use crate::routes::Node;

pub(super) fn run(args: RunArgs) -> Result<(), Failure> {
    log::start(args.log_format, &args.log_level).map_err(Failure::configuration)?;
    // One thread: the work is small, and each further thread costs memory on every node.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Threads come when they are needed: names that hang in the resolver must not keep the state from the disk.
        .max_blocking_threads(8)
        .build()
        .context("start the runtime")
        .map_err(Failure::Runtime)?;
    let outcome = runtime.block_on(daemon(args));
    // A name that is still being resolved must not delay the end.
    runtime.shutdown_background();
    outcome
}

async fn daemon(args: RunArgs) -> Result<(), Failure> {
    args.bootstrap.configured(args.table.allow_loopback_endpoints).map_err(Failure::configuration)?;
    let access = crate::transport::load(args.kubeconfig.as_deref(), args.context.as_deref())
        .map_err(Failure::configuration)?;
    if !args.dry_run {
        privileges::require_net_admin().map_err(Failure::configuration)?;
    }
    let stop = stop_on_signal().context("listen for signals").map_err(Failure::Runtime)?;
    let bound = Bound::new(args, access).map_err(Failure::runtime)?;
    tracing::info!(
        event = %"daemon_starting",
        version = crate::config::VERSION,
        pid = std::process::id(),
        run_dir = %bound.run_dir().display(),
        "Starting apivip"
    );
    bound.run(stop).await.map_err(|error: DaemonError| Failure::runtime(error))?;
    tracing::info!(event = %"daemon_stopped", "Stopped apivip");
    Ok(())
}

/// Turns true on SIGTERM or SIGINT.
fn stop_on_signal() -> std::io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        sender.closed().await;
    });
    Ok(receiver)
}

pub(super) fn cleanup(args: &CleanupArgs) -> Result<(), Failure> {
    privileges::require_net_admin().map_err(Failure::configuration)?;
    let had_run_dir = args.run_dir.exists();
    // Held until the end: no daemon can start meanwhile and lose its rules.
    let lock = Lock::take(&args.run_dir).map_err(Failure::runtime)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
        .map_err(Failure::Runtime)?;
    let mut removed = runtime.block_on(remove_from_kernel())?;
    let state = saved_state::remove(&args.state_dir).map_err(Failure::runtime)?;
    removed.extend(state.iter().map(|path| path.display().to_string()));
    removed.extend(remove_files(&args.run_dir, had_run_dir).map_err(Failure::Runtime)?);
    drop(lock);
    if removed.is_empty() {
        println!("nothing to remove");
    }
    for what in removed {
        println!("removed {what}");
    }
    Ok(())
}

async fn remove_from_kernel() -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    if Nftables::default().remove().await.map_err(Failure::runtime)? {
        removed.push("table inet apivip".to_owned());
    }
    let mut node = Node::open().map_err(Failure::runtime)?;
    let routes = node.remove_routes().await.map_err(Failure::runtime)?;
    removed.extend(routes.iter().map(|ip| format!("the route to {ip}")));
    if node.release_local_vips().await.map_err(Failure::runtime)? {
        removed.push("the routing rules for the forwarder's connections".to_owned());
    }
    Ok(removed)
}

/// Removes the sockets, the lock, and the folder if nothing else is in it.
fn remove_files(run_dir: &Path, had_run_dir: bool) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for (name, counts) in [(SOCKET_FILE, true), (HANDOVER_FILE, true), (LOCK_FILE, had_run_dir)] {
        let path = run_dir.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) if counts => removed.push(path.display().to_string()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    if std::fs::remove_dir(run_dir).is_ok() && had_run_dir {
        removed.push(run_dir.display().to_string());
    }
    Ok(removed)
}
