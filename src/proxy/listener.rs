//! One listening address: accepts until it is stopped, or until it was withdrawn, nobody comes any more and the last
//! connection has ended.

use std::future::{pending, poll_fn};
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::acceptor::Acceptor;
use super::connection;
use super::presence::Hold;
use super::shared::Shared;
use super::stats::Origin;

/// Nobody must have come for so long before it is closed: a handshake whose last ACK was lost is repeated by the kernel after
/// 1 s, and would be cut. Nor may a connection be open: clients use the ports of those that ended again, and conntrack leads
/// them here for as long as it remembers.
const QUIET: Duration = Duration::from_millis(1200);

/// A listening socket and its task, which ends with it.
pub(super) struct Listening {
    socket: Rc<AsyncFd<TcpListener>>,
    /// Whether it is being withdrawn.
    withdrawn: watch::Sender<bool>,
    /// While it is being withdrawn.
    hold: Option<Hold>,
    task: AbortHandle,
}

impl Listening {
    /// `quiet` is called when it was withdrawn and nobody came any more, to drop what this returned.
    pub(super) fn start(
        socket: AsyncFd<TcpListener>,
        origin: Origin,
        address: SocketAddr,
        shared: &Rc<Shared>,
        quiet: impl FnOnce() + 'static,
    ) -> Self {
        let socket = Rc::new(socket);
        let (withdrawn, told) = watch::channel(false);
        let acceptor = Acceptor::new(Rc::clone(&socket), origin, address, Rc::clone(shared));
        let task = run(acceptor, origin, address, Rc::clone(shared), told);
        let task = tokio::task::spawn_local(async move {
            task.await;
            quiet();
        });
        Self { socket, withdrawn, hold: None, task: task.abort_handle() }
    }

    pub(super) fn socket(&self) -> &TcpListener {
        self.socket.get_ref()
    }

    pub(super) fn withdraw(&mut self, shared: &Shared) {
        if self.hold.is_none() {
            self.hold = Some(shared.presence.hold());
            self.withdrawn.send_replace(true);
        }
    }

    pub(super) fn serve(&mut self) {
        if self.hold.take().is_some() {
            self.withdrawn.send_replace(false);
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut acceptor: Acceptor,
    origin: Origin,
    address: SocketAddr,
    shared: Rc<Shared>,
    mut withdrawn: watch::Receiver<bool>,
) {
    let mut quiet_at: Option<Instant> = None;
    loop {
        tokio::select! {
            biased;
            Ok(()) = withdrawn.changed() => {
                quiet_at = withdrawn.borrow_and_update().then(|| Instant::now() + QUIET);
            }
            (stream, client) = poll_fn(|cx| acceptor.poll_accept(cx)) => {
                connection::begin(&shared, origin, &address, stream, client);
                quiet_at = quiet_at.map(|_| Instant::now() + QUIET);
            }
            () = async {
                match quiet_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            } => {
                if !acceptor.is_paused() && shared.stats.open(origin) == 0 {
                    return;
                }
                quiet_at = Some(Instant::now() + QUIET);
            }
        }
    }
}
