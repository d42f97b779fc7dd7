//! One blocking netlink socket: requests with one answer, and dumps.
//!
//! In: message kind, flags and body. Out: the bodies of the kernel's answers. Owns framing and what can go wrong
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
pub struct Malformed(pub(super) String);

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
    pub(in crate::dataplane) fn refusal(&self) -> Option<i32> {
        match self {
            Self::Refused(_, source) => source.raw_os_error(),
            _ => None,
        }
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(in crate::dataplane) struct Channel {
    what: &'static str,
    socket: Socket,
    sequence: u32,
}

impl Channel {
    /// `what` names the kernel's side in errors.
    pub(in crate::dataplane) fn open(protocol: isize, what: &'static str) -> Result<Self, NetlinkError> {
        let failed = |source| NetlinkError::Open(what, source);
        let mut socket = Socket::new(protocol).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        SockRef::from(&socket).set_read_timeout(Some(REPLY_TIMEOUT)).map_err(failed)?;
        Ok(Self { what, socket, sequence: 0 })
    }

    /// One request, acknowledged: the body of the last message that came before the acknowledgement, if any.
    pub(in crate::dataplane) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
    ) -> Result<Option<Vec<u8>>, NetlinkError> {
        let sequence = self.send(kind, flags | NLM_F_ACK, body)?;
        let mut answer = None;
        loop {
            for frame in self.receive(sequence)? {
                match frame.content {
                    Content::Body(body) => answer = Some(body),
                    Content::Done | Content::Outcome(None) => return Ok(answer),
                    Content::Outcome(Some(errno)) => return Err(self.refused(errno)),
                }
            }
        }
    }

    /// The bodies of all messages of a dump. One that kept changing is given as it was seen last.
    pub(in crate::dataplane) fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
    ) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut attempt = 1;
        loop {
            let last = attempt == DUMP_ATTEMPTS;
            match self.dump_once(kind, body) {
                Ok((bodies, interrupted)) if !interrupted || last => return Ok(bodies),
                Err(error) if last || !is_passing(&error) => return Err(error),
                _ => attempt += 1,
            }
        }
    }

    fn dump_once(&mut self, kind: u16, body: &[u8]) -> Result<(Vec<Vec<u8>>, bool), NetlinkError> {
        let sequence = self.send(kind, NLM_F_DUMP, body)?;
        let mut bodies = Vec::new();
        let mut interrupted = false;
        loop {
            for frame in self.receive(sequence)? {
                interrupted |= frame.interrupted;
                match frame.content {
                    Content::Body(body) => bodies.push(body),
                    Content::Done | Content::Outcome(None) => return Ok((bodies, interrupted)),
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
        let kernel = SocketAddr::new(0, 0);
        self.socket.send_to(&message, &kernel, 0).map_err(|source| NetlinkError::Send(self.what, source))?;
        Ok(self.sequence)
    }

    fn receive(&self, sequence: u32) -> Result<Vec<Frame>, NetlinkError> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        loop {
            match self.socket.recv(&mut datagram, 0) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NetlinkError::Receive(self.what, error)),
            }
        }
        frames(&datagram, sequence).map_err(|source| NetlinkError::Malformed(self.what, source))
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
struct Frame {
    interrupted: bool,
    content: Content,
}

#[derive(Debug, PartialEq, Eq)]
enum Content {
    Body(Vec<u8>),
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
fn frames(datagram: &[u8], sequence: u32) -> Result<Vec<Frame>, Malformed> {
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
                _ => Content::Body(message.payload().to_vec()),
            };
            frames.push(Frame { interrupted: message.flags() & NLM_F_DUMP_INTR != 0, content });
        }
        rest = rest.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_reads_as_a_frame() {
        let mut datagram = request(0x101, 0, 7, &[1, 2, 3, 4]);
        datagram.extend(request(NLMSG_DONE, NLM_F_DUMP_INTR, 7, &[]));
        datagram.extend(request(0x101, 0, 6, &[9]));
        let expected = [
            Frame { interrupted: false, content: Content::Body(vec![1, 2, 3, 4]) },
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
