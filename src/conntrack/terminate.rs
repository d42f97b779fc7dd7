//! One order under way: scans conntrack, deletes entries, destroys sockets, sends challenge SYNs, and scans again.
//!
//! In: an order and the kernel; [`FlowJob::step`] is called whenever [`FlowJob::due`] has come. Out: a [`FlowReport`] once
//! nothing is open any more, or the time is up; of an order that ends no flow, after [`ROUNDS`]. A step reads conntrack
//! once, or sends a few hundred packets.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::capture::Sniffer;
use super::entries::Flow;
use super::kernel::KernelSockets;
use super::packet::{self, ReplyKind};
use super::progress::{Progress, ROUND, Scan, TokenBucket};
use super::queue::{CommandQueue, FlowOptions};
use super::sender::SendError;
use crate::dataplane::flows::{FlowOrder, FlowReport, Purpose, Remaining};
use crate::model::types::{Backend, Vip};

/// Packets sent in one step, so that another order waits for a few milliseconds only.
const BATCH: usize = 256;
/// Rounds of an order that ends no flow: for 1.65 s conntrack is read, in case a client's SYN, sent before the rules said
/// otherwise, has reached the backend.
const ROUNDS: u32 = 3;
/// In so many of them flows are challenged: a second time, since a packet may get lost, those that are open still.
const CHALLENGE_ROUNDS: u32 = 2;
/// Scans of conntrack after the last challenge SYN of a round: clients answer within a round trip, so most flows are gone at
/// the first. The last one begins the next round.
const SCANS: [Duration; 5] = [
    Duration::from_millis(15),
    Duration::from_millis(40),
    Duration::from_millis(120),
    Duration::from_millis(300),
    ROUND,
];
/// While clients' answers are answered: far below a round trip that a person would notice.
const LISTEN: Duration = Duration::from_millis(2);
/// Until a socket's buffer has room again.
const BREATHE: Duration = Duration::from_millis(3);

/// See the module.
pub(super) struct FlowJob {
    order: FlowOrder,
    vips: Vec<Vip>,
    deadline: Instant,
    scan_at: Instant,
    /// When the last challenge SYN of this round was sent, or there was none to send.
    round_sent: Instant,
    /// Rounds begun for the order as it is now.
    round: u32,
    send_at: Instant,
    queue: VecDeque<Flow>,
    progress: Progress,
    /// The open flows stand in the report.
    counted: bool,
    sniffer: Option<Sniffer>,
    report: FlowReport,
}

impl FlowJob {
    /// Takes an order up.
    pub(super) fn new(order: FlowOrder, options: &FlowOptions, now: Instant) -> Self {
        let report = FlowReport { started: now, ..FlowReport::new(order.backend, order.purpose) };
        Self {
            vips: order.vips_of_its_family(),
            deadline: now + options.bound,
            scan_at: now,
            // So long ago that the first scan begins the first round.
            round_sent: now.checked_sub(ROUND).unwrap_or(now),
            round: 0,
            send_at: now,
            queue: VecDeque::new(),
            progress: Progress::default(),
            sniffer: None,
            counted: false,
            report,
            order,
        }
    }

    /// Goes on by another order for the same backend, for as long as a new one, unless that is a weaker one: one report
    /// covers both.
    pub(super) fn update(&mut self, order: FlowOrder, options: &FlowOptions, now: Instant) {
        if order.purpose.is_weaker_than(self.order.purpose) {
            return;
        }
        if !self.ends() {
            self.round = 0;
            self.round_sent = now.checked_sub(ROUND).unwrap_or(now);
            self.queue.clear();
            self.progress.restart_challenges();
        }
        // Flows may have begun meanwhile.
        self.report.flows = self.report.flows.saturating_sub(count(self.progress.count()));
        if order.purpose.ends() && !self.ends() {
            // Challenges have counters of their own, and times count from the order to end flows.
            let FlowReport { syn_sent, challenged, ended, ref degraded, .. } = self.report;
            let degraded = degraded.clone();
            let new = FlowReport::new(order.backend, order.purpose);
            self.report = FlowReport { started: now, syn_sent, challenged, ended, degraded, ..new };
        }
        self.report.purpose = order.purpose;
        (self.vips, self.order) = (order.vips_of_its_family(), order);
        (self.deadline, self.scan_at) = (now + options.bound, now);
        self.counted = false;
    }

    /// Whether flows are ended.
    pub(super) fn ends(&self) -> bool {
        self.order.purpose.ends()
    }

    fn challenges(&self) -> bool {
        matches!(self.order.purpose, Purpose::Challenge)
    }

    fn answers_itself(&self) -> bool {
        self.order.purpose == Purpose::Reset { own_reset: true }
    }

