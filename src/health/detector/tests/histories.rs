//! A million random histories: what must hold whatever backends do, by an account of our own.
//!
//! A failure names its history; `APIVIP_HISTORY=N` plays that one alone. `APIVIP_HISTORIES=N` plays so many.

use std::sync::Arc;

use super::*;
use crate::model::desired::{Masquerade, NodeView, Policy, compute_desired_state};
use crate::model::health::HealthView;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};

/// All of them together.
const HISTORIES: u64 = 1_000_000;
/// They are divided among so many tests, which run at the same time.
const SHARDS: u64 = 4;
/// One in so many goes on until a decision is made, which takes longer than the history itself.
const DECIDED: u64 = 25;

/// Three backends, one of them of the other family in every fourth history.
struct History {
    number: u64,
    story: Story,
    random: Random,
    account: Account,
    all: [Backend; 3],
    now: u64,
    failed: u64,
}

impl History {
    fn new(number: u64) -> Self {
        let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let other = "[2001:db8::13]:6443".parse().unwrap();
        let all = [backend(A), backend(B), if random.draw() < 0.25 { other } else { backend(C) }];
        let reset_jitter = Duration::from_millis(if random.draw() < 0.5 { 0 } else { 1000 });
        let begin = Instant::now() + Duration::from_secs(3600);
        let detector = Detector::new(HealthOptions { reset_jitter, ..options() }, number);
        let mut story = Story { detector, begin };
        story.detector.publish(&all.into(), begin);
        Self { number, story, random, account: Account::default(), all, now: 0, failed: 0 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.random.draw() * bound as f64) as u64
    }

