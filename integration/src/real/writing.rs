//! Watches that stream: the Service `kubernetes` is written again and again, which every watch of it hears.
//! In: a client that may write. Out: what was done meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Client, objects};

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(200);

/// Writes while `work` is done. Fails if it could not write at all.
pub fn while_writing<T>(client: &Client<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0_u32;
            while !done.load(Ordering::Relaxed) {
                let note =
                    json!({ "metadata": { "annotations": { "example.com/count": written.to_string() } } });
                if client.patch(objects::KUBERNETES_SERVICE, &note).is_ok() {
                    written += 1;
                }
                thread::sleep(PAUSE);
            }
            written
        });
        let outcome = work();
        done.store(true, Ordering::Relaxed);
        let written = writer.join().ok().context("the writer panicked")?;
        ensure!(written > 0, "nothing could be written");
        outcome
    })
}
