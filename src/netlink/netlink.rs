//! One blocking netlink socket: requests with one answer, and dumps.
//!
//! In: message kind, flags and body. Out: the bodies of the kernel's answers, or what the caller makes of them. Owns framing and what can go wrong
//! between the two: interrupted dumps and lost answers are asked for again.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    ErrorBuffer, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NetlinkBuffer,
};
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

/// The kernel answers at once; this only bounds the wait for an answer that was lost.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// A dump is asked for again when the kernel says that it changed meanwhile, or lost a part of it.
const DUMP_ATTEMPTS: u32 = 8;
/// The kernel fills datagrams of a dump up to the size that the reader offers, at most 32 KiB.
const DATAGRAM: usize = 32 << 10;
const HEADER: usize = 16;
const ALIGN: usize = 4;

/// A message that does not keep to its format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub(crate) String);

/// Why the kernel could not be asked.
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
    pub(crate) fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused(_, source) => source.raw_os_error(),
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
        self.send_to(message, &SocketAddr::new(0, 0), 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            match self.recv(&mut datagram, 0) {
                Ok(_) => return Ok(datagram),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
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
        let failed = |source| NetlinkError::Open(what, source);
        let mut socket = Socket::new(protocol).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        SockRef::from(&socket).set_read_timeout(Some(REPLY_TIMEOUT)).map_err(failed)?;
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

const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const EBUSY: i32 = 16;
const ENOBUFS: i32 = 105;

/// Whether the same dump may succeed at once: answers were lost, or the list is in use.
fn is_passing(error: &NetlinkError) -> bool {
    match error {
        NetlinkError::Receive(_, source) => source.raw_os_error() == Some(ENOBUFS),
        NetlinkError::Refused(_, source) => {
            matches!(source.raw_os_error(), Some(EINTR | EAGAIN | EBUSY | ENOBUFS))
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
    let len = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&len.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(body);
    message
}

/// The messages of a datagram that answer the request with this sequence number.
fn frames(datagram: &[u8], sequence: u32) -> Result<Vec<Frame<'_>>, Malformed> {
    let mut frames = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(|error| Malformed(error.to_string()))?;
        let len = usize::try_from(message.length()).unwrap_or(usize::MAX);
        if message.sequence_number() == sequence && message.message_type() != NLMSG_NOOP {
            let content = match message.message_type() {
                NLMSG_DONE => Content::Done,
                NLMSG_ERROR => {
                    let error = ErrorBuffer::new_checked(message.payload())
                        .map_err(|error| Malformed(error.to_string()))?;
                    Content::Outcome(error.code().map(|code| code.get().saturating_neg()))
                }
                _ => Content::Body(message.payload()),
            };
            frames.push(Frame { interrupted: message.flags() & NLM_F_DUMP_INTR != 0, content });
        }
        rest = rest.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_reads_as_a_frame() {
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
    fn an_error_is_its_errno_and_zero_is_success() {
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
    fn of_a_dump_only_what_is_selected_is_kept() {
        let answer = vec![Ok(vec![body(1), body(2)]), Ok(vec![body(3)]), Ok(vec![body(4), done(0)])];
        assert_eq!(channel(vec![answer]).dump(0x101, &[], odd).unwrap(), [1, 3]);
    }

    #[test]
    fn a_dump_that_was_interrupted_or_lost_starts_anew() {
        let interrupted = vec![Ok(vec![body(1), body(3)]), Ok(vec![body(5), done(NLM_F_DUMP_INTR)])];
        let lost = vec![Ok(vec![body(7)]), Err(io::Error::from_raw_os_error(ENOBUFS))];
        let busy = vec![Ok(vec![(NLMSG_ERROR, 0, (-EBUSY).to_ne_bytes().to_vec())])];
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
    fn a_dump_that_is_refused_or_never_steady_comes_to_an_end() {
        let refused = vec![Ok(vec![(NLMSG_ERROR, 0, (-1i32).to_ne_bytes().to_vec())])];
        assert_eq!(channel(vec![refused]).dump(0x101, &[], odd).unwrap_err().refusal(), Some(1));
        let attempts = usize::try_from(DUMP_ATTEMPTS).unwrap();
        let unsteady = |_| vec![Ok(vec![body(1), done(NLM_F_DUMP_INTR)])];
        let mut unsteady = channel((0..attempts).map(unsteady).collect());
        assert_eq!(unsteady.dump(0x101, &[], odd).unwrap(), [1]);
        assert!(unsteady.wire.answers.is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(input: Vec<u8>, sequence: u32) {
            let _ = frames(&input, sequence);
        }

        #[test]
        fn a_broken_length_never_panics(len: u32, kind: u16, body: Vec<u8>) {
            let mut message = request(kind, 0, 1, &body);
            message[..4].copy_from_slice(&len.to_ne_bytes());
            let _ = frames(&message, 1);
        }
    }
}
