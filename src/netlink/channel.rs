//! One blocking netlink socket: requests with one answer, and dumps.
//!
//! In: message kind, flags and body. Out: the bodies of the kernel's answers, or what the caller makes of them. Owns what can
//! go wrong between the two: interrupted dumps and lost answers are requested again.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use socket2::SockRef;

use super::message::{Malformed, errno, messages, write};

/// The kernel answers at once; this only bounds the wait for an answer that was lost.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// A dump is requested again when the kernel says that it changed meanwhile, or lost a part of it.
const DUMP_ATTEMPTS: u32 = 8;
/// The kernel fills datagrams of a dump up to the size that the reader offers, at most 32 KiB.
const DATAGRAM: usize = 32 << 10;

/// Opens a blocking netlink socket in the network namespace of this thread, and says which port it has.
pub(crate) fn open(protocol: isize, reply_timeout: Duration) -> io::Result<(Socket, u32)> {
    let mut socket = Socket::new(protocol)?;
    let port = socket.bind_auto()?.port_number();
    SockRef::from(&socket).set_read_timeout(Some(reply_timeout))?;
    Ok((socket, port))
}

/// Sends one datagram to the kernel.
pub(crate) fn send(socket: &Socket, datagram: &[u8]) -> io::Result<()> {
    socket.send_to(datagram, &SocketAddr::new(0, 0), 0).map(drop)
}

/// Calls `receive` again where a signal interrupted it.
pub(crate) fn uninterrupted<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match receive() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No such socket.
    #[error("open a netlink socket to {0}")]
    Open(&'static str, #[source] io::Error),
    /// The request did not reach the kernel.
    #[error("send to {0}")]
    Send(&'static str, #[source] io::Error),
    /// No readable answer.
    #[error("receive from {0}")]
    Receive(&'static str, #[source] io::Error),
    /// The kernel said no.
    #[error("{0} refused the request")]
    Refused(&'static str, #[source] io::Error),
    /// The answer does not keep to the format.
    #[error("read the answer of {0}")]
    Malformed(&'static str, #[source] Malformed),
}

impl NetlinkError {
    /// What the kernel answered, if it refused.
    pub(crate) fn refusal(&self) -> Option<Errno> {
        match self {
            Self::Refused(_, source) => Errno::from_io_error(source),
            _ => None,
        }
    }
}

/// What carries datagrams to the kernel and back.
pub(crate) trait Wire {
    /// Sends one.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;

    /// Waits for one.
    fn receive(&mut self) -> io::Result<Vec<u8>>;
}

impl Wire for Socket {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        send(self, message)
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        uninterrupted(|| self.recv(&mut datagram, 0))?;
        Ok(datagram)
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(crate) struct Channel<W = Socket> {
    what: &'static str,
    wire: W,
    sequence: u32,
}

impl Channel {
    /// `what` names the kernel's side in errors.
    pub(crate) fn open(protocol: isize, what: &'static str) -> Result<Self, NetlinkError> {
        let (socket, _) = open(protocol, REPLY_TIMEOUT).map_err(|source| NetlinkError::Open(what, source))?;
        Ok(Self { what, wire: socket, sequence: 0 })
    }
}

impl<W: Wire> Channel<W> {
    /// One request, acknowledged: the body of the last message that came before the acknowledgement, if any.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, NetlinkError> {
        let sequence = self.send(kind, flags | NLM_F_ACK, body)?;
        let mut answer = None;
        loop {
            let datagram = self.receive()?;
            for frame in self.frames(&datagram, sequence)? {
                match frame.content {
                    Content::Body(body) => answer = Some(body.to_vec()),
                    Content::Done | Content::Outcome(None) => return Ok(answer),
                    Content::Outcome(Some(errno)) => return Err(self.refused(errno)),
                }
            }
        }
    }

    /// What `select` makes of the bodies of all messages of a dump. Nothing else is kept: a list of a million entries of which
    /// three are wanted takes no memory to speak of. One that kept changing is given as it was seen last, and nothing of what
    /// was seen before.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        mut select: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut attempt = 1;
        loop {
            let last = attempt == DUMP_ATTEMPTS;
            match self.dump_once(kind, body, &mut select) {
                Ok((selected, interrupted)) if !interrupted || last => return Ok(selected),
                Err(error) if last || !is_passing(&error) => return Err(error),
                _ => attempt += 1,
            }
        }
    }

    fn dump_once<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        mut select: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<(Vec<T>, bool), NetlinkError> {
        let sequence = self.send(kind, NLM_F_DUMP, body)?;
        let mut selected = Vec::new();
        let mut interrupted = false;
        loop {
            let datagram = self.receive()?;
            for frame in self.frames(&datagram, sequence)? {
                interrupted |= frame.interrupted;
                match frame.content {
                    Content::Body(body) => selected.extend(select(body)),
                    Content::Done | Content::Outcome(None) => return Ok((selected, interrupted)),
                    Content::Outcome(Some(errno)) => return Err(self.refused(errno)),
                }
            }
        }
    }

    fn refused(&self, errno: i32) -> NetlinkError {
        NetlinkError::Refused(self.what, io::Error::from_raw_os_error(errno))
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<u32, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = request(kind, flags, self.sequence, body);
        self.wire.send(&message).map_err(|source| NetlinkError::Send(self.what, source))?;
        Ok(self.sequence)
    }

    fn receive(&mut self) -> Result<Vec<u8>, NetlinkError> {
        self.wire.receive().map_err(|source| NetlinkError::Receive(self.what, source))
    }

    fn frames<'a>(&self, datagram: &'a [u8], sequence: u32) -> Result<Vec<Frame<'a>>, NetlinkError> {
        frames(datagram, sequence).map_err(|source| NetlinkError::Malformed(self.what, source))
    }
}

/// Whether the same dump may succeed at once: answers were lost, or the list is in use.
fn is_passing(error: &NetlinkError) -> bool {
    match error {
        NetlinkError::Receive(_, source) => Errno::from_io_error(source) == Some(Errno::NOBUFS),
        NetlinkError::Refused(_, source) => {
            matches!(
                Errno::from_io_error(source),
                Some(Errno::INTR | Errno::AGAIN | Errno::BUSY | Errno::NOBUFS)
            )
        }
        _ => false,
    }
}

/// One message from the kernel.
#[derive(Debug, PartialEq, Eq)]
struct Frame<'a> {
    interrupted: bool,
    content: Content<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum Content<'a> {
    Body(&'a [u8]),
    Done,
    /// Success, or an errno.
    Outcome(Option<i32>),
}

/// A request in wire form.
fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    write(&mut request, kind, flags | NLM_F_REQUEST, sequence, &[body]);
    request
}

