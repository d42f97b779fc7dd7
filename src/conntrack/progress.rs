//! Where each flow of an order stands: which entry to delete, which flow to nudge, which has ended. Pure.
//!
//! In: what conntrack shows, what clients answer, what was sent, and the time. Out: what to do next, and in the end
//! what remains.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::pace::ClientPace;
use super::packet::{Answer, AnswerKind};
use super::report::Remaining;
use crate::conntrack::entries::{Entry, Flow, State};

/// A socket sends one challenge ACK per 500 ms (`net.ipv4.tcp_invalid_ratelimit`).
pub(super) const ROUND: Duration = Duration::from_millis(550);
/// The ACK that completes a handshake follows within a round trip of the client; past this the SYN-ACK got lost, and
/// the client still sends SYNs.
const HALF_OPEN: Duration = Duration::from_millis(300);
/// A reset that got lost is sent again at the client's next word, but not for each packet of a burst.
const RESET_AGAIN: Duration = Duration::from_millis(50);
/// A flow that was asked so often had its chance to answer.
const ENOUGH: u32 = 2;

/// All flows of one order.
#[derive(Debug, Default)]
pub(super) struct Progress {
    open: HashMap<Flow, Track>,
    half_open: HashMap<Flow, Instant>,
    clients: HashMap<IpAddr, ClientPace>,
}

#[derive(Clone, Debug, Default)]
struct Track {
    /// When it was last nudged, or its socket destroyed.
    nudged: Option<Instant>,
    times: u32,
    /// It has been nudged at all.
    asked: bool,
    this_round: bool,
    failed: Option<Remaining>,
    reset: Option<Instant>,
    /// Its client has said that there is no such connection any more, whatever conntrack shows.
    ended: bool,
    /// It seems closed on both sides.
    closing: bool,
}

impl Track {
    /// Whether its client is still to be told. One that seems closed is asked often enough, and then believed.
    fn waits(&self) -> bool {
        !(self.ended || self.closing && self.times >= ENOUGH)
    }
}

/// What follows from a look at conntrack.
#[derive(Debug)]
pub(super) struct Look {
    /// Entries of connections that are being opened: without them the next SYN finds another backend.
    pub(super) delete: Vec<Entry>,
    /// Entries of connections that have ended: without them their ports can be used again.
    pub(super) forget: Vec<Entry>,
    /// How many flows ended since the last look.
    pub(super) ended: u64,
    /// How many of them had been nudged.
    pub(super) ended_asked: u64,
}

impl Progress {
    /// Takes in what conntrack shows now.
    pub(super) fn look(&mut self, entries: Vec<Entry>, now: Instant) -> Look {
        let mut open = HashMap::new();
        let mut half_open = HashMap::new();
        let (mut delete, mut forget) = (Vec::new(), Vec::new());
        for entry in entries {
            match entry.state {
                State::Unanswered => delete.push(entry),
                State::HalfOpen => {
                    let since = self.half_open.get(&entry.flow).copied().unwrap_or(now);
                    half_open.insert(entry.flow, since);
                    if now.saturating_duration_since(since) >= HALF_OPEN {
                        delete.push(entry);
                    }
                }
                State::Open | State::Closing => {
                    // The same addresses may stand in two zones.
                    let known = || self.open.remove(&entry.flow).unwrap_or_default();
                    open.entry(entry.flow).or_insert_with(known).closing = entry.state == State::Closing;
                }
                State::Ended => forget.push(entry),
                State::Other => {}
            }
        }
        // What is left of the earlier ones is no longer open.
        let (mut ended, mut ended_asked) = (0, 0);
        for track in self.open.values().filter(|track| !track.ended && !track.closing) {
            ended += 1;
            ended_asked += u64::from(track.asked);
        }
        (self.open, self.half_open) = (open, half_open);
        Look { delete, forget, ended, ended_asked }
    }

    /// Flows whose clients are still to be told.
    pub(super) fn open(&self) -> impl Iterator<Item = Flow> {
        self.open.iter().filter(|(_, track)| track.waits()).map(|(flow, _)| *flow)
    }

