//! What the daemon of a node does with what it receives, as `src/health/scheduler` and `prober` do.

use std::time::{Duration, Instant};

use apivip::health::ChallengeOutcome;
use apivip::model::health::{FailReason, ProbeOutcome, ProbeResult, Trigger};

use super::Fleet;
use super::node::{backend, server as server_of, snapshot};
use super::prober::{Action, Kept, Overdue, PATIENCE};
use super::queue::{Event, Received};
use super::world::{Dialed, End, Fate, MS, NEVER, Peer, SECOND, SERVERS, Time, Way};

/// TCP keepalive of a kept connection: its interval, and after how much silence the kernel ends the connection.
const KEEPALIVE: Time = SECOND;
const GIVEN_UP: Time = 9 * SECOND;
/// connect() and TLS end by themselves (TCP_USER_TIMEOUT).
const BACKSTOP: Time = 30 * SECOND;
/// From a decision to the first reset that a client sees.
const ENDING: Time = 70 * MS;
/// Clients' connections that one challenge uses.
const CHALLENGED: usize = 5;

impl Fleet {
    /// The control plane publishes, or the daemon begins.
    pub fn published(&mut self, now: Time, node: usize) {
        let published = [0, 1, 2].map(|server| self.world.is_published(server, now));
        let at = self.at(now);
        let this = &mut self.nodes[node];
        let backends = (0..SERVERS).filter(|server| published[*server]).map(backend).collect();
        this.detector.publish(&backends, at);
        this.snapshot = snapshot(published);
        self.follow(now, node, true);
    }

    /// What follows from evidence: new directives, and orders for the dataplane.
    fn follow(&mut self, now: Time, node: usize, published: bool) {
        let at = self.at(now);
        for server in 0..SERVERS {
            let this = &mut self.nodes[node];
            let directive = this.detector.directive(backend(server), at);
            let observe = directive.is_some_and(|directive| directive.watch_flows);
            if observe != this.observed[server].is_some() {
                this.observations += 1;
                this.observed[server] = observe.then_some(this.observations);
                if observe {
                    this.detector.watching_since(backend(server), Some(at));
                    let number = this.observations;
                    for flow in self.open(node, server) {
                        self.schedule_data(now, flow, number);
                    }
                }
            }
            if self.nodes[node].probers[server].directive != directive {
                self.nodes[node].probers[server].directive = directive;
                self.wake(now, node, server);
            }
        }
        let orders = self.nodes[node].publish(at, published);
        for server in orders.end {
            self.queue.push(now + ENDING, Event::End { node, server, round: 0 });
        }
        for server in orders.challenge {
            self.queue.push(now + 20 * MS, Event::Challenge { node, server, round: 1 });
        }
        let this = &mut self.nodes[node];
        let deadline = this.detector.next_deadline(at);
        let deadline = deadline.map(|deadline| time(self.begin, deadline).max(now + MS));
        if deadline != this.deadline {
            this.deadlines += 1;
            this.deadline = deadline;
            if let Some(at) = deadline {
                self.queue.push(at, Event::Deadline { node, number: this.deadlines });
            }
        }
    }

    /// Lets the prober check now what is due.
    pub fn wake(&mut self, now: Time, node: usize, server: usize) {
        let this = &mut self.nodes[node];
        this.probers[server].wake += 1;
        let (number, crashes) = (this.probers[server].wake, this.crashes);
        self.queue.push(now, Event::Wake { node, server, number, crashes });
    }

    /// A deadline of the detector has passed.
    pub fn evaluate(&mut self, now: Time, node: usize) {
        let at = self.at(now);
        let detector = &mut self.nodes[node].detector;
        detector.evaluate(at);
        let mut due = detector.challenges_due(at);
        due.extend(detector.removals_due(at));
        for backend in due {
            self.challenge_host(now, node, server_of(backend));
        }
        self.follow(now, node, false);
    }

    /// A test SYN on some of the clients' connections: the host's kernel answers, whatever its processes do.
    fn challenge_host(&mut self, now: Time, node: usize, server: usize) {
        let at = self.at(now);
        let flows = self.open(node, server);
        let found = if flows.is_empty() { ChallengeOutcome::NoFlows } else { ChallengeOutcome::Sent };
        let detector = &mut self.nodes[node].detector;
        detector.challenge_started(backend(server), at);
        detector.challenge_finished(backend(server), at, found);
        let up = self.world.host_is_up(server, now);
        let answers = (0..flows.len().min(CHALLENGED) as u64).filter(|n| {
            let passes = |way| self.world.passes(node, server, way, now + n, false);
            up && passes(Way::Up) && passes(Way::Down)
        });
        if answers.count() > 0 {
            self.receives(now + MS, node, server, Received::Arrived { data: false });
        }
    }

