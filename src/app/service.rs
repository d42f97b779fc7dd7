//! The daemon as a service: tells the manager that it is ready, what it does, and that it still lives.

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::notify::Notifier;
use crate::reconcile::{TotalsQuery, ask_totals};
use crate::report::Report;
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
                if ask_totals(&totals, period).await.is_some() {
                    notifier.say("WATCHDOG=1");
                }
            }
        }
    }
}
