//! Hands the proxy's listeners from a daemon that stops to the next one.
//!
//! The stopping daemon releases the lock, listens on `RUN_DIR/handover.sock`, and gives the process that connects there the
//! descriptors of its listeners (SCM_RIGHTS). They are the same sockets: no connection in their backlogs is lost. The
//! connection stays open until the stopping daemon has drained, so that the next one knows how long to wait for it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::net::UnixListener;

use crate::process::lock;

/// Name of the socket in the run folder.
pub const HANDOVER_FILE: &str = "handover.sock";

/// The most descriptors that the kernel passes with one message (`SCM_MAX_FD` in `include/net/scm.h`).
const MAX_DESCRIPTORS: usize = 253;

/// The other daemon answers at once, or it hangs.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What a daemon that drains handed over.
#[derive(Debug)]
pub struct Inherited {
    /// Its listeners.
    pub listeners: Vec<TcpListener>,
    /// Open until it has drained.
    pub predecessor: UnixStream,
}

/// Takes the listeners of a daemon that drains, if there is one. The caller holds the lock.
pub fn take(run_dir: &Path) -> Option<Inherited> {
    let predecessor = UnixStream::connect(run_dir.join(HANDOVER_FILE)).ok()?;
    match receive(&predecessor) {
        Ok(listeners) => Some(Inherited { listeners, predecessor }),
        Err(error) => {
            tracing::warn!(
                event = %"listener_takeover_failed", %error,
                "Failed to take over listeners of a draining daemon"
            );
            None
        }
    }
}

fn receive(stream: &UnixStream) -> io::Result<Vec<TcpListener>> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    if recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(rights.flatten().map(|descriptor: OwnedFd| TcpListener::from(descriptor)).collect())
}

/// Resolves when the daemon behind this connection has ended.
pub async fn ended(predecessor: UnixStream) {
    let stream =
        predecessor.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(predecessor));
    if let Ok(mut stream) = stream {
        // It sends nothing more, so any result is the end.
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
    }
}

/// The socket where a daemon that stops waits for the next one.
pub struct Offer(UnixListener);

impl Offer {
    /// Listens in `run_dir`.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        lock::bind(&run_dir.join(HANDOVER_FILE)).map(Self)
    }

    /// Waits for the next daemon, and returns its connection once it has the listeners.
    pub async fn give(&self, listeners: &[TcpListener]) -> io::Result<UnixStream> {
        let (stream, _) = self.0.accept().await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let descriptors: Vec<_> = listeners.iter().take(MAX_DESCRIPTORS).map(AsFd::as_fd).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // A control message needs at least one descriptor.
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&stream, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL)?;
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn take_returns_none_without_a_draining_daemon() {
        let dir = tempfile::tempdir().unwrap();
        assert!(take(dir.path()).is_none());
        std::fs::write(dir.path().join(HANDOVER_FILE), "no socket").unwrap();
        assert!(take(dir.path()).is_none());
    }

    #[tokio::test]
    async fn listener_keeps_its_backlog_over_the_hand_over() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let offer = Offer::open(dir.path()).unwrap();
        let path = dir.path().to_owned();
        let taker = tokio::task::spawn_blocking(move || take(&path).unwrap());
        // Both wait in the backlog: one before the listener changes hands, one after.
        let _before = std::net::TcpStream::connect(address).unwrap();
        let held = offer.give(std::slice::from_ref(&listener)).await.unwrap();
        drop(listener);
        let _after = std::net::TcpStream::connect(address).unwrap();
        let inherited = taker.await.unwrap();
        assert_eq!(inherited.listeners.len(), 1);
        for _ in 0..2 {
            inherited.listeners[0].accept().unwrap();
        }
        inherited.predecessor.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!((&inherited.predecessor).read(&mut [0]).is_err(), "the other daemon still drains");
        drop(held);
        tokio::time::timeout(Duration::from_secs(10), ended(inherited.predecessor)).await.unwrap();
    }
}