    fn receives(&mut self, at: Time, node: usize, server: usize, what: Received) {
        let crashes = self.nodes[node].crashes;
        self.queue.push(at, Event::Received { node, server, crashes, what });
    }

    /// A segment of a silent API server arrived on a client's connection.
    pub fn segment(&mut self, now: Time, node: usize, server: usize, data: bool) {
        let at = self.at(now);
        if data {
            self.nodes[node].heard[server] = Some(now);
        }
        self.nodes[node].detector.segment_received(backend(server), at, data);
        self.follow(now, node, false);
    }

    /// A prober does what is due, and schedules its next step.
    pub fn step(&mut self, now: Time, node: usize, server: usize) {
        for overdue in self.nodes[node].probers[server].overdue(now) {
            self.overdue(now, node, server, overdue);
        }
        let begin = self.begin;
        let to = |at: Instant| time(begin, at);
        loop {
            match self.nodes[node].probers[server].next(now, to) {
                Some((at, action)) if at <= now => self.start(now, node, server, action),
                next => {
                    let this = &mut self.nodes[node];
                    let deadline = this.probers[server].deadline();
                    let Some(at) = next.map(|(at, _)| at).into_iter().chain(deadline).min() else { return };
                    this.probers[server].wake += 1;
                    let (number, crashes) = (this.probers[server].wake, this.crashes);
                    self.queue.push(at.max(now + 1), Event::Wake { node, server, number, crashes });
                    return;
                }
            }
        }
    }

    fn overdue(&mut self, now: Time, node: usize, server: usize, what: Overdue) {
        let (at, asked) = (self.at(now), |asked| self.at(asked));
        let backend = backend(server);
        match what {
            Overdue::Dial { began, connected } => {
                let began = asked(began);
                self.nodes[node].detector.connect_overdue(backend, began, connected, at);
            }
            Overdue::Request { asked: since } => {
                let since = asked(since);
                self.nodes[node].detector.request_overdue(backend, since, at, Trigger::PingTimeout);
            }
            Overdue::Unready { asked: since } => {
                let probe = bare(asked(since), at, ProbeOutcome::Unready);
                self.nodes[node].detector.observe(backend, probe);
            }
            Overdue::Ping => return self.ping(now, node, server),
        }
        self.follow(now, node, false);
    }

    fn start(&mut self, now: Time, node: usize, server: usize, action: Action) {
        let younger = self.nodes[node].probers[server].started(action, now, &mut self.rng);
        if let Some(dial) = younger {
            let (began, at) = (self.at(dial.began), self.at(now));
            self.nodes[node].detector.connect_overdue(backend(server), began, dial.connected, at);
        }
        match action {
            Action::Ping => self.ping(now, node, server),
            Action::Readyz => {
                let Some(kept) = self.nodes[node].probers[server].kept else { return };
                let fate = self.request(now, node, kept);
                if let Fate::Answered(at) = fate {
                    let ready = !self.world.is_unready(server, at);
                    self.receives(
                        at,
                        node,
                        server,
                        Received::Answer { kept: kept.number, asked: now, ready },
                    );
                }
            }
            Action::Dial => self.dial(now, node, server),
        }
        if younger.is_some() {
            self.follow(now, node, false);
        }
    }

    fn request(&mut self, now: Time, node: usize, kept: Kept) -> Fate {
        let server = kept.peer.server;
        let fate = self.world.ask(node, kept.peer, now, self.load(server));
        if let Fate::Reset(at) = fate {
            self.receives(at, node, server, Received::Ended { kept: kept.number, reset: true });
        }
        fate
    }

    fn ping(&mut self, now: Time, node: usize, server: usize) {
        let Some(kept) = self.nodes[node].probers[server].kept else { return };
        if let Fate::Answered(at) = self.request(now, node, kept) {
            self.receives(at, node, server, Received::Pong { kept: kept.number, sent: now });
        }
    }

    fn dial(&mut self, began: Time, node: usize, server: usize) {
        let (connected, peer) = match self.world.dial(node, server, began, true) {
            Dialed::Connected(at, peer) => (at, peer),
            Dialed::Refused(at) => {
                let reason = FailReason::Refused;
                return self.receives(at, node, server, Received::Failed { began, reason });
            }
            Dialed::Nothing => {
                let reason = FailReason::Timeout;
                return self.receives(began + BACKSTOP, node, server, Received::Failed { began, reason });
            }
        };
        self.receives(connected, node, server, Received::Connected { began });
        let load = self.load(server);
        let (at, what) = match self.world.ask(node, peer, connected, load) {
            Fate::Answered(at) if self.world.is_wrong(node, at) => {
                (at, Received::Failed { began, reason: FailReason::BadCertificate })
            }
            Fate::Answered(at) => (at, Received::Handshake { began, connected, peer }),
            Fate::Reset(at) => (at, Received::Failed { began, reason: FailReason::Reset }),
            Fate::Nothing => (began + BACKSTOP, Received::Failed { began, reason: FailReason::Timeout }),
        };
        self.receives(at, node, server, what);
    }

