//! The prober of one backend: keeps a connection open, asks over it, and makes fresh ones when in doubt.
//!
//! In: a [`Directive`], whom to trust. Out: [`Event`]s. It ends when its directive's sender is dropped.

use std::future::pending;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until};

use super::failure::LocalError;
use super::fresh::{Attempt, PATIENCE, Target, Waiting, attempt, settings};
use super::kept::{Kept, News};
use super::timetable::{Action, Link, Timetable};
use crate::model::health::machine::Directive;
use crate::model::health::{Cue, FailReason, Outcome, Probe};
use crate::model::types::Backend;

/// Fresh probes at the same time: 50 ms apart, this many have timeouts of 3 s; no decision needs more.
const FLYING: usize = 64;
/// Fresh probes that have shaken hands and wait for `/readyz`. A burst must not pile up handshakes on a server that is
/// slow to answer: further ones would learn nothing sooner.
const WAITING: usize = 2;
/// A kept-open connection that ends sooner than this ended too soon.
const SOON: Duration = Duration::from_secs(5);
/// So many of them in a row, and their end is no sign of anything: this server keeps no connections, or flaps. Without
/// the bound it would be asked in a burst for ever.
const SHORT_LIVED: u32 = 3;

/// What a worker found.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) backend: Backend,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Something speaks against it: the connection ended, or a PING was not answered in time.
    Cue(Instant, Cue),
    /// A probe was decided.
    Probed(Probe),
}

/// A kept-open connection and its deadlines.
struct Held {
    kept: Box<Kept>,
    since: Instant,
    pong_by: Option<Instant>,
    answer_by: Option<Instant>,
}

/// The prober.
pub(super) struct Worker {
    target: Target,
    trust: watch::Receiver<Arc<ClientConfig>>,
    directive: watch::Receiver<Directive>,
    events: mpsc::Sender<Event>,
    times: Timetable,
    state: State,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    flying: FuturesUnordered<BoxFuture<'static, Attempt>>,
    waiting: Waiting,
    short_lived: u32,
    /// The last fresh probe could not be made; that was logged.
    hampered: bool,
}

enum Woken {
    News(News),
    Attempt(Attempt),
    Directive(bool),
    Time,
}

impl Worker {
    pub(super) fn new(
        target: Target,
        trust: watch::Receiver<Arc<ClientConfig>>,
        directive: watch::Receiver<Directive>,
        events: mpsc::Sender<Event>,
        times: Timetable,
    ) -> Self {
        Self { target, trust, directive, events, times, state: State::default() }
    }

    pub(super) async fn run(mut self) {
        loop {
            let directive = *self.directive.borrow_and_update();
            let wake = self.start_what_is_due(directive);
            match self.wait(wake).await {
                Woken::News(news) => self.heard(news).await,
                Woken::Attempt(attempt) => self.landed(attempt).await,
                Woken::Directive(true) => {}
                Woken::Directive(false) => return,
                Woken::Time => self.check_deadlines(Instant::now()).await,
            }
        }
    }

