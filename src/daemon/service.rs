//! The daemon as a service: tells the manager that it is ready, what it does, and that it still lives.

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::daemon::systemd::Notifier;
use crate::model::report::Report;
use crate::reconcile::{TotalsQuery, query_totals};
use crate::status;

/// Ready is a daemon that holds its lock and its sockets: on a cold boot the API may be away for hours, and a manager that
/// waits for it would end the daemon meanwhile.
pub(super) async fn follow(
    notifier: Notifier,
    mut reports: watch::Receiver<Report>,
    totals: mpsc::Sender<TotalsQuery>,
) {
    notifier.say("READY=1");
    let period = notifier.watchdog();
    let mut due = Instant::now();
    let mut told = String::new();
    loop {
        let text = status::sentence(&reports.borrow_and_update());
        if text != told {
            notifier.status(&text);
            told = text;
        }
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            () = async {
                match period {
                    Some(_) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            } => {
                let period = period.unwrap_or_default();
                due = Instant::now() + period;
                if query_totals(&totals, period).await.is_some() {
                    notifier.say("WATCHDOG=1");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::time::Duration;

    use tokio::task::LocalSet;
    use tokio::time::sleep;

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(60);

    /// How often the service said that it lives since it was looked last.
    fn lives(manager: &UnixDatagram) -> usize {
        let mut buffer = [0; 512];
        let said =
            std::iter::from_fn(|| manager.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
        said.filter(|state| state == b"WATCHDOG=1").count()
    }

    #[test]
    fn a_reconciler_that_hangs_is_told_by_silence() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(LocalSet::new().run_until(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("notify");
            let manager = UnixDatagram::bind(&path).unwrap();
            manager.set_nonblocking(true).unwrap();
            let notifier = Notifier::to(SocketAddr::from_pathname(&path).unwrap(), Some(WATCHDOG)).unwrap();
            let (_reports, followed) = watch::channel(Report::default());
            let (asks, mut questions) = mpsc::channel::<TotalsQuery>(1);
            tokio::task::spawn_local(follow(notifier, followed, asks));
            for _ in 0..3 {
                questions.recv().await.unwrap().send(BTreeMap::new()).unwrap();
                sleep(WATCHDOG / 4).await;
            }
            assert_eq!(lives(&manager), 3);
            // It takes no more questions.
            sleep(WATCHDOG * 5).await;
            assert_eq!(lives(&manager), 0);
            // It takes them, and answers none.
            let held: Vec<TotalsQuery> =
                vec![questions.recv().await.unwrap(), questions.recv().await.unwrap()];
            sleep(WATCHDOG * 5).await;
            assert_eq!(lives(&manager), 0);
            drop(held);
            while lives(&manager) == 0 {
                // The asker of an old question may have left.
                let _ = questions.recv().await.unwrap().send(BTreeMap::new());
                sleep(Duration::from_secs(1)).await;
            }
        }));
    }
}