    /// What a prober receives.
    pub fn received(&mut self, now: Time, node: usize, server: usize, what: Received) {
        let at = self.at(now);
        let target = backend(server);
        let kept = self.nodes[node].probers[server].kept.map(|kept| kept.number);
        let this = &mut self.nodes[node];
        let prober = &mut this.probers[server];
        match what {
            Received::Connected { began } => {
                prober.accepted.push(began);
                prober
                    .dials
                    .iter_mut()
                    .filter(|dial| dial.began == began)
                    .for_each(|dial| dial.connected = true);
                return;
            }
            Received::Handshake { began, connected, peer } => {
                if !dial_ended(&mut prober.dials, began) {
                    return;
                }
                prober.waiting += 1;
                this.heard[server] = Some(now);
                this.detector.handshake_completed(target, at, false);
                self.readyz(now, node, began, connected, peer);
            }
            Received::Failed { began, reason } => {
                if !dial_ended(&mut prober.dials, began) {
                    return;
                }
                self.observe(now, node, server, began, ProbeOutcome::Failed(reason), None);
            }
            Received::ReadyzOverdue { began } => {
                let began = self.begin + Duration::from_micros(began);
                this.detector.connect_overdue(target, began, true, at);
            }
            Received::Readyz { began, handshake, ready, peer } => {
                prober.waiting -= 1;
                let outcome = if ready == Some(true) { ProbeOutcome::Ready } else { ProbeOutcome::Unready };
                let adopted = prober.adopt(peer, now, &mut self.rng);
                if let Some(kept) = adopted {
                    self.keeps(now, node, kept);
                }
                self.observe(now, node, server, began, outcome, Some(handshake));
            }
            Received::ReadyzFailed { began, reason } => {
                prober.waiting -= 1;
                self.observe(now, node, server, began, ProbeOutcome::Failed(reason), None);
            }
            Received::Pong { kept: number, sent } if kept == Some(number) => {
                if let Some(kept) = &mut prober.kept {
                    (kept.pinged, kept.pong_by, kept.silent, kept.unacknowledged) =
                        (None, None, false, false);
                }
                self.observe(now, node, server, sent, ProbeOutcome::Alive, None);
            }
            Received::Answer { kept: number, asked, ready } if kept == Some(number) => {
                let Some(kept) = prober.kept.as_mut().filter(|kept| kept.asked == Some(asked)) else {
                    return;
                };
                (kept.asked, kept.answer_by, kept.ping_at, kept.unacknowledged) = (None, None, None, false);
                kept.silent &= kept.pinged.is_some();
                let outcome = if ready { ProbeOutcome::Ready } else { ProbeOutcome::Unready };
                self.observe(now, node, server, asked, outcome, None);
            }
            Received::Ended { kept: number, reset } if kept == Some(number) => {
                if reset {
                    this.heard[server] = Some(now);
                    this.detector.host_responded(target, at);
                }
                if prober.lost(now, &mut self.rng) {
                    this.detector.suspect(target, at, Trigger::ConnectionClosed);
                }
            }
            Received::Arrived { data } => return self.segment(now, node, server, data),
            Received::Pong { .. } | Received::Answer { .. } | Received::Ended { .. } => return,
        }
        self.follow(now, node, false);
        self.wake(now, node, server);
    }

    /// `/readyz` over a new connection.
    fn readyz(&mut self, now: Time, node: usize, began: Time, connected: Time, peer: Peer) {
        let (server, limit) = (peer.server, self.nodes[node].probers[peer.server].limit());
        let handshake = now - began;
        let load = self.load(server);
        let (at, what) = match self.world.ask(node, peer, now, load) {
            Fate::Answered(at) => {
                let ready = (!self.world.is_unready(server, at)).into();
                (at, Received::Readyz { began, handshake, ready, peer })
            }
            Fate::Reset(at) => (at, Received::ReadyzFailed { began, reason: FailReason::Reset }),
            Fate::Nothing => (NEVER, Received::ReadyzFailed { began, reason: FailReason::Timeout }),
        };
        debug_assert!(connected >= began);
        if at > now + 2 * limit {
            self.receives(now + 2 * limit, node, server, Received::ReadyzOverdue { began });
        }
        match at > now + PATIENCE {
            // Its pings are not answered either, since they take as long.
            true => {
                let reason = FailReason::Timeout;
                self.receives(now + PATIENCE, node, server, Received::ReadyzFailed { began, reason });
            }
            false => self.receives(at, node, server, what),
        }
    }

