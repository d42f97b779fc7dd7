//! `apivip run`: the daemon.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Failure;
use crate::config::RunArgs;
use crate::daemon::{Bound, DaemonError};
use crate::process::{log, privileges};

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
    args.boot.configured(args.table.allow_loopback_endpoints).map_err(Failure::configuration)?;
    let access = crate::transport::load(args.kubeconfig.as_deref(), args.context.as_deref())
        .map_err(Failure::configuration)?;
    if !args.dry_run {
        privileges::require_net_admin().map_err(Failure::configuration)?;
    }
    let stop = stop_on_signal().context("listen for signals").map_err(Failure::Runtime)?;
    let bound = Bound::new(args, access).map_err(Failure::runtime)?;
    tracing::info!(
        version = crate::config::VERSION,
        pid = std::process::id(),
        run_dir = %bound.run_dir().display(),
        "apivip starts"
    );
    bound.run(stop).await.map_err(|error: DaemonError| Failure::runtime(error))?;
    tracing::info!("apivip stops");
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