    /// The backend whose flows it ends.
    pub(super) fn backend(&self) -> Backend {
        self.order.backend
    }

    /// When the next step is due.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let due = if self.queue.is_empty() { self.scan_at } else { self.send_at }.min(self.deadline);
        if self.answers_itself() && self.sniffer.is_some() { due.min(now + LISTEN) } else { due }
    }

    /// Does what is due. `Some`: that was the last step.
    pub(super) fn step(
        &mut self,
        kernel: &mut KernelSockets,
        bucket: &mut TokenBucket,
        commands: &mut CommandQueue,
    ) -> Option<FlowReport> {
        self.listen(kernel);
        let now = Instant::now();
        if !self.queue.is_empty() && now < self.deadline {
            if now >= self.send_at {
                self.send_challenges(kernel, bucket, commands);
            }
            return None;
        }
        if now < self.scan_at.min(self.deadline) {
            return None;
        }
        let read = self.scan(kernel, bucket, commands);
        let is_done = match self.order.purpose {
            Purpose::Reset { .. } => read && self.progress.is_done(),
            Purpose::Reroute | Purpose::Challenge => self.round > ROUNDS,
        };
        if is_done || Instant::now() >= self.deadline {
            // What was only challenged and stays open is alive.
            if self.ends() {
                self.report.remaining = self.progress.remaining();
            }
            return Some(self.end());
        }
        None
    }

    /// Whether it only moves connections that are being opened.
    pub(super) fn only_moves(&self) -> bool {
        self.order.purpose == Purpose::Reroute
    }

    /// Ends it before its time.
    pub(super) fn cancel(mut self) -> FlowReport {
        self.report.cancelled = true;
        self.end()
    }

    fn end(&mut self) -> FlowReport {
        self.report.took = self.report.started.elapsed();
        self.report.clone()
    }

    /// Reads conntrack and acts upon it. `false`: it could not be read now.
    fn scan(
        &mut self,
        kernel: &mut KernelSockets,
        bucket: &mut TokenBucket,
        commands: &mut CommandQueue,
    ) -> bool {
        let began = Instant::now();
        let mut entries = Vec::new();
        for vip in &self.vips {
            match kernel.entries(*vip, self.order.backend) {
                Ok(found) => entries.extend(found),
                Err(error) => {
                    self.degrade(&error);
                    self.scan_at = Instant::now() + ROUND;
                    return false;
                }
            }
        }
        let now = Instant::now();
        let Scan { delete, forget, ended, ended_challenged } = self.progress.scan(entries, now);
        if ended > 0 {
            self.report.last_ended = now - self.report.started;
        }
        if self.challenges() {
            self.report.ended += ended_challenged;
        }
        // A backend that is challenged was heard: what is being opened to it comes about, or is refused, by itself.
        let moves = !self.challenges();
        let deleted = delete.iter().filter(|entry| moves && kernel.delete(entry)).count();
        self.report.syn_sent += count(deleted);
        for entry in &forget {
            kernel.delete(entry);
        }
        if self.report.found_after.is_zero() {
            self.report.found_after = self.report.started.elapsed();
        }
        if !std::mem::replace(&mut self.counted, true) {
            self.report.flows += count(self.progress.count());
        }
        if now.saturating_duration_since(self.round_sent) >= ROUND {
            self.begin_round(kernel, bucket, commands);
        } else {
            self.schedule_scan(now, now - began);
        }
        true
    }

    /// Waits for the next scan of this round, and at least as long as the last one took: a table of a million entries
    /// must not keep this thread busy.
    fn schedule_scan(&mut self, now: Instant, took: Duration) {
        let next = SCANS.into_iter().map(|after| self.round_sent + after).find(|at| *at >= now + took);
        self.scan_at = next.unwrap_or(now.max(self.round_sent + ROUND));
    }

    /// No challenge SYN of this round is left to send.
    fn round_sent_out(&mut self) {
        let now = Instant::now();
        self.round_sent = now;
        if self.report.rounds <= 1 {
            self.report.challenged_after = now - self.report.started;
        }
        self.schedule_scan(now, Duration::ZERO);
    }

    fn begin_round(
        &mut self,
        kernel: &mut KernelSockets,
        bucket: &mut TokenBucket,
        commands: &mut CommandQueue,
    ) {
        self.round += 1;
        kernel.sender.refresh();
        if self.ends() {
            self.sniff(kernel);
            self.destroy(kernel, bucket, commands);
        }
        let now = Instant::now();
        let due = match self.order.purpose {
            Purpose::Reset { .. } => self.progress.begin_round(now),
            Purpose::Challenge if self.round <= CHALLENGE_ROUNDS => {
                self.progress.to_challenge(self.round, now)
            }
            Purpose::Challenge | Purpose::Reroute => Vec::new(),
        };
        self.queue = due.into();
        self.send_at = now;
        self.report.rounds += u32::from(!self.queue.is_empty());
        if self.queue.is_empty() {
            self.round_sent_out();
        }
    }

    /// From the second round on client replies matter: a client without the connection has been reset, even where
    /// conntrack does not show it (a reject moves no entry to CLOSE before 6.4).
    fn sniff(&mut self, kernel: &KernelSockets) {
        let wanted = self.answers_itself() || self.report.rounds > 0;
        let permitted = kernel.sender.refusal(self.order.backend.ip()).is_none();
        if wanted && permitted && self.sniffer.is_none() && self.progress.open().next().is_some() {
            match Sniffer::open(&self.vips) {
                Ok(sniffer) => self.sniffer = Some(sniffer),
                Err(error) => self.degrade(&error),
            }
        }
    }

    /// The host's own ends of open flows, as many as the rate allows: the others are challenged like a pod's, or wait for the
    /// next round.
    fn destroy(&mut self, kernel: &mut KernelSockets, bucket: &mut TokenBucket, commands: &mut CommandQueue) {
        let open: Vec<Flow> = self.progress.open().collect();
        let local = open.into_iter().filter(|flow| kernel.sender.is_local(flow.client.ip()));
        let now = Instant::now();
        let local: HashSet<Flow> = local.take_while(|_| bucket.take(now)).collect();
        for vip in self.vips.clone() {
            if !local.iter().any(|flow| flow.vip == vip) {
                continue;
            }
            match kernel.destroy_sockets(vip, &local, || commands.cancels(self.order.backend)) {
                Ok(destroyed) => {
                    self.report.sockets += count(destroyed.len());
                    let now = Instant::now();
                    destroyed.into_iter().for_each(|flow| self.progress.destroyed(flow, now));
                }
                // Its flows are challenged like a pod's.
                Err(error) => self.degrade(&error),
            }
        }
    }

    /// Sends some of the challenge SYNs of this round.
    fn send_challenges(
        &mut self,
        kernel: &mut KernelSockets,
        bucket: &mut TokenBucket,
        commands: &mut CommandQueue,
    ) {
        for _ in 0..BATCH {
            if self.ends() && commands.cancels(self.order.backend) {
                return;
            }
            let Some(flow) = self.queue.pop_front() else { break };
            let now = Instant::now();
            if !self.progress.is_open(flow) {
                continue;
            }
            if !bucket.take(now) {
                self.queue.push_front(flow);
                self.send_at = bucket.next(now);
                return;
            }
            let Some(packet) = packet::syn(flow, rand::random()) else { continue };
            match kernel.sender.send(&packet, flow.client.ip()) {
                Ok(()) => {
                    let is_first = self.progress.challenged(flow, now);
                    self.report.challenge_syns += 1;
                    self.report.challenged += u64::from(is_first && self.challenges());
                }
                Err(SendError::Busy) => {
                    bucket.put_back();
                    self.queue.push_front(flow);
                    self.send_at = now + BREATHE;
                    return;
                }
                Err(other) => {
                    let reason = match other {
                        SendError::Failed(reason) => reason,
                        _ => Remaining::OutputPolicy,
                    };
                    bucket.put_back();
                    self.progress.failed(flow, reason, now);
                    if let Some(error) = kernel.sender.refusal(flow.client.ip()) {
                        let error = format!("no raw socket, so idle clients are not notified: {error}");
                        self.degrade(&error);
                    }
                }
            }
        }
        if self.queue.is_empty() {
            self.round_sent_out();
        }
    }

    /// Takes in what clients replied, and answers it with resets where the order says so.
    fn listen(&mut self, kernel: &mut KernelSockets) {
        let Some(sniffer) = &self.sniffer else { return };
        for answer in sniffer.drain() {
            let now = Instant::now();
            if self.progress.replied(answer) {
                self.report.last_ended = now - self.report.started;
            }
            let ReplyKind::Open(expected) = answer.kind else { continue };
            if !self.answers_itself() || !self.progress.wants_reset(answer.flow, now) {
                continue;
            }
            // The SYN behind the reset asks whether it was taken: a closed port answers with a reset at once.
            let packets = [packet::rst(answer.flow, expected), packet::syn(answer.flow, rand::random())];
            let mut send = |packet: Vec<u8>| kernel.sender.send(&packet, answer.flow.client.ip()).is_ok();
            if packets.into_iter().flatten().all(&mut send) {
                self.progress.challenged(answer.flow, now);
                self.report.resets += 1;
            }
        }
    }

    fn degrade(&mut self, what: &dyn std::fmt::Display) {
        if self.report.degraded.is_none() {
            self.report.degraded = Some(what.to_string());
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