    /// Starts all that is due, and says when to look again.
    fn start_what_is_due(&mut self, directive: Directive) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let crowded = self.state.flying.len() >= FLYING || self.state.waiting.count() >= WAITING;
            let next = self.times.plan(directive, self.link(), crowded).next();
            match next {
                Some((at, action)) if at <= now.into_std() => self.start(action, now, directive.timeout),
                _ => {
                    let held = self.state.held.as_ref();
                    let deadlines = held.map(|held| [held.pong_by, held.answer_by]);
                    let deadlines = deadlines.into_iter().flatten().flatten();
                    return deadlines.chain(next.map(|(at, _)| Instant::from_std(at))).min();
                }
            }
        }
    }

    fn link(&self) -> Option<Link> {
        let kept = &self.state.held.as_ref()?.kept;
        Some(Link { may_ping: kept.can_ping() && kept.pinged().is_none(), asking: kept.asked().is_some() })
    }

    fn start(&mut self, action: Action, now: Instant, limit: Duration) {
        self.times.started(action, now.into_std(), rand::random());
        match (action, &mut self.state.held) {
            (Action::Ping, Some(held)) => {
                held.kept.ping(now);
                held.pong_by = Some(now + limit);
            }
            (Action::Ask, Some(held)) => {
                held.kept.ask(now);
                held.answer_by = Some(now + PATIENCE);
            }
            _ => {
                let trust = settings(&self.trust.borrow());
                let waiting = self.state.waiting.clone();
                self.state.flying.push(attempt(self.target.clone(), trust, limit, waiting).boxed());
            }
        }
    }

    /// What was received comes before what is overdue: after a pause of this process all timers are over, and the
    /// answers lie in the sockets.
    async fn wait(&mut self, wake: Option<Instant>) -> Woken {
        let State { held, flying, .. } = &mut self.state;
        tokio::select! {
            biased;
            news = async {
                match held {
                    Some(held) => held.kept.news().await,
                    None => pending().await,
                }
            } => Woken::News(news),
            Some(attempt) = flying.next() => Woken::Attempt(attempt),
            changed = self.directive.changed() => Woken::Directive(changed.is_ok()),
            () = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            } => Woken::Time,
        }
    }

    async fn heard(&mut self, news: News) {
        let Some(held) = &mut self.state.held else { return };
        let now = Instant::now();
        match news {
            News::Pong(sent) => {
                held.pong_by = None;
                self.probed(sent, now, Outcome::Alive, Some(now - sent)).await;
            }
            News::Answer { asked, outcome, last } => {
                held.answer_by = None;
                // An answer that no apiserver gives: ask anew over a connection of its own.
                if last || matches!(outcome, Outcome::Failed(_)) {
                    self.let_go(now);
                }
                self.probed(asked, now, outcome, None).await;
            }
            News::Unanswered(asked, reason) => {
                self.let_go(now);
                self.probed(asked, now, Outcome::Failed(reason), None).await;
            }
            News::Ended(reason) => self.ended(now, reason).await,
        }
    }

    fn let_go(&mut self, now: Instant) -> Option<Held> {
        self.times.lost(now.into_std(), rand::random());
        self.state.held.take()
    }

    async fn ended(&mut self, now: Instant, reason: FailReason) {
        let Some(held) = self.let_go(now) else { return };
        let address = self.target.address;
        self.state.short_lived = if now - held.since < SOON { self.state.short_lived + 1 } else { 0 };
        tracing::debug!(%address, %reason, short_lived = self.state.short_lived, "a kept-open connection ended");
        if self.state.short_lived <= SHORT_LIVED {
            self.send(What::Cue(now, Cue::Ended)).await;
        } else {
            self.times.lost_again(now.into_std(), rand::random());
        }
    }

    async fn landed(&mut self, attempt: Attempt) {
        match attempt.probe {
            Ok(probe) => {
                self.state.hampered = false;
                if let (None, Some(kept)) = (&self.state.held, attempt.kept) {
                    let now = Instant::now();
                    self.times.kept(now.into_std(), rand::random());
                    self.state.held = Some(Held { kept, since: now, pong_by: None, answer_by: None });
                }
                self.send(What::Probed(probe)).await;
            }
            Err(error) => self.cannot_ask(&error),
        }
    }

    fn cannot_ask(&mut self, error: &LocalError) {
        if !self.state.hampered {
            let source = &error.0;
            tracing::warn!(address = %self.target.address, error = %source, "this node cannot probe: {error}");
        }
        self.state.hampered = true;
    }

    async fn check_deadlines(&mut self, now: Instant) {
        let Some(held) = &mut self.state.held else { return };
        let over = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        let (unanswered, silent) = (over(held.answer_by), over(held.pong_by));
        if !unanswered && !silent {
            return;
        }
        tracing::debug!(address = %self.target.address, unanswered, silent, "a kept-open connection is silent");
        match held.kept.asked() {
            // Its PINGs are answered: it lives, and is not fit for new connections.
            Some(asked) if !silent && held.kept.can_ping() => {
                held.kept.take_back();
                held.answer_by = None;
                self.probed(asked, now, Outcome::Unready, None).await;
            }
            _ => {
                self.let_go(now);
                self.send(What::Cue(now, Cue::Silent)).await;
            }
        }
    }

    async fn probed(
        &mut self,
        started: Instant,
        now: Instant,
        outcome: Outcome,
        round_trip: Option<Duration>,
    ) {
        let (started, finished) = (started.into_std(), now.into_std());
        let (handshake, local) = (None, None);
        self.send(What::Probed(Probe { started, finished, outcome, round_trip, handshake, local })).await;
    }

    async fn send(&mut self, what: What) {
        // Nobody listens when the daemon is about to end, and then this task is, too.
        let _ = self.events.send(Event { backend: self.target.address, what }).await;
    }
}
