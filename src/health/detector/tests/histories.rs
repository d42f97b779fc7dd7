//! A million random histories: what must hold whatever backends do, by an account of our own.
//!
//! A failure names its history; `APIVIP_HISTORY=N` plays that one alone. `APIVIP_HISTORIES=N` plays so many.

use std::sync::Arc;

use super::*;
use crate::model::desired::{Masquerade, NodeView, Policy, desire};
use crate::model::health::HealthView;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};

mod account;

use account::Account;

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
    chances: Chances,
    account: Account,
    all: [Backend; 3],
    now: u64,
    failed: u64,
}

impl History {
    fn new(number: u64) -> Self {
        let mut chances = Chances(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let other = "[2001:db8::13]:6443".parse().unwrap();
        let all = [backend(A), backend(B), if chances.draw() < 0.25 { other } else { backend(C) }];
        let kill_spread = Duration::from_millis(if chances.draw() < 0.5 { 0 } else { 1000 });
        let begin = Instant::now() + Duration::from_secs(3600);
        let detector = Detector::new(HealthOptions { kill_spread, ..options() }, number);
        let mut story = Story { detector, begin };
        story.detector.publish(&all.into(), begin);
        Self { number, story, chances, account: Account::default(), all, now: 0, failed: 0 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.chances.draw() * bound as f64) as u64
    }

    fn happens(&mut self, chance: f64) -> bool {
        self.chances.draw() < chance
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn state(&self, who: usize) -> State {
        self.states()[who]
    }

    /// They are tracked in the order in which they are named here.
    fn states(&self) -> [State; 3] {
        let mut states = [State::Unknown; 3];
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
            Op::Probe { started, outcome, fresh, local } => {
                let probe = bare(self.story.begin + Duration::from_millis(started), at, outcome);
                let handshake = fresh.then_some(Duration::from_millis(2));
                detector.observe(backend, Probe { handshake, local: fresh.then_some(local), ..probe });
            }
            Op::Hands { local } => detector.shook_hands(backend, at, local),
            Op::Overdue { asked } => {
                detector.overdue(backend, self.story.begin + Duration::from_millis(asked), at, Cue::Silent);
            }
            Op::Dial { began, connected } => {
                let began = self.story.begin + Duration::from_millis(began);
                detector.dial_overdue(backend, began, connected, at);
            }
            Op::Host => detector.host_heard(backend, at),
            Op::Cue => detector.cue(backend, at, Cue::Ended),
            Op::Arrived { data } => detector.arrived(backend, at, data),
            Op::Asked(found) => {
                detector.asking(backend, at);
                detector.asked(backend, at, found);
            }
            Op::Watched(watched) => detector.watched(backend, watched.then_some(at)),
            Op::Look => detector.look(at),
        }
        self.account.note(who, now, op);
        let after = self.states();
        for who in [0, 1, 2] {
            if after[who] == State::Failed && before[who] != State::Failed {
                self.failed += 1;
                let family = self.all.map(|backend| Family::of(backend.ip()));
                let near = [0, 1, 2].map(|other| other != who && family[other] == family[who]);
                if let Err(missing) = self.account.proofs(who, near, now) {
                    panic!("history {}: {who} is Failed at {now} without {missing}", self.number);
                }
            }
        }
        if self.account.is_life(op) {
            assert_ne!(after[who], State::Failed, "history {}: {who} at {now}, {op:?}", self.number);
        }
    }

    fn answers(&mut self, who: usize, outcome: Outcome, fresh: bool) {
        if fresh {
            self.does(who, Op::Hands { local: false });
        }
        self.does(who, Op::Probe { started: self.now, outcome, fresh, local: false });
    }

    /// Anything may happen.
    fn anything(&mut self) {
        let who = self.pick(&[0, 1, 2]);
        let ago = self.now - self.below(self.now.min(1500) + 1);
        let op = match self.below(16) {
            0..=5 => {
                let reason = self.pick(&FailReason::ALL);
                let outcome = self.pick(&[
                    Outcome::Alive,
                    Outcome::Ready,
                    Outcome::Ready,
                    Outcome::Unready,
                    Outcome::Failed(reason),
                    Outcome::Failed(reason),
                ]);
                let (fresh, local) = (self.happens(0.3), self.happens(0.1));
                Op::Probe { started: ago, outcome, fresh, local }
            }
            6 | 7 => Op::Hands { local: self.happens(0.1) },
            8 | 9 => Op::Overdue { asked: ago },
            10 | 11 => Op::Dial { began: ago, connected: self.happens(0.3) },
            12 => self.pick(&[Op::Host, Op::Cue]),
            13 => Op::Arrived { data: self.happens(0.5) },
            14 => Op::Asked(self.pick(&[Asked::NoFlows, Asked::Sent, Asked::Impossible])),
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
                    Op::Probe { started: self.now - 1, outcome: Outcome::Alive, fresh: false, local: false },
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
                let found = if self.happens(care) { Asked::Sent } else { Asked::Impossible };
                self.does(0, Op::Asked(found));
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
                self.answers(who, Outcome::Ready, true);
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
                Op::Probe { started: self.now, outcome: Outcome::Ready, fresh: false, local: false },
            );
        }
        let before = self.states();
        for _ in 0..3 {
            let (who, started) = (self.pick(&[0, 1, 2]), self.now - 1 - self.below(1000));
            let reason = self.pick(&FailReason::ALL);
            let outcome = self.pick(&[Outcome::Unready, Outcome::Failed(reason)]);
            self.does(who, Op::Probe { started, outcome, fresh: false, local: false });
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
        let state = desire(&view, None, &NodeView::default(), &policy).0;
        let chosen = &state.frontends[0];
        assert!(!chosen.backends.is_empty(), "history {}", self.number);
        assert!(chosen.dead.iter().all(|b| !chosen.backends.contains(b)), "history {}", self.number);
        assert!(chosen.dead.iter().all(|b| view.state(*b) == State::Failed), "history {}", self.number);
    }

    /// Whatever was before, each decision takes bounded time.
    fn decides(&mut self) {
        let number = self.number;
        self.answers(1, Outcome::Ready, true);
        match self.below(3) {
            // At once.
            0 => {
                let refused = Outcome::Failed(FailReason::Refused);
                self.now += 1;
                self.does(0, Op::Probe { started: self.now, outcome: refused, fresh: false, local: false });
                assert_eq!(self.state(0), State::Suspect, "history {number}: it refuses");
            }
            // Suspect within about a second, Failed soon after the timeout.
            1 => {
                self.answers(0, Outcome::Ready, true);
                self.now += 300;
                let cut = self.now;
                let mut asked = false;
                self.does(0, Op::Overdue { asked: cut });
                while self.now < cut + 7000 && self.state(0) != State::Failed {
                    self.now += 100;
                    if self.now == cut + 300 {
                        self.does(0, Op::Watched(true));
                        self.answers(1, Outcome::Ready, true);
                    }
                    if (self.now - cut) % 300 == 200 {
                        self.answers(1, Outcome::Alive, false);
                    }
                    if self.now >= cut + 700 && (self.now - cut) % 500 == 200 {
                        self.does(0, Op::Dial { began: self.now - 300, connected: false });
                    }
                    if self.now >= cut + 1000
                        && !std::mem::replace(&mut asked, (self.now - cut) % 1000 != 900)
                    {
                        self.does(0, Op::Asked(Asked::Sent));
                    }
                    self.does(0, Op::Look);
                    let late = self.state(0) == State::Late;
                    let soon = self.now < cut + 2000;
                    assert!(soon || late || self.state(0).is_out(), "history {number}: {:?}", self.state(0));
                }
                assert_eq!(self.state(0), State::Failed, "history {number}: it is silent");
            }
            // Healthy once its hold-down is over.
            _ => {
                let end = self.now + u64::try_from(HOLD_MAX.as_millis()).unwrap() + 3000;
                while self.now < end && self.state(0) != State::Healthy {
                    self.now += 900;
                    self.answers(0, Outcome::Ready, false);
                }
                assert_eq!(self.state(0), State::Healthy, "history {number}: it answers");
            }
        }
    }
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
enum Op {
    Probe { started: u64, outcome: Outcome, fresh: bool, local: bool },
    Hands { local: bool },
    Overdue { asked: u64 },
    Dial { began: u64, connected: bool },
    Host,
    Cue,
    Arrived { data: bool },
    Asked(Asked),
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