    /// How many flows are open beyond doubt.
    pub(super) fn count(&self) -> usize {
        self.open.values().filter(|track| !track.ended && !track.closing).count()
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_done(&self) -> bool {
        self.half_open.is_empty() && self.open().next().is_none()
    }

    /// Begins a round and returns the flows to nudge in it: those that were never nudged first, those that seem closed
    /// last.
    pub(super) fn begin_round(&mut self, now: Instant) -> Vec<Flow> {
        let mut unmoved: HashMap<IpAddr, u32> = HashMap::new();
        for (flow, track) in &mut self.open {
            if std::mem::take(&mut track.this_round) && !track.ended {
                *unmoved.entry(flow.client.ip()).or_default() += 1;
            }
        }
        for (ip, pace) in &mut self.clients {
            pace.end_round(unmoved.get(ip).copied().unwrap_or_default());
        }
        let due = |track: &Track| {
            track.waits() && track.nudged.is_none_or(|last| now.saturating_duration_since(last) >= ROUND)
        };
        let mut flows: Vec<_> = self
            .open
            .iter()
            .filter(|(_, track)| due(track))
            .map(|(flow, track)| ((track.closing, track.nudged), *flow))
            .collect();
        flows.sort_unstable_by_key(|(order, flow)| (*order, flow.client.port()));
        flows.retain(|(_, flow)| self.clients.entry(flow.client.ip()).or_default().take());
        flows.into_iter().map(|(_, flow)| flow).collect()
    }

    /// The flows to ask in this round, counted from 1: those that were asked in every round before. Who stays open when
    /// asked says nothing about how many a client can answer, so each is asked.
    pub(super) fn to_ask(&self, round: u32, now: Instant) -> Vec<Flow> {
        let due = |track: &Track| {
            track.times + 1 == round
                && track.nudged.is_none_or(|last| now.saturating_duration_since(last) >= ROUND)
        };
        self.open.iter().filter(|(_, track)| due(track)).map(|(flow, _)| *flow).collect()
    }

    /// Has all flows asked as if they never were.
    pub(super) fn ask_anew(&mut self) {
        self.open.values_mut().for_each(|track| (track.times, track.this_round) = (0, false));
    }

    /// Whether a flow that was to be nudged still needs it.
    pub(super) fn is_open(&self, flow: Flow) -> bool {
        self.open.get(&flow).is_some_and(Track::waits)
    }

    /// A flow was nudged. Returns whether that was for the first time.
    pub(super) fn nudged(&mut self, flow: Flow, now: Instant) -> bool {
        let Some(track) = self.open.get_mut(&flow) else { return false };
        track.nudged = Some(now);
        track.times += 1;
        track.this_round = true;
        track.failed = None;
        !std::mem::replace(&mut track.asked, true)
    }

    /// A flow could not be nudged.
    pub(super) fn failed(&mut self, flow: Flow, reason: Remaining, now: Instant) {
        if let Some(track) = self.open.get_mut(&flow) {
            track.nudged = Some(now);
            track.failed = Some(reason);
        }
    }

    /// The host's own end of a flow was destroyed; if it stays open nevertheless, it is nudged in a later round.
    pub(super) fn destroyed(&mut self, flow: Flow, now: Instant) {
        if let Some(track) = self.open.get_mut(&flow) {
            track.nudged = Some(now);
        }
    }

    /// A client said something. Returns whether its flow ended by that.
    pub(super) fn answered(&mut self, answer: Answer) -> bool {
        let Some(track) = self.open.get_mut(&answer.flow) else { return false };
        // A reset that nobody asked for may be an answer to something else and be refused by conntrack.
        let ended = answer.kind == AnswerKind::Closed && !track.ended && track.times > 0;
        track.ended |= ended;
        ended
    }

    /// Whether a reset of our own is due for what a client said, and then counts it as sent.
    pub(super) fn wants_reset(&mut self, flow: Flow, now: Instant) -> bool {
        let Some(track) = self.open.get_mut(&flow) else { return false };
        let wanted =
            !track.ended && track.reset.is_none_or(|last| now.saturating_duration_since(last) >= RESET_AGAIN);
        if wanted {
            track.reset = Some(now);
        }
        wanted
    }

    /// Open flows by the reason that they are.
    pub(super) fn remaining(&self) -> BTreeMap<Remaining, u64> {
        let mut remaining = BTreeMap::new();
        for (flow, track) in self.open.iter().filter(|(_, track)| !track.ended && !track.closing) {
            let answers = self.clients.get(&flow.client.ip()).is_some_and(|pace| pace.has_answered());
            let reason = match track.failed {
                Some(reason) => reason,
                None if track.times == 0 => Remaining::OutOfTime,
                None if track.times < ENOUGH && answers => Remaining::OutOfTime,
                None => Remaining::NoAnswer,
            };
            *remaining.entry(reason).or_default() += 1;
        }
        remaining
    }
}

#[cfg(test)]
mod tests;
