//! Where each flow of an order stands: which entry to delete, which flow to challenge, which has ended. Pure.
//!
//! In: what conntrack shows, what clients answer, what was sent, and the time. Out: what to do next, and in the end
//! what remains.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::entries::{Entry, Flow, TcpState};
use super::packet::{ClientReply, ReplyKind};
use crate::dataplane::flows::Remaining;

/// A socket sends one challenge ACK per 500 ms (`net.ipv4.tcp_invalid_ratelimit`).
pub(super) const ROUND: Duration = Duration::from_millis(550);
/// The ACK that completes a handshake follows within a round trip of the client; past this the SYN-ACK got lost, and
/// the client still sends SYNs.
const HALF_OPEN: Duration = Duration::from_millis(300);
/// A reset that got lost is sent again at the client's next word, but not for each packet of a burst.
const RESET_AGAIN: Duration = Duration::from_millis(50);
/// A flow that was challenged so often had its chance to answer.
const ENOUGH: u32 = 2;

/// All flows of one order.
#[derive(Debug, Default)]
pub(super) struct Progress {
    open: HashMap<Flow, TrackedFlow>,
    half_open: HashMap<Flow, Instant>,
    clients: HashMap<IpAddr, ClientPacing>,
}

#[derive(Clone, Debug, Default)]
struct TrackedFlow {
    /// When it was last challenged, or its socket destroyed.
    challenged_at: Option<Instant>,
    times: u32,
    /// It has been challenged at all.
    challenged: bool,
    this_round: bool,
    failed: Option<Remaining>,
    reset: Option<Instant>,
    /// Its client has said that there is no such connection any more, whatever conntrack shows.
    ended: bool,
    /// It seems closed on both sides.
    closing: bool,
}

impl TrackedFlow {
    /// Whether its client still has to be reset. One that seems closed is challenged often enough, and then believed closed.
    fn waits(&self) -> bool {
        !(self.ended || self.closing && self.times >= ENOUGH)
    }
}

/// What follows from a scan of conntrack.
#[derive(Debug)]
pub(super) struct Scan {
    /// Entries of connections that are being opened: without them the next SYN finds another backend.
    pub(super) delete: Vec<Entry>,
    /// Entries of connections that have ended: without them their ports can be used again.
    pub(super) forget: Vec<Entry>,
    /// How many flows ended since the last scan.
    pub(super) ended: u64,
    /// How many of them had been challenged.
    pub(super) ended_challenged: u64,
}

impl Progress {
    /// Takes in what conntrack shows now.
    pub(super) fn scan(&mut self, entries: Vec<Entry>, now: Instant) -> Scan {
        let mut open = HashMap::new();
        let mut half_open = HashMap::new();
        let (mut delete, mut forget) = (Vec::new(), Vec::new());
        for entry in entries {
            match entry.state {
                TcpState::Unanswered => delete.push(entry),
                TcpState::HalfOpen => {
                    let since = self.half_open.get(&entry.flow).copied().unwrap_or(now);
                    half_open.insert(entry.flow, since);
                    if now.saturating_duration_since(since) >= HALF_OPEN {
                        delete.push(entry);
                    }
                }
                TcpState::Open | TcpState::Closing => {
                    // The same addresses may stand in two zones.
                    let known = || self.open.remove(&entry.flow).unwrap_or_default();
                    open.entry(entry.flow).or_insert_with(known).closing = entry.state == TcpState::Closing;
                }
                TcpState::Ended => forget.push(entry),
                TcpState::Other => {}
            }
        }
        // What is left of the earlier ones is no longer open.
        let (mut ended, mut ended_challenged) = (0, 0);
        for track in self.open.values().filter(|track| !track.ended && !track.closing) {
            ended += 1;
            ended_challenged += u64::from(track.challenged);
        }
        (self.open, self.half_open) = (open, half_open);
        Scan { delete, forget, ended, ended_challenged }
    }

    /// Flows whose clients still have to be reset.
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