    fn observe(
        &mut self,
        now: Time,
        node: usize,
        server: usize,
        started: Time,
        outcome: ProbeOutcome,
        handshake: Option<Time>,
    ) {
        let probe = ProbeResult {
            handshake: handshake.map(Duration::from_micros),
            local: handshake.map(|_| false),
            ..bare(self.at(started), self.at(now), outcome)
        };
        let this = &mut self.nodes[node];
        if !matches!(outcome, ProbeOutcome::Failed(FailReason::Timeout | FailReason::Unreachable)) {
            this.heard[server] = Some(now);
        }
        this.detector.observe(backend(server), probe);
    }

    /// A connection is kept from now on: its end arrives, and its keepalive is checked.
    fn keeps(&mut self, now: Time, node: usize, kept: Kept) {
        let server = kept.peer.server;
        let life = self.world.life(kept.peer);
        let end = match life.how {
            End::Killed => self.world.end_arrives(node, kept.peer),
            End::Graceful => self.world.close_arrives(node, kept.peer, life.stop.max(now)),
            End::Power => None,
        };
        if let Some(at) = end.filter(|_| life.end < NEVER) {
            self.receives(at, node, server, Received::Ended { kept: kept.number, reset: false });
        }
        self.schedule_keepalive(now, node, server, kept);
    }

    /// Checks when the next keepalive is due; while nothing disturbs packets, not before something does.
    fn schedule_keepalive(&mut self, now: Time, node: usize, server: usize, kept: Kept) {
        let prober = &self.nodes[node].probers[server];
        let phase = (kept.since + prober.limit() + 2 * MS) % KEEPALIVE;
        let calm = self.world.is_clear(node, server, now) && !kept.unacknowledged;
        let from = if calm { self.world.next_change(node, now).max(now) } else { now };
        if from >= NEVER {
            return;
        }
        let at = from + KEEPALIVE - (from + KEEPALIVE - phase) % KEEPALIVE;
        let at = if at <= now { at + KEEPALIVE } else { at };
        let crashes = self.nodes[node].crashes;
        self.queue.push(at, Event::Keepalive { node, server, kept: kept.number, crashes });
    }

    /// Checks the keepalive of a kept connection.
    pub fn keepalive(&mut self, now: Time, node: usize, server: usize, number: u64) {
        let Some(kept) = self.nodes[node].probers[server].kept.filter(|kept| kept.number == number) else {
            return;
        };
        let passes = |at: Time| {
            self.world.passes(node, server, Way::Up, at, false)
                && self.world.host_is_up(server, at)
                && self.world.passes(node, server, Way::Down, at, false)
        };
        let beats = (now - kept.since) / KEEPALIVE;
        let heard = (beats.saturating_sub(12)..=beats)
            .rev()
            .map(|n| kept.since + n * KEEPALIVE)
            .find(|at| passes(*at));
        if let Some(at) = heard.filter(|at| self.world.boot(server, *at) != kept.peer.boot) {
            return self.received(now.max(at), node, server, Received::Ended { kept: number, reset: true });
        }
        let silence = heard.map_or(GIVEN_UP, |at| now - at);
        if silence >= GIVEN_UP {
            return self.received(now, node, server, Received::Ended { kept: number, reset: false });
        }
        let limit = self.nodes[node].probers[server].limit();
        let unacknowledged = silence > KEEPALIVE + limit;
        let kept = Kept { unacknowledged, ..kept };
        let at = self.at(now);
        let this = &mut self.nodes[node];
        let before = this.probers[server].kept.replace(kept);
        if before.is_some_and(|before| before.unacknowledged != unacknowledged) {
            match unacknowledged {
                true => {
                    let asked = self.begin + Duration::from_micros(now - silence + KEEPALIVE);
                    this.detector.request_overdue(backend(server), asked, at, Trigger::KeepaliveTimeout);
                }
                false => {
                    this.heard[server] = Some(now);
                    this.detector.host_responded(backend(server), at);
                }
            }
            self.follow(now, node, false);
            self.wake(now, node, server);
        }
        self.schedule_keepalive(now, node, server, kept);
    }
}

/// Whether the prober still waits for it.
fn dial_ended(dials: &mut Vec<super::prober::Dial>, began: Time) -> bool {
    let before = dials.len();
    dials.retain(|dial| dial.began != began);
    dials.len() < before
}

fn bare(started: Instant, finished: Instant, outcome: ProbeOutcome) -> ProbeResult {
    let (round_trip, handshake, local, answered) = Default::default();
    ProbeResult { started, finished, outcome, round_trip, handshake, local, readyz: answered }
}

fn time(begin: Instant, at: Instant) -> Time {
    u64::try_from(at.saturating_duration_since(begin).as_micros()).unwrap_or(NEVER)
}
