//! The daemon as a systemd service, by the protocol of sd_notify(3): datagrams to a socket that the environment names.
//!
//! In: what the status is made of, answers of the reconciler. Out: `READY=1`, `STATUS=`, `WATCHDOG=1`.

use std::collections::BTreeMap;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::admin::Sources;
use crate::reconcile::query_totals;

/// How often the status is made again while nothing changes: a repair gets old, and a certificate comes near its end.
const REFRESH: Duration = Duration::from_secs(30);

/// The service manager's socket.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    manager: SocketAddr,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`; `None` if there is no service manager.
    ///
    /// # Errors
    /// The named socket cannot be used.
    pub fn from_environment() -> io::Result<Option<Self>> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let manager = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(std::path::Path::new(std::ffi::OsStr::from_bytes(path)))?,
        };
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| is_ours && *usec > 0).map(Duration::from_micros);
        Self::to(manager, watchdog).map(Some)
    }

    /// Notifies `manager`, which ends a service that did not send `WATCHDOG=1` for `watchdog`.
    ///
    /// # Errors
    /// No socket could be opened.
    pub fn to(manager: SocketAddr, watchdog: Option<Duration>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, manager, watchdog })
    }

    /// How often to send `WATCHDOG=1`: half of the time after which the manager would end the service.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// `READY=1`, `WATCHDOG=1`, `STOPPING=1`, `STATUS=…`. Errors are logged and ignored.
    pub fn notify(&self, state: &str) {
        if let Err(error) = self.socket.send_to_addr(state.as_bytes(), &self.manager) {
            tracing::debug!(event = %"systemd_notify_failed", %error, state, "Failed to notify service manager");
        }
    }

    /// One line that `systemctl status` shows.
    pub fn status(&self, text: &str) {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.notify(&format!("STATUS={line}"));
    }
}

/// Sends `READY=1` at once: a daemon that holds its lock and its sockets is ready. On a cold boot the API may be unreachable for
/// hours, and a manager that waits for it would end the daemon meanwhile. Then sends the status whenever it changes, and
/// `WATCHDOG=1` for as long as the reconciler answers.
pub(super) async fn run(notifier: Notifier, mut sources: Sources) {
    notifier.notify("READY=1");
    let period = notifier.watchdog();
    let mut due = Instant::now();
    let mut sent = String::new();
    loop {
        let text = sources.status(&BTreeMap::new(), None).sentence();
        if text != sent {
            notifier.status(&text);
            sent = text;
        }
        tokio::select! {
            changed = sources.report.changed() => if changed.is_err() { return },
            Ok(()) = sources.connection.changed() => {}
            Ok(()) = sources.selftests.changed() => {}
            () = sleep(REFRESH) => {}
            () = async {
                match period {
                    Some(_) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            } => {
                let period = period.unwrap_or_default();
                due = Instant::now() + period;
                if query_totals(&sources.totals, period).await.is_some() {
                    notifier.notify("WATCHDOG=1");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{mpsc, watch};
    use tokio::task::LocalSet;

    use super::*;
    use crate::kube::Connection;
    use crate::metrics::Metrics;
    use crate::model::report::Report;
    use crate::model::sources::Origins;
    use crate::model::types::ServiceKey;
    use crate::reconcile::TotalsQuery;
    use crate::selftest::SelfTestResults;

    const WATCHDOG: Duration = Duration::from_secs(60);

    /// How many `WATCHDOG=1` came since the last call.
    fn watchdog_messages(manager: &UnixDatagram) -> usize {
        let mut buffer = [0; 512];
        let received =
            std::iter::from_fn(|| manager.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()));
        received.filter(|state| state == b"WATCHDOG=1").count()
    }

    fn sources(report: watch::Receiver<Report>, totals: mpsc::Sender<TotalsQuery>) -> Sources {
        Sources {
            service: ServiceKey::default(),
            started: std::time::Instant::now(),
            report,
            connection: watch::channel(Connection::default()).1,
            origins: watch::channel(Origins::default()).1,
            selftests: watch::channel(SelfTestResults::default()).1,
            selftest_interval: None,
            metrics: Arc::new(Metrics::default()),
            totals,
        }
    }

    #[test]
    fn reconciler_that_hangs_stops_the_watchdog_messages() {
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
            tokio::task::spawn_local(run(notifier, sources(followed, asks)));
            for _ in 0..3 {
                questions.recv().await.unwrap().send(BTreeMap::new()).unwrap();
                sleep(WATCHDOG / 4).await;
            }
            assert_eq!(watchdog_messages(&manager), 3);
            // The reconciler takes no more questions.
            sleep(WATCHDOG * 5).await;
            assert_eq!(watchdog_messages(&manager), 0);
            // It takes questions, and answers none.
            let held: Vec<TotalsQuery> =
                vec![questions.recv().await.unwrap(), questions.recv().await.unwrap()];
            sleep(WATCHDOG * 5).await;
            assert_eq!(watchdog_messages(&manager), 0);
            drop(held);
            while watchdog_messages(&manager) == 0 {
                // The asker of an old question may have left.
                let _ = questions.recv().await.unwrap().send(BTreeMap::new());
                sleep(Duration::from_secs(1)).await;
            }
        }));
    }
}