    /// Begins a round and returns the flows to challenge in it: those that were never challenged first, those that seem closed
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
        let due = |track: &TrackedFlow| {
            track.waits()
                && track.challenged_at.is_none_or(|last| now.saturating_duration_since(last) >= ROUND)
        };
        let mut flows: Vec<_> = self
            .open
            .iter()
            .filter(|(_, track)| due(track))
            .map(|(flow, track)| ((track.closing, track.challenged_at), *flow))
            .collect();
        flows.sort_unstable_by_key(|(order, flow)| (*order, flow.client.port()));
        flows.retain(|(_, flow)| self.clients.entry(flow.client.ip()).or_default().take());
        flows.into_iter().map(|(_, flow)| flow).collect()
    }

    /// The flows to challenge in this round, counted from 1: those that were challenged in every round before. A flow that
    /// stays open says nothing about how many challenges its client can answer, so each is challenged.
    pub(super) fn to_challenge(&self, round: u32, now: Instant) -> Vec<Flow> {
        let due = |track: &TrackedFlow| {
            track.times + 1 == round
                && track.challenged_at.is_none_or(|last| now.saturating_duration_since(last) >= ROUND)
        };
        self.open.iter().filter(|(_, track)| due(track)).map(|(flow, _)| *flow).collect()
    }

    /// Has all flows challenged as if they never were.
    pub(super) fn restart_challenges(&mut self) {
        self.open.values_mut().for_each(|track| (track.times, track.this_round) = (0, false));
    }

    /// Whether a flow that was to be challenged still needs it.
    pub(super) fn is_open(&self, flow: Flow) -> bool {
        self.open.get(&flow).is_some_and(TrackedFlow::waits)
    }

    /// A challenge SYN was sent to a flow. Returns whether that was for the first time.
    pub(super) fn challenged(&mut self, flow: Flow, now: Instant) -> bool {
        let Some(track) = self.open.get_mut(&flow) else { return false };
        track.challenged_at = Some(now);
        track.times += 1;
        track.this_round = true;
        track.failed = None;
        !std::mem::replace(&mut track.challenged, true)
    }

    /// A flow could not be challenged.
    pub(super) fn failed(&mut self, flow: Flow, reason: Remaining, now: Instant) {
        if let Some(track) = self.open.get_mut(&flow) {
            track.challenged_at = Some(now);
            track.failed = Some(reason);
        }
    }

    /// The host's own end of a flow was destroyed; if it stays open nevertheless, it is challenged in a later round.
    pub(super) fn destroyed(&mut self, flow: Flow, now: Instant) {
        if let Some(track) = self.open.get_mut(&flow) {
            track.challenged_at = Some(now);
        }
    }

    /// A client replied. Returns whether its flow ended by that.
    pub(super) fn replied(&mut self, answer: ClientReply) -> bool {
        let Some(track) = self.open.get_mut(&answer.flow) else { return false };
        // An unprompted reset may be an answer to something else and be refused by conntrack.
        let ended = answer.kind == ReplyKind::Closed && !track.ended && track.times > 0;
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

/// A bucket that holds one second's worth of challenge SYNs and refills at the rate: 5,000 flows go at once, 50,000 take 9 s.
#[derive(Debug)]
pub(super) struct TokenBucket {
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket. A rate of 0 counts as 1.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate.max(1));
        Self { rate, tokens: rate, filled: now }
    }

    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + elapsed * self.rate).min(self.rate);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }

    /// Gives back one that was not used.
    pub(super) fn put_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(self.rate);
    }

    /// When the next one will be there.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let missing = (1.0 - self.tokens).max(0.0) / self.rate;
        now + Duration::from_secs_f64(missing)
    }
}

/// Never fewer, so that a client that answers nothing does not hold its round up for long.
const LEAST: u32 = 100;

/// How many flows of one client host may be challenged in a round.
///
/// It starts without a limit. A host that has one itself (`net.ipv4.tcp_challenge_ack_limit`, about 1,000 answers a
/// second before 6.1) answers some, and gets half as many more in the next round: so its limit, which its
/// kernel varies at random, is used up, and most of the flows that it would not answer are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ClientPacing {
    limit: Option<u32>,
    sent: u32,
    /// In the round before: one that falls into a second whose answers are used up says nothing of the next.
    ended_before: u32,
    answered: bool,
}

impl ClientPacing {
    /// Counts one challenge of this round, if the limit allows it.
    pub(super) fn take(&mut self) -> bool {
        let allowed = self.limit.is_none_or(|limit| self.sent < limit);
        self.sent += u32::from(allowed);
        allowed
    }

    /// Whether any of its flows ended by a challenge.
    pub(super) fn has_answered(self) -> bool {
        self.answered
    }

    /// Ends the round: `open` of the challenged flows did not end.
    pub(super) fn end_round(&mut self, open: u32) {
        let ended = self.sent.saturating_sub(open);
        self.answered |= ended > 0;
        if self.sent >= LEAST {
            let most_ended = u64::from(ended) * 10 >= u64::from(self.sent) * 9;
            self.limit = match self.limit {
                limit if most_ended => limit.map(|limit| limit.saturating_mul(2)),
                _ => {
                    let most = ended.max(self.ended_before);
                    Some(most.saturating_add(most / 2).max(LEAST))
                }
            };
            self.ended_before = ended;
        }
        self.sent = 0;
    }
}

#[cfg(test)]
mod tests;