    fn happens(&mut self, chance: f64) -> bool {
        self.random.draw() < chance
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn state(&self, who: usize) -> HealthState {
        self.states()[who]
    }

    /// They are tracked in the order in which they are named here.
    fn states(&self) -> [HealthState; 3] {
        let mut states = [HealthState::Unknown; 3];
        states.iter_mut().zip(self.story.detector.backends.values()).for_each(|(state, t)| *state = t.state);
        states
    }

    /// An operation, after which the account is looked at.
    fn does(&mut self, who: usize, op: Op) {
        let before = self.states();
        let now = self.now;
        let (backend, at) = (self.all[who], self.story.at(now));
        let detector = &mut self.story.detector;
        match op {
            Op::Probed { started, outcome, fresh, local } => {
                let probe = bare(self.story.begin + Duration::from_millis(started), at, outcome);
                let handshake = fresh.then_some(Duration::from_millis(2));
                detector.observe(backend, ProbeResult { handshake, local: fresh.then_some(local), ..probe });
            }
            Op::Hands { local } => detector.handshake_completed(backend, at, local),
            Op::Overdue { asked } => {
                detector.request_overdue(
                    backend,
                    self.story.begin + Duration::from_millis(asked),
                    at,
                    Trigger::PingTimeout,
                );
            }
            Op::Dial { began, connected } => {
                let began = self.story.begin + Duration::from_millis(began);
                detector.connect_overdue(backend, began, connected, at);
            }
            Op::Host => detector.host_responded(backend, at),
            Op::Sign => detector.suspect(backend, at, Trigger::ConnectionClosed),
            Op::Arrived { data } => detector.segment_received(backend, at, data),
            Op::Challenged(found) => {
                detector.challenge_started(backend, at);
                detector.challenge_finished(backend, at, found);
            }
            Op::Watched(watched) => detector.watching_since(backend, watched.then_some(at)),
            Op::Look => detector.evaluate(at),
        }
        self.account.note(who, now, op);
        let after = self.states();
        for who in [0, 1, 2] {
            if after[who] == HealthState::Failed && before[who] != HealthState::Failed {
                self.failed += 1;
                let family = self.all.map(|backend| Family::of(backend.ip()));
                let near = [0, 1, 2].map(|other| other != who && family[other] == family[who]);
                if let Err(missing) = self.account.proofs(who, near, now) {
                    panic!("history {}: {who} is Failed at {now} without {missing}", self.number);
                }
            }
        }
        if self.account.is_life(op) {
            assert_ne!(after[who], HealthState::Failed, "history {}: {who} at {now}, {op:?}", self.number);
        }
    }

    fn answers(&mut self, who: usize, outcome: ProbeOutcome, fresh: bool) {
        if fresh {
            self.does(who, Op::Hands { local: false });
        }
        self.does(who, Op::Probed { started: self.now, outcome, fresh, local: false });
    }

    /// Anything may happen.
    fn anything(&mut self) {
        let who = self.pick(&[0, 1, 2]);
        let ago = self.now - self.below(self.now.min(1500) + 1);
        let op = match self.below(16) {
            0..=5 => {
                let reason = self.pick(&FailReason::ALL);
                let outcome = self.pick(&[
                    ProbeOutcome::Alive,
                    ProbeOutcome::Ready,
                    ProbeOutcome::Ready,
                    ProbeOutcome::Unready,
                    ProbeOutcome::Failed(reason),
                    ProbeOutcome::Failed(reason),
                ]);
                let (fresh, local) = (self.happens(0.3), self.happens(0.1));
                Op::Probed { started: ago, outcome, fresh, local }
            }
            6 | 7 => Op::Hands { local: self.happens(0.1) },
            8 | 9 => Op::Overdue { asked: ago },
            10 | 11 => Op::Dial { began: ago, connected: self.happens(0.3) },
            12 => self.pick(&[Op::Host, Op::Sign]),
            13 => Op::Arrived { data: self.happens(0.5) },
            14 => Op::Challenged(self.pick(&[
                ChallengeOutcome::NoFlows,
                ChallengeOutcome::Sent,
                ChallengeOutcome::Impossible,
            ])),
            _ => Op::Watched(self.happens(0.7)),
        };
        self.does(who, op);
    }

    /// One is silent, and what is done then is done, but for what is left out by chance.
    fn silence(&mut self, care: f64) {
        let connected = self.happens(0.3);
        self.does(0, Op::Overdue { asked: self.now - 300 });
        if self.happens(care) {
            self.does(0, Op::Watched(true));
        }
        for _ in 0..7 {
            self.now += 650 + self.below(if care > 0.97 { 340 } else { 380 });
            if self.happens(care) {
                self.does(
                    1,
                    Op::Probed {
                        started: self.now - 1,
                        outcome: ProbeOutcome::Alive,
                        fresh: false,
                        local: false,
                    },
                );
            }
            if self.happens(0.3) {
                let local = !self.happens(care);
                self.does(1, Op::Hands { local });
            }
            if self.happens(care) {
                let connected = connected ^ !self.happens(care);
                let began = self.now - 300 - self.below(200);
                self.does(0, Op::Dial { began, connected });
            }
            if !connected && self.happens(care) {
                let found =
                    if self.happens(care) { ChallengeOutcome::Sent } else { ChallengeOutcome::Impossible };
                self.does(0, Op::Challenged(found));
            }
            if !self.happens(care.max(0.9)) {
                self.anything();
            }
        }
        self.now += 500;
        self.does(0, Op::Look);
    }

    fn play(&mut self) {
        self.now = 1000;
        for who in [0, 1, 2] {
            if self.happens(0.9) {
                self.answers(who, ProbeOutcome::Ready, true);
            }
        }
        self.now = 2000;
        if self.happens(0.4) {
            let care = self.pick(&[0.7, 0.9, 0.98, 1.0]);
            self.silence(care);
        }
        for _ in 0..self.below(7) {
            let bound = if self.happens(0.1) { 3000 } else { 400 };
            self.now += self.below(bound);
            self.anything();
        }
        self.stale();
        if self.number.is_multiple_of(5) {
            self.selects();
        }
        if self.number.is_multiple_of(DECIDED) {
            self.decides();
        }
    }

    /// Results of questions that are older than the latest answer change no state.
    fn stale(&mut self) {
        self.now += 10;
        for who in [0, 1, 2] {
            self.does(
                who,
                Op::Probed { started: self.now, outcome: ProbeOutcome::Ready, fresh: false, local: false },
            );
        }
        let before = self.states();
        for _ in 0..3 {
            let (who, started) = (self.pick(&[0, 1, 2]), self.now - 1 - self.below(1000));
            let reason = self.pick(&FailReason::ALL);
            let outcome = self.pick(&[ProbeOutcome::Unready, ProbeOutcome::Failed(reason)]);
            self.does(who, Op::Probed { started, outcome, fresh: false, local: false });
        }
        assert_eq!(before, self.states(), "history {}", self.number);
    }

    /// While a backend is known there is a way, and nothing is ended that is one.
    fn selects(&mut self) {
        let vip = "10.96.0.1:443".parse().unwrap();
        let backends: Vec<Backend> = self.all.into_iter().filter(Backend::is_ipv4).collect();
        let frontend = Frontend { vip, port_name: String::new(), affinity: Affinity::None, backends };
        let (service, rejected) = (ServiceStatus::Found, BTreeSet::new());
        let snapshot = Arc::new(Snapshot { generation: 1, service, frontends: vec![frontend], rejected });
        let at = self.story.at(self.now);
        let view = HealthView { snapshot, noticed: at, backends: self.story.detector.backends(at) };
        let policy = Policy {
            service: "default/kubernetes".parse().unwrap(),
            masquerade: Masquerade::Auto,
            cluster_cidrs: Vec::new(),
            balance: crate::model::balance::Balance::Random,
        };
        let state = compute_desired_state(&view, None, &NodeView::default(), &policy).0;
        let chosen = &state.frontends[0];
        assert!(!chosen.backends.is_empty(), "history {}", self.number);
        assert!(chosen.failed.iter().all(|b| !chosen.backends.contains(b)), "history {}", self.number);
        assert!(
            chosen.failed.iter().all(|b| view.state(*b) == HealthState::Failed),
            "history {}",
            self.number
        );
    }

    /// Whatever was before, each decision takes bounded time.
    fn decides(&mut self) {
        let number = self.number;
        self.answers(1, ProbeOutcome::Ready, true);
        match self.below(3) {
            // At once.
            0 => {
                let refused = ProbeOutcome::Failed(FailReason::Refused);
                self.now += 1;
                self.does(0, Op::Probed { started: self.now, outcome: refused, fresh: false, local: false });
                assert_eq!(self.state(0), HealthState::Suspect, "history {number}: it refuses");
            }
            // Suspect within about a second, Failed soon after the timeout.
            1 => {
                self.answers(0, ProbeOutcome::Ready, true);
                self.now += 300;
                let cut = self.now;
                let mut asked = false;
                self.does(0, Op::Overdue { asked: cut });
                while self.now < cut + 7000 && self.state(0) != HealthState::Failed {
                    self.now += 100;
                    if self.now == cut + 300 {
                        self.does(0, Op::Watched(true));
                        self.answers(1, ProbeOutcome::Ready, true);
                    }
                    if (self.now - cut) % 300 == 200 {
                        self.answers(1, ProbeOutcome::Alive, false);
                    }
                    if self.now >= cut + 700 && (self.now - cut) % 500 == 200 {
                        self.does(0, Op::Dial { began: self.now - 300, connected: false });
                    }
                    if self.now >= cut + 1000
                        && !std::mem::replace(&mut asked, (self.now - cut) % 1000 != 900)
                    {
                        self.does(0, Op::Challenged(ChallengeOutcome::Sent));
                    }
                    self.does(0, Op::Look);
                    let late = self.state(0) == HealthState::Late;
                    let soon = self.now < cut + 2000;
                    assert!(soon || late || self.state(0).is_out(), "history {number}: {:?}", self.state(0));
                }
                assert_eq!(self.state(0), HealthState::Failed, "history {number}: it is silent");
            }
            // Healthy once its hold-down is over.
            _ => {
                let end = self.now + u64::try_from(HOLD_DOWN_MAX.as_millis()).unwrap() + 3000;
                while self.now < end && self.state(0) != HealthState::Healthy {
                    self.now += 900;
                    self.answers(0, ProbeOutcome::Ready, false);
                }
                assert_eq!(self.state(0), HealthState::Healthy, "history {number}: it answers");
            }
        }
    }
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Op {
    Probed { started: u64, outcome: ProbeOutcome, fresh: bool, local: bool },
    Hands { local: bool },
    Overdue { asked: u64 },
    Dial { began: u64, connected: bool },
    Host,
    Sign,
    Arrived { data: bool },
    Challenged(ChallengeOutcome),
    Watched(bool),
    Look,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

fn shard(shard: u64) {
    let all = setting("APIVIP_HISTORIES").unwrap_or(HISTORIES);
    let only = setting("APIVIP_HISTORY");
    let (mut failed, mut played) = (0, 0);
    for number in (shard..all).step_by(usize::try_from(SHARDS).unwrap()) {
        if only.is_some_and(|only| only != number) {
            continue;
        }
        let mut history = History::new(number);
        history.play();
        (failed, played) = (failed + history.failed, played + 1);
    }
    println!("{played} histories, in which backends were Failed {failed} times");
    assert!(played < 1000 || failed * 20 > played, "hardly any history comes as far: {failed} of {played}");
}

#[test]
fn a_million_random_histories_first_quarter() {
    shard(0);
}

#[test]
fn a_million_random_histories_second_quarter() {
    shard(1);
}

#[test]
fn a_million_random_histories_third_quarter() {
    shard(2);
}

#[test]
fn a_million_random_histories_fourth_quarter() {
    shard(3);
}

// What is known of each backend, recorded as it happens and without the code that decides.

/// Nothing is ended before so many milliseconds of silence.
const SILENCE_TIMEOUT: u64 = 5000;
const SECOND: u64 = 1000;

#[derive(Default)]
struct Record {
    /// When it was heard last.
    life: u64,
    /// The first question that is unanswered, whenever it was asked.
    question: Option<u64>,
    dials: Vec<(u64, bool)>,
    handshakes: Vec<u64>,
    data: Option<u64>,
    segment: Option<u64>,
    watched: Option<u64>,
    sent: Vec<u64>,
    asked: Option<ChallengeOutcome>,
}

/// The account of three.
#[derive(Default)]
struct Account {
    of: [Record; 3],
    /// When something happened last, and since when there was no pause of more than a second.
    last: u64,
    awake: u64,
}

impl Account {
    /// Whether it shows that the backend, or its host, lives.
    fn is_life(&self, op: Op) -> bool {
        match op {
            Op::Probed { outcome: ProbeOutcome::Failed(reason), .. } => {
                !matches!(reason, FailReason::Timeout | FailReason::Unreachable)
            }
            Op::Probed { .. } | Op::Hands { .. } | Op::Host | Op::Arrived { data: true } => true,
            _ => false,
        }
    }

    fn note(&mut self, who: usize, now: u64, op: Op) {
        if now > self.last + SECOND {
            self.awake = now;
        }
        self.last = now;
        let is_life = self.is_life(op);
        let one = &mut self.of[who];
        match op {
            Op::Overdue { asked } => one.asks(asked),
            Op::Dial { began, connected } => {
                one.asks(began);
                one.dials.push((began, connected));
            }
            Op::Probed { started, .. } if !is_life => {
                one.asks(started);
                one.dials.push((started, false));
            }
            Op::Hands { local: false } => one.handshakes.push(now),
            Op::Arrived { data } => {
                one.segment = Some(now);
                one.data = data.then_some(now).or(one.data);
            }
            Op::Challenged(found) => {
                one.asked = Some(found);
                if found == ChallengeOutcome::Sent {
                    one.sent.push(now);
                }
            }
            Op::Watched(watched) => one.watched = watched.then_some(now),
            _ => {}
        }
        if is_life && !matches!(op, Op::Arrived { .. }) {
            one.life = now;
            one.question = None;
        }
    }

    /// Whether everything speaks for the end of `who`; those that are `near` may bear witness.
    fn proofs(&self, who: usize, near: [bool; 3], now: u64) -> Result<(), &'static str> {
        let one = &self.of[who];
        let over = |from: u64| now - from >= SILENCE_TIMEOUT;
        let since = one.question.ok_or("a question")?.max(one.life);
        if !over(since) {
            return Err("five seconds of silence");
        }
        if !over(self.awake) {
            return Err("a daemon that was awake");
        }
        let others = self.of.iter().zip(near).filter(|(_, near)| *near);
        let witness = others.flat_map(|(other, _)| &other.handshakes).filter(|at| **at >= since).min();
        let witness = *witness.ok_or("a fresh handshake with another one")?;
        let dials = one.dials.iter().filter(|(began, _)| *began >= witness && now - began >= SECOND);
        let last = dials.map(|(began, _)| *began).max().ok_or("a dial after the witness")?;
        if one.data.is_some_and(|at| !over(at)) {
            return Err("silence of the data");
        }
        if !one.watched.is_some_and(over) {
            return Err("a view of clients' connections all the time");
        }
        if one.dials.iter().any(|(began, connected)| *began == last && *connected) {
            return Ok(());
        }
        if one.segment.is_some_and(|at| !over(at)) {
            return Err("silence of the host");
        }
        match one.asked {
            Some(ChallengeOutcome::NoFlows) => Ok(()),
            Some(ChallengeOutcome::Sent) if one.sent.iter().filter(|at| **at >= since).count() >= 3 => Ok(()),
            _ => Err("clients' connections that were asked three times"),
        }
    }
}

impl Record {
    fn asks(&mut self, at: u64) {
        self.question = Some(self.question.map_or(at, |first| first.min(at)));
    }
}
