//! The one long-lived nf_tables socket: dumps and transactions.
//!
//! Every call blocks its thread: the kernel works while `sendmsg` runs, and a commit waits for the commits of
//! others in the same network namespace. [`super::super::nftables`] keeps it away from the runtime.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use socket2::SockRef;

use super::kernel::{flowtable, msg, object, set};
use super::reply::{self, Content, Observed, Reply};
use super::table::Table;
use super::wire::{self, Batch, Step};

/// The kernel answers before `sendmsg` returns; this only bounds the wait for an answer that was lost.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// A dump is repeated if objects changed while the kernel was listing them.
const DUMP_ATTEMPTS: u32 = 20;
/// Room for the largest batch that the model admits; the kernel caps it at net.core.wmem_max.
const SEND_BUFFER: usize = 4 << 20;

/// Why the kernel's nf_tables could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No such socket: the kernel lacks nf_tables, or the process may not have it.
    #[error("open a netlink socket to nf_tables")]
    Open(#[source] io::Error),
    /// The request did not reach the kernel.
    #[error("send to nf_tables")]
    Send(#[source] io::Error),
    /// No readable answer.
    #[error("receive from nf_tables")]
    Receive(#[source] io::Error),
    /// The kernel refused a step, and with it the whole transaction.
    #[error("nf_tables refused to {step}")]
    Refused {
        /// What was refused.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer does not keep to the format.
    #[error("read the answer of nf_tables")]
    Malformed(#[from] reply::Malformed),
    /// The rules kept changing while they were listed.
    #[error("list table inet apivip: it kept changing during {DUMP_ATTEMPTS} attempts")]
    Unsteady,
}

/// A replacement that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The table as it stood before, with the last values of counters that the replacement took away.
    pub before: Observed,
    /// Steps of the transaction.
    pub steps: usize,
    /// Bytes sent.
    pub bytes: usize,
}

/// A netlink socket to nf_tables in the network namespace of the thread that opened it.
pub struct NftSocket {
    socket: Socket,
    sequence: u32,
}

impl NftSocket {
    /// Opens the socket. Sending needs CAP_NET_ADMIN, opening does not.
    pub fn open() -> Result<Self, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Open)?;
        socket.bind_auto().map_err(NftError::Open)?;
        let reference = SockRef::from(&socket);
        reference.set_read_timeout(Some(REPLY_TIMEOUT)).map_err(NftError::Open)?;
        // A smaller buffer only lowers the number of backends that fit.
        let _ = reference.set_send_buffer_size(SEND_BUFFER);
        Ok(Self { socket, sequence: 0 })
    }

    /// Reads the table as it stands in the kernel.
    pub fn observe(&mut self) -> Result<Observed, NftError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(observed) = self.observe_once()? {
                return Ok(observed);
            }
        }
        Err(NftError::Unsteady)
    }

    /// Makes the kernel's table equal to `table`, in one transaction.
    pub fn replace(&mut self, table: &Table) -> Result<Replaced, NftError> {
        // Somebody may change the table between the look and the commit; then the commit fails as a whole.
        match self.replace_once(table) {
            Err(NftError::Refused { source, .. }) if is_race(&source) => self.replace_once(table),
            outcome => outcome,
        }
    }

    fn replace_once(&mut self, table: &Table) -> Result<Replaced, NftError> {
        let before = self.observe()?;
        let steps = wire::replace(table, &before);
        let bytes = self.commit(&steps)?;
        Ok(Replaced { before, steps: steps.len(), bytes })
    }

    /// Removes the table. `false`: there was none.
    pub fn remove(&mut self) -> Result<bool, NftError> {
        let observed = self.observe()?;
        self.commit(&wire::remove(&observed))?;
        Ok(observed.exists)
    }

    fn observe_once(&mut self) -> Result<Option<Observed>, NftError> {
        let mut observed = Observed::default();
        let kinds = [
            (msg::GETTABLE, None),
            (msg::GETCHAIN, None),
            (msg::GETOBJ, Some(object::TABLE)),
            (msg::GETSET, Some(set::TABLE)),
            (msg::GETFLOWTABLE, Some(flowtable::TABLE)),
        ];
        for (kind, filter) in kinds {
            match self.dump(kind, filter)? {
                Some(contents) => contents.into_iter().for_each(|c| observed.add(c)),
                None => return Ok(None),
            }
            // Without the table there is nothing else to see, and a filter for it fails with ENOENT.
            if !observed.exists {
                break;
            }
        }
        Ok(Some(observed))
    }

    /// All objects of a kind, or `None` if the dump was interrupted.
    fn dump(&mut self, kind: u16, filter: Option<u16>) -> Result<Option<Vec<Content>>, NftError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        self.send(&wire::dump(kind, filter, sequence))?;
        let mut contents = Vec::new();
        let mut interrupted = false;
        loop {
            for reply in self.receive()? {
                if reply.sequence != sequence {
                    continue;
                }
                interrupted |= reply.interrupted;
                match reply.content {
                    Content::Done => return Ok((!interrupted).then_some(contents)),
                    Content::Outcome(Some(errno)) => {
                        let source = io::Error::from_raw_os_error(errno);
                        // The table went away between two dumps, or the kernel is too old for this kind.
                        if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::Unsupported) {
                            return Ok(Some(Vec::new()));
                        }
                        return Err(NftError::Refused { step: "list its objects".to_owned(), source });
                    }
                    content => contents.push(content),
                }
            }
        }
    }

    /// Sends the steps as one transaction, unless there are none, and returns how many bytes that took.
    fn commit(&mut self, steps: &[Step]) -> Result<usize, NftError> {
        if steps.is_empty() {
            return Ok(0);
        }
        let batch = wire::batch(steps, self.sequence.wrapping_add(1));
        let last = batch.first_sequence.wrapping_add(u32::try_from(steps.len()).unwrap_or(u32::MAX));
        self.sequence = last.wrapping_add(1);
        self.send(&batch.bytes)?;
        let mut refused = None;
        loop {
            let replies = match self.receive() {
                Ok(replies) => replies,
                Err(error) => return Err(refused.unwrap_or(error)),
            };
            for reply in replies {
                match verdict(&batch, last, &reply) {
                    Verdict::NotOurs => {}
                    Verdict::Accepted => return refused.map_or(Ok(batch.bytes.len()), Err),
                    Verdict::Refused(error, end) => {
                        let first = refused.unwrap_or(error);
                        if end {
                            return Err(first);
                        }
                        refused = Some(first);
                    }
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), NftError> {
        let kernel = SocketAddr::new(0, 0);
        self.socket.send_to(bytes, &kernel, 0).map(|_| ()).map_err(NftError::Send)
    }

    fn receive(&self) -> Result<Vec<Reply>, NftError> {
        loop {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => return Ok(reply::parse(&datagram)?),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NftError::Receive(error)),
            }
        }
    }
}

enum Verdict {
    NotOurs,
    Accepted,
    /// The error, and whether no other answer to this batch will follow.
    Refused(NftError, bool),
}

/// What a reply means for a batch whose last step has sequence number `last`.
fn verdict(batch: &Batch, last: u32, reply: &Reply) -> Verdict {
    let offset = reply.sequence.wrapping_sub(batch.first_sequence);
    let step = match usize::try_from(offset) {
        // The answer to the message that begins the batch concerns the transaction as a whole.
        Ok(0) => "commit the transaction".to_owned(),
        Ok(n) if n <= batch.steps.len() => batch.steps[n - 1].clone(),
        _ => return Verdict::NotOurs,
    };
    match reply.content {
        Content::Outcome(None) if reply.sequence == last => Verdict::Accepted,
        Content::Outcome(Some(errno)) => {
            let source = io::Error::from_raw_os_error(errno);
            Verdict::Refused(NftError::Refused { step, source }, offset == 0 || reply.sequence == last)
        }
        _ => Verdict::NotOurs,
    }
}

/// ENOENT, EEXIST, EBUSY: what the table held when it was looked at is no longer what it holds.
fn is_race(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists | io::ErrorKind::ResourceBusy
    )
}
