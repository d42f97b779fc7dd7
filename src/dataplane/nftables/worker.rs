//! The thread that owns the one long-lived socket: a commit can wait seconds for another program's, so it never runs on
//! the runtime's thread.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::dataplane::DataplaneError;
use crate::dataplane::nft::owner::Ownership;
use crate::dataplane::nft::reply::Observed;
use crate::dataplane::nft::socket::{NftError, NftSocket, Replaced, Standing};
use crate::dataplane::nft::table::Table;
use crate::model::types::Backend;

/// The thread ends at once, unless it waits for another program's commit: then the kernel lets go of the socket later.
const RELEASE: Duration = Duration::from_millis(300);

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, NftError>>;

/// What the thread does.
pub(super) enum Request {
    Replace(Table, Answer<Replaced>),
    Refresh(BTreeSet<Backend>, Answer<()>),
    Observe(Answer<Observed>),
    Verify(Answer<Standing>),
    Remove(Answer<bool>),
}

/// The running thread. It ends when this is dropped, and the table has no owner from then on.
pub(super) struct Worker {
    requests: mpsc::Sender<Request>,
    /// The netlink port of its socket.
    pub port: u32,
    ended: oneshot::Receiver<()>,
}

impl Worker {
    /// Opens the socket in the current network namespace and starts its thread.
    pub fn start(ownership: Ownership) -> Result<Self, DataplaneError> {
        let mut socket = NftSocket::open()?.with(ownership);
        let port = socket.port();
        let (requests, inbox) = mpsc::channel::<Request>();
        let (ends, ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("nftables".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                inbox.iter().for_each(|request| serve(&mut socket, request));
                drop(socket);
                drop(ends);
            })
            .map_err(DataplaneError::Worker)?;
        Ok(Self { requests, port, ended })
    }

    pub fn send(&self, request: Request) -> Result<(), DataplaneError> {
        self.requests.send(request).map_err(|_| gone())
    }

    /// Ends it, and waits until the socket is closed.
    pub async fn release(self) {
        drop(self.requests);
        // Either way the process is about to end, and the socket with it.
        let _ = timeout(RELEASE, self.ended).await;
    }
}

/// The thread has ended.
pub(super) fn gone() -> DataplaneError {
    DataplaneError::Worker(io::Error::from(io::ErrorKind::BrokenPipe))
}

/// The asker may have given up waiting; then nobody wants the answer.
fn serve(socket: &mut NftSocket, request: Request) {
    match request {
        Request::Replace(table, answer) => {
            drop(answer.send(socket.replace(&table)));
            // Whoever waits for the rules does not wait for this. Where it fails, the next look takes the table for
            // changed, and it is committed once more.
            if let Err(error) = socket.remember() {
                tracing::debug!(%error, "look at the table after a commit");
            }
        }
        Request::Refresh(dead, answer) => drop(answer.send(socket.refresh(&dead))),
        Request::Observe(answer) => drop(answer.send(socket.observe())),
        Request::Verify(answer) => drop(answer.send(socket.verify())),
        Request::Remove(answer) => drop(answer.send(socket.remove())),
    }
}
