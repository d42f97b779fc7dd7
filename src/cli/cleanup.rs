//! `apivip cleanup`: removes everything that apivip made on this node.

use std::path::Path;

use anyhow::Context;

use super::Failure;
use crate::bootstrap::saved_state;
use crate::config::CleanupArgs;
use crate::dataplane::{Dataplane, Host};
use crate::nftables::dataplane::Nftables;
use crate::process::handover::HANDOVER_FILE;
use crate::process::lock::{LOCK_FILE, Lock, SOCKET_FILE};
use crate::process::privileges;
use crate::routes::Node;

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
    let mut removed = runtime.block_on(kernel())?;
    let state = saved_state::remove(&args.state_dir).map_err(Failure::runtime)?;
    removed.extend(state.iter().map(|path| path.display().to_string()));
    removed.extend(files(&args.run_dir, had_run_dir).map_err(Failure::Runtime)?);
    drop(lock);
    if removed.is_empty() {
        println!("nothing to remove");
    }
    for what in removed {
        println!("removed {what}");
    }
    Ok(())
}

async fn kernel() -> Result<Vec<String>, Failure> {
    let mut removed = Vec::new();
    if Nftables::default().remove().await.map_err(Failure::runtime)? {
        removed.push("table inet apivip".to_owned());
    }
    let mut node = Node::open().map_err(Failure::runtime)?;
    let routes = node.remove_routes().await.map_err(Failure::runtime)?;
    removed.extend(routes.iter().map(|ip| format!("the route to {ip}")));
    if node.release().await.map_err(Failure::runtime)? {
        removed.push("the routing rules for the forwarder's connections".to_owned());
    }
    Ok(removed)
}

/// Removes the sockets, the lock, and the folder if nothing else is in it.
fn files(run_dir: &Path, had_run_dir: bool) -> anyhow::Result<Vec<String>> {
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
