//! Sees what clients send to the virtual IPs, before any rule translates it.
//!
//! In: the virtual IPs of an order. Out: [`Answer`]s. A filter in the kernel passes nothing else, so that a busy node
//! pays for it only while an order needs it.

use std::io::{self, Read};

use socket2::{Domain, Protocol, Socket, Type};

use super::filter::{self, SNAP};
use super::packet::{self, Answer};
use crate::model::types::Vip;

/// `ETH_P_ALL`: sees packets of a bridge's port before the bridge hands them on, translated or not.
const ETH_P_ALL: u16 = 0x0003;
/// Room for the answers of thousands of clients; the kernel caps it at net.core.rmem_max.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Answers taken in one go, so that a client that sends without end does not keep the caller.
const MOST: usize = 4096;

/// Open packet sockets, one for each virtual IP.
pub(super) struct Sniffer {
    sockets: Vec<Socket>,
}

impl Sniffer {
    /// Starts to listen. Needs CAP_NET_RAW.
    pub(super) fn open(vips: &[Vip]) -> io::Result<Self> {
        let sockets = vips.iter().map(|vip| {
            let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
            socket.attach_filter(&filter::answers_to(*vip))?;
            socket.set_nonblocking(true)?;
            let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
            Ok(socket)
        });
        Ok(Self { sockets: sockets.collect::<io::Result<_>>()? })
    }

    /// What was said since the last call.
    pub(super) fn drain(&self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for socket in &self.sockets {
            let mut buffer = [0; SNAP as usize];
            for _ in 0..MOST {
                let mut socket = socket;
                let Ok(len) = socket.read(&mut buffer) else { break };
                answers.extend(packet::answer(buffer.get(..len).unwrap_or_default()));
            }
        }
        answers
    }
}
