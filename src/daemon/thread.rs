//! Tasks whose system calls may block: each on a thread and a runtime of its own. The kernel may block such a call for as long as
//! another program holds a lock, and nothing else must wait with it.

use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A thread's stack: it runs one small task.
const STACK: usize = 512 << 10;

/// Runs a task until it ends, or until `tasks` end. A system call that blocks then is its last.
pub(super) fn spawn(
    name: &'static str,
    tasks: &mut JoinSet<()>,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let (keeper, ends) = oneshot::channel::<()>();
    let work = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return tracing::warn!(
                    event = %"thread_start_failed", %error, thread = name,
                    "Failed to start runtime of thread"
                );
            }
        };
        runtime.block_on(async {
            tokio::select! {
                () = task => {}
                _ = ends => {}
            }
        });
        // A blocking call such as a name lookup must not keep the thread.
        runtime.shutdown_background();
    };
    match std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work) {
        Ok(_) => {
            tasks.spawn(async move {
                let _keeper = keeper;
                std::future::pending().await
            });
        }
        Err(error) => {
            tracing::warn!(event = %"thread_start_failed", %error, thread = name, "Failed to start thread");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn blocked_call_does_not_block_other_tasks() {
        let mut tasks = JoinSet::new();
        let (go_on, held) = mpsc::channel::<()>();
        let (done, did) = oneshot::channel();
        spawn("held", &mut tasks, async move {
            let _ = held.recv();
            let _ = done.send(());
        });
        // If it ran on this thread, this would never end.
        tokio::time::sleep(Duration::from_millis(10)).await;
        go_on.send(()).unwrap();
        did.await.unwrap();
    }

    #[tokio::test]
    async fn task_ends_with_the_task_set() {
        let mut tasks = JoinSet::new();
        let (lives, ended) = oneshot::channel::<()>();
        spawn("idle", &mut tasks, async move {
            let _lives = lives;
            std::future::pending().await
        });
        tasks.shutdown().await;
        assert!(ended.await.is_err());
    }
}
