//! How long a change that another program makes of the table stands: from that program's transaction to the daemon's, as a
//! listener outside both hears of them. `scripts/bench repair` builds everything in release mode and runs it.

use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use integration::control_plane::Variant;
use integration::lab::{Families, Lab, LabOptions};
use integration::netns::Namespace;
use integration::scenario::Scenario;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};

const ROUNDS: usize = 20;
const LIMIT: Duration = Duration::from_secs(20);
/// So seldom that the daemon does not take it for a fight, in which it waits.
const PAUSE: Duration = Duration::from_millis(1200);

/// The group `NFNLGRP_NFTABLES` (7) of the kernel's `nfnetlink.h`, as a mask.
const NFTABLES: u32 = 1 << 6;
/// What a flush of all tables says fits.
const RECEIVE_BUFFER: usize = 8 << 20;
const DATAGRAM: usize = 64 << 10;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`.
const NEW_GENERATION: [u8; 2] = 0x0a0f_u16.to_ne_bytes();
/// `struct nlmsghdr` and `struct nfgenmsg`.
const HEADERS: usize = 20;
/// `NFTA_GEN_PROC_NAME`.
const PROC_NAME: u8 = 3;

const CHANGES: [&str; 5] = [
    "flush ruleset",
    "delete table inet apivip",
    "flush chain inet apivip nat-output",
    "flush chain inet apivip nat-postrouting\ndelete chain inet apivip nat-postrouting",
    "insert rule inet apivip nat-output ip daddr 192.0.2.99 drop",
];

fn main() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::SimulatedSlices, &[1, 2, 3])?;
    scenario.options = scenario.options.arg("--table-owner=off");
    let mut daemon = scenario.daemon()?;
    let mut monitor = Monitor::start(lab.node())?;
    println!("another program's transaction -> the daemon's, {ROUNDS} times each:");
    for script in CHANGES {
        let mut times =
            (0..ROUNDS).map(|_| monitor.repair(lab.node(), script)).collect::<Result<Vec<_>>>()?;
        times.sort();
        let millis = |index: usize| times[index].as_secs_f64() * 1000.0;
        let (median, longest) = (millis(ROUNDS / 2), millis(ROUNDS - 1));
        println!("  {:?}: median {median:.2} ms, longest {longest:.2} ms", script.replace('\n', "; "));
    }
    println!("by the daemon's own clock, from the event to its commit:");
    let metrics = daemon.metrics()?;
    let own = metrics.lines().filter(|line| line.starts_with("apivip_drift_repair_seconds"));
    own.for_each(|line| println!("  {line}"));
    daemon.stop()?;
    Ok(())
}

/// When the kernel told everybody of a transaction, and whose it was. `nft monitor` would first print all its rules, which
/// takes about as long as a repair.
struct Monitor(Receiver<(Instant, String)>);

impl Monitor {
    fn start(node: &Namespace) -> Result<Self> {
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let socket = node.within(|| {
            let socket = socket(AddressFamily::Netlink, kind, flags, SockProtocol::NetlinkNetFilter)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, NFTABLES))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
            Ok(socket)
        })?;
        let (sender, transactions) = channel();
        thread::spawn(move || {
            let mut datagram = vec![0; DATAGRAM];
            while let Ok(count) = recv(socket.as_raw_fd(), &mut datagram, MsgFlags::empty()) {
                let at = Instant::now();
                if programs(&datagram[..count]).any(|name| sender.send((at, name)).is_err()) {
                    return;
                }
            }
        });
        Ok(Self(transactions))
    }

    /// The time between the transaction of `script` and the next of anybody else.
    fn repair(&mut self, node: &Namespace, script: &str) -> Result<Duration> {
        thread::sleep(PAUSE);
        while self.0.try_recv().is_ok() {}
        node.nft_load(script)?;
        let changed = self.transaction(true)?;
        let repaired = self.transaction(false)?;
        Ok(repaired.duration_since(changed))
    }

    /// When the next transaction was told: nft's, or that of another program.
    fn transaction(&mut self, by_nft: bool) -> Result<Instant> {
        loop {
            let (at, name) = self.0.recv_timeout(LIMIT).context("no transaction was told")?;
            if (name == "nft") == by_nft {
                return Ok(at);
            }
        }
    }
}

/// The programs whose transactions a datagram tells of: `NFTA_GEN_PROC_NAME` of each `NFT_MSG_NEWGEN`.
fn programs(datagram: &[u8]) -> impl Iterator<Item = String> {
    pieces(datagram, 0).filter(|message| message.get(4..6) == Some(&NEW_GENERATION)).filter_map(|message| {
        let attributes = message.get(HEADERS..)?;
        let name = pieces(attributes, 1).find(|attribute| attribute.get(2) == Some(&PROC_NAME))?;
        Some(String::from_utf8_lossy(name.get(4..)?).trim_end_matches('\0').to_owned())
    })
}

/// Messages, whose length has four bytes, or attributes, where it has two; each begins with it and at a multiple of four.
fn pieces(mut bytes: &[u8], attribute: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = match attribute {
            0 => u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize,
            _ => usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?)),
        };
        let piece = bytes.get(..length).filter(|piece| piece.len() >= 4)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(piece)
    })
}