/// The messages of a datagram that answer the request with this sequence number.
fn frames(datagram: &[u8], sequence: u32) -> Result<Vec<Frame<'_>>, Malformed> {
    let mut frames = Vec::new();
    for message in messages(datagram) {
        let message = message?;
        if message.sequence_number() != sequence || message.message_type() == NLMSG_NOOP {
            continue;
        }
        let content = match message.message_type() {
            NLMSG_DONE => Content::Done,
            NLMSG_ERROR => Content::Outcome(errno(message.payload())?),
            _ => Content::Body(message.payload()),
        };
        frames.push(Frame { interrupted: message.flags() & NLM_F_DUMP_INTR != 0, content });
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use netlink_packet_core::NetlinkBuffer;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn written_request_reads_back_as_frame() {
        let mut datagram = request(0x101, 0, 7, &[1, 2, 3, 4]);
        datagram.extend(request(NLMSG_DONE, NLM_F_DUMP_INTR, 7, &[]));
        datagram.extend(request(0x101, 0, 6, &[9]));
        let expected = [
            Frame { interrupted: false, content: Content::Body(&[1, 2, 3, 4]) },
            Frame { interrupted: true, content: Content::Done },
        ];
        assert_eq!(frames(&datagram, 7).unwrap(), expected);
    }

    #[test]
    fn error_message_yields_errno_and_zero_means_success() {
        let refused = request(NLMSG_ERROR, 0, 1, &(-2i32).to_ne_bytes());
        assert_eq!(frames(&refused, 1).unwrap()[0].content, Content::Outcome(Some(2)));
        let done = request(NLMSG_ERROR, 0, 1, &0i32.to_ne_bytes());
        assert_eq!(frames(&done, 1).unwrap()[0].content, Content::Outcome(None));
    }

    /// Datagrams of messages: kinds, flags and bodies.
    type Answer = Vec<io::Result<Vec<Message>>>;
    type Message = (u16, u16, Vec<u8>);

    /// A kernel that answers each request with the next of these.
    #[derive(Default)]
    struct Script {
        answers: VecDeque<Answer>,
        datagrams: VecDeque<io::Result<Vec<u8>>>,
    }

    impl Wire for Script {
        fn send(&mut self, message: &[u8]) -> io::Result<()> {
            let sequence = NetlinkBuffer::new_checked(message).unwrap().sequence_number();
            let answer = self.answers.pop_front().unwrap();
            self.datagrams = answer
                .into_iter()
                .map(|datagram| {
                    let frame = |(kind, flags, body): Message| request(kind, flags, sequence, &body);
                    Ok(datagram?.into_iter().flat_map(frame).collect())
                })
                .collect();
            Ok(())
        }

        fn receive(&mut self) -> io::Result<Vec<u8>> {
            self.datagrams.pop_front().unwrap_or_else(|| Err(io::ErrorKind::WouldBlock.into()))
        }
    }

    fn channel(answers: Vec<Answer>) -> Channel<Script> {
        let wire = Script { answers: answers.into(), ..Script::default() };
        Channel { what: "a script", wire, sequence: 41 }
    }

    fn body(number: u8) -> Message {
        (0x101, 0, vec![number, 0, 0, 0])
    }

    fn done(flags: u16) -> Message {
        (NLMSG_DONE, flags, vec![0; 4])
    }

    fn odd(body: &[u8]) -> Option<u8> {
        body.first().copied().filter(|number| number % 2 == 1)
    }

    #[test]
    fn dump_keeps_only_selected_bodies() {
        let answer = vec![Ok(vec![body(1), body(2)]), Ok(vec![body(3)]), Ok(vec![body(4), done(0)])];
        assert_eq!(channel(vec![answer]).dump(0x101, &[], odd).unwrap(), [1, 3]);
    }

    #[test]
    fn interrupted_or_lost_dump_is_repeated() {
        let interrupted = vec![Ok(vec![body(1), body(3)]), Ok(vec![body(5), done(NLM_F_DUMP_INTR)])];
        let lost = vec![Ok(vec![body(7)]), Err(Errno::NOBUFS.into())];
        let busy = vec![Ok(vec![(NLMSG_ERROR, 0, (-Errno::BUSY.raw_os_error()).to_ne_bytes().to_vec())])];
        let good = vec![Ok(vec![body(9), done(0)])];
        let mut seen = 0;
        let mut channel = channel(vec![interrupted, lost, busy, good]);
        let kept = channel.dump(0x101, &[], |body| {
            seen += 1;
            odd(body)
        });
        assert_eq!((kept.unwrap(), seen), (vec![9], 5));
    }

    #[test]
    fn refused_dump_fails_and_unsteady_dump_ends_after_last_attempt() {
        let refused = vec![Ok(vec![(NLMSG_ERROR, 0, (-1i32).to_ne_bytes().to_vec())])];
        assert_eq!(channel(vec![refused]).dump(0x101, &[], odd).unwrap_err().refusal(), Some(Errno::PERM));
        let attempts = usize::try_from(DUMP_ATTEMPTS).unwrap();
        let unsteady = |_| vec![Ok(vec![body(1), done(NLM_F_DUMP_INTR)])];
        let mut unsteady = channel((0..attempts).map(unsteady).collect());
        assert_eq!(unsteady.dump(0x101, &[], odd).unwrap(), [1]);
        assert!(unsteady.wire.answers.is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(input: Vec<u8>, sequence: u32) {
            let _ = frames(&input, sequence);
        }

        #[test]
        fn broken_length_does_not_panic(len: u32, kind: u16, body: Vec<u8>) {
            let mut message = request(kind, 0, 1, &body);
            message[..4].copy_from_slice(&len.to_ne_bytes());
            let _ = frames(&message, 1);
        }
    }
}
