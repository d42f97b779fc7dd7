//! The prober of one backend: keeps a connection open, asks over it, and makes fresh ones when in doubt.
//!
//! In: an [`Order`], as whom to ask. Out: [`Event`]s. It ends when the sender of its orders is dropped.
//!
//! What is overdue is told once and waited for all the same. At most two handshakes are unfinished at a time, and the oldest
//! stays open for a late answer, so that a process that stands still finds a handful of them when it goes on, and no storm.

use std::future::pending;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{Abortable, Aborted, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until};

use super::dials::Dials;
use super::directive::Directive;
use super::failure::{BoxError, LocalError};
use super::fresh::{self, Asking, Attempt, PATIENCE, Shaken, Target, Waiting, hold};
use super::held::Held;
use super::kept::{Kept, News};
use super::socket::KEEPALIVE;
use super::timetable::{Action, Link, Timetable};
use super::{Asked, Kernel};
use crate::model::health::{Answered, Caller, Cue, FailReason, Outcome, Probe};
use crate::model::types::Backend;
use crate::transport::readyz::{Credentials, Identity, UNAUTHORIZED, outcome, tells_readiness};

/// Fresh probes that have shaken hands and wait for `/readyz`. A burst must not pile up handshakes on a server that is
/// slow to answer: further ones would learn nothing sooner.
const WAITING: usize = 2;
/// A kept-open connection that ends sooner than this ended too soon.
const SOON: Duration = Duration::from_secs(5);
/// So many of them in a row, and their end is no sign of anything: this server keeps no connections, or flaps. Without
/// the bound it would be asked in a burst for ever.
const SHORT_LIVED: u32 = 3;
/// Credentials that were refused are shown again after so long, if there are no other ones: an apiserver that cannot reach
/// what it verifies tokens with refuses good ones, too.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

/// What a worker is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) directive: Directive,
    /// When connections were last seen to be led to the backend.
    pub(super) in_use: Option<Instant>,
}

/// What a worker found.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) backend: Backend,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Something speaks against it: the connection ended.
    Cue(Instant, Cue),
    /// Over the kept connection, what was asked first is overdue.
    Overdue { asked: Instant, now: Instant, cue: Cue },
    /// A fresh probe that began then is overdue, or was given up for a new one.
    DialOverdue { began: Instant, connected: bool },
    /// TCP and TLS came about.
    Shaken { now: Instant, local: bool },
    /// Its host was heard.
    HostHeard(Instant),
    /// A probe was decided.
    Probed(Probe),
    /// A segment arrived from it on some connection, with data or without.
    Arrived { now: Instant, data: bool },
    /// Clients' connections to it were asked.
    Asked(Instant, Asked),
}

/// The prober.
pub(super) struct Prober {
    pub(super) target: Target,
    pub(super) identity: watch::Receiver<Identity>,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) times: Timetable,
    pub(super) state: State,
}

/// What is under way.
#[derive(Default)]
pub(super) struct State {
    held: Option<Held>,
    dials: Dials,
    flying: FuturesUnordered<BoxFuture<'static, Landed>>,
    waiting: Waiting,
    short_lived: u32,
    /// The credentials that the apiserver does not know, and when it said so.
    refused: Option<(Credentials, Instant)>,
    /// The last fresh probe could not be made; that was logged.
    hampered: bool,
    in_use: Option<Instant>,
}

/// What was made beside the kept-open connection.
enum Landed {
    /// The handshake of a fresh probe ended.
    Dialled(Box<Asking>, Result<Shaken, BoxError>),
    /// It was given up.
    GivenUp,
    Probe(Attempt),
    /// A connection to be kept for pings only, if it came about.
    Connection(Option<Box<Kept>>),
}

enum Woken {
    News(News),
    Landed(Landed),
    Order(bool),
    Identity,
    Time,
}

impl Prober {
    pub(super) async fn run(mut self) {
        loop {
            let Order { directive, in_use } = *self.orders.borrow_and_update();
            if in_use > self.state.in_use {
                self.state.in_use = in_use;
                self.times.in_use(Instant::now().into_std());
            }
            let wake = self.start_what_is_due(directive).await;
            match self.wait(wake).await {
                Woken::News(news) => self.heard(news).await,
                Woken::Landed(Landed::Dialled(asking, result)) => self.dialled(*asking, result).await,
                Woken::Landed(Landed::GivenUp) => {}
                Woken::Landed(Landed::Probe(attempt)) => self.landed(attempt).await,
                Woken::Landed(Landed::Connection(kept)) => self.adopt(kept, None),
                Woken::Order(true) => {}
                Woken::Order(false) => return,
                Woken::Identity => self.credentials_changed(),
                Woken::Time => self.check_deadlines(Instant::now()).await,
            }
        }
    }

    /// The credentials to show, unless there are none or this apiserver does not know them.
    fn usable(&self, now: Instant) -> Option<Credentials> {
        let credentials = self.identity.borrow().credentials.clone()?;
        let refused = self.state.refused.as_ref();
        let refused = refused.is_some_and(|(who, at)| *who == credentials && now - *at < REFUSED_AGAIN);
        (!refused).then_some(credentials)
    }

    fn credentials_changed(&mut self) {
        self.identity.mark_unchanged();
        let now = Instant::now();
        let usable = self.usable(now);
        if let Some(held) = &mut self.state.held {
            held.credentials_changed(usable.as_ref(), now, rand::random());
        }
    }

    /// Starts all that is due, and says when to look again.
    async fn start_what_is_due(&mut self, directive: Directive) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let free = (self.state.waiting.count() < WAITING).then(|| self.state.dials.free_at(now));
            let usable = self.usable(now);
            let link = self.state.held.as_ref().map(|held| held.link(usable.as_ref()));
            let next = self.times.plan(directive, link, free, usable.is_none()).next();
            match next {
                Some((at, action)) if at <= now.into_std() => {
                    self.start(action, link, usable, now, directive.limit).await;
                }
                _ => {
                    let held = self.state.held.as_ref().and_then(Held::deadline);
                    let next = next.map(|(at, _)| Instant::from_std(at));
                    return [held, self.state.dials.next_overdue(), next].into_iter().flatten().min();
                }
            }
        }
    }

    async fn start(
        &mut self,
        action: Action,
        link: Option<Link>,
        usable: Option<Credentials>,
        now: Instant,
        limit: Duration,
    ) {
        self.times.started(action, link, now.into_std(), rand::random());
        let target = self.target.clone();
        match (action, &mut self.state.held) {
            (Action::Ping, Some(held)) => {
                held.kept.ping(now);
                held.pong_by = Some(now + limit);
            }
            (Action::Ask, Some(held)) => {
                held.kept.ask(now, usable.as_ref().and_then(|shown| shown.authorization.as_ref()));
                held.ping_at = Some(now + limit);
                held.answer_by = Some(now + PATIENCE);
            }
            (Action::Look, Some(_)) => self.look(now, limit).await,
            (Action::Hold, _) => {
                self.times.hold_again(now.into_std(), self.state.short_lived, rand::random());
                let trust = Arc::clone(&self.identity.borrow().trust);
                self.state.flying.push(hold(target, trust, limit).map(Landed::Connection).boxed());
            }
            (_, held) => {
                held.iter_mut().for_each(|held| held.replacement_begun(now));
                self.dial(usable, now, limit).await;
            }
        }
    }

    /// A fresh probe. Where two are unfinished, the younger one gives way to it.
    async fn dial(&mut self, usable: Option<Credentials>, now: Instant, limit: Duration) {
        if let Some((began, connected)) = self.state.dials.give_way() {
            self.send(What::DialOverdue { began, connected }).await;
        }
        let trust = Arc::clone(&self.identity.borrow().trust);
        let identity = Identity { trust, credentials: usable };
        let (connected, abort) = self.state.dials.begin(now, limit);
        let asking = Asking {
            target: self.target.clone(),
            identity: identity.clone(),
            started: now,
            limit,
            waiting: self.state.waiting.clone(),
            overdue: self.events.clone(),
        };
        let dial = Abortable::new(fresh::dial(self.target.clone(), identity, connected), abort);
        let landed = dial.map(|result| match result {
            Ok(result) => Landed::Dialled(Box::new(asking), result),
            Err(Aborted) => Landed::GivenUp,
        });
        self.state.flying.push(landed.boxed());
    }

    /// The host at the other end, whatever its processes do, acknowledges a keepalive each second.
    async fn look(&mut self, now: Instant, limit: Duration) {
        let Some(held) = &mut self.state.held else { return };
        let heard = held.kept.ends().and_then(|(own, peer)| self.kernel.heard(own, peer));
        // Where the kernel does not say, it ends the connection itself later.
        self.times.looked(now.into_std(), heard.unwrap_or_default(), limit);
        let Some(heard) = heard else { return };
        let deaf = heard > KEEPALIVE + limit;
        if std::mem::replace(&mut held.deaf, deaf) == deaf {
            return;
        }
        tracing::debug!(address = %self.target.address, ?heard, deaf, "whether the host acknowledges keepalives");
        let asked = now.checked_sub(heard).map_or(now, |last| last + KEEPALIVE);
        self.send(match deaf {
            true => What::Overdue { asked, now, cue: Cue::Unacknowledged },
            false => What::HostHeard(now),
        })
        .await;
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
            Some(landed) = flying.next() => Woken::Landed(landed),
            changed = self.orders.changed() => Woken::Order(changed.is_ok()),
            Ok(()) = self.identity.changed() => Woken::Identity,
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
                (held.pong_by, held.silent, held.deaf) = (None, false, false);
                self.probed(sent, now, Outcome::Alive, Some(now - sent), None).await;
            }
            // Its credentials ended with their lifetime, or are no longer known, and the apiserver ends the connection for that.
            // A connection of its own tells what is the case.
            News::Answer { status: UNAUTHORIZED, .. } => {
                self.let_go(now);
                self.times.ask_afresh(now.into_std());
            }
            News::Answer { asked, status, last } => {
                (held.answer_by, held.ping_at) = (None, None);
                (held.silent, held.deaf) = (held.kept.pinged().is_some() && held.silent, false);
                let outcome = outcome(status);
                // An answer that no apiserver gives: ask anew over a connection of its own.
                if last || matches!(outcome, Outcome::Failed(_)) {
                    self.let_go(now);
                }
                let readiness_known = tells_readiness(status);
                let answered = Answered { caller: Caller::Authenticated, readiness_known };
                self.probed(asked, now, outcome, None, Some(answered)).await;
            }
            News::Unanswered(asked, reason) => {
                self.let_go(now);
                self.probed(asked, now, Outcome::Failed(reason), None, None).await;
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
        if reason == FailReason::Reset {
            self.send(What::HostHeard(now)).await;
        }
        self.state.short_lived = if now - held.since < SOON { self.state.short_lived + 1 } else { 0 };
        tracing::debug!(%address, %reason, short_lived = self.state.short_lived, "a kept-open connection ended");
        if self.state.short_lived <= SHORT_LIVED {
            self.send(What::Cue(now, Cue::Ended)).await;
        } else {
            self.times.lost_again(now.into_std(), rand::random());
        }
    }

    async fn dialled(&mut self, asking: Asking, result: Result<Shaken, BoxError>) {
        let began = asking.started;
        self.state.dials.ended(began);
        match result {
            Ok(shaken) => {
                self.send(What::Shaken { now: Instant::now(), local: shaken.local }).await;
                self.state.flying.push(fresh::ask(asking, shaken).map(Landed::Probe).boxed());
            }
            Err(error) => self.landed(fresh::failed(asking, error)).await,
        }
    }

    async fn landed(&mut self, attempt: Attempt) {
        let Attempt { probe, kept, shown } = attempt;
        match probe {
            Ok(mut probe) => {
                self.state.hampered = false;
                // There are some, and they were not shown again.
                if let Some(answered) = probe.answered.as_mut().filter(|_| shown.is_none())
                    && self.identity.borrow().credentials.is_some()
                {
                    answered.caller = Caller::Refused;
                }
                match (probe.answered.map(|answered| answered.caller), shown.clone()) {
                    (Some(Caller::Refused), Some(shown)) => {
                        self.state.refused = Some((shown, Instant::now()));
                    }
                    (Some(Caller::Authenticated), _) => self.state.refused = None,
                    _ => {}
                }
                self.adopt(kept, shown);
                self.send(What::Probed(probe)).await;
            }
            Err(error) => self.cannot_ask(&error),
        }
    }

    /// Keeps a connection, if there is none, or none that is as good. The one that it replaces is closed.
    fn adopt(&mut self, kept: Option<Box<Kept>>, shown: Option<Credentials>) {
        let now = Instant::now();
        let usable = self.usable(now);
        let wanted = match &self.state.held {
            None => true,
            Some(held) if held.is_silent() => true,
            Some(held) if shown.is_some() => held.is_outdated(usable.as_ref()),
            Some(_) => false,
        };
        if let Some(kept) = kept.filter(|_| wanted) {
            let limit = self.orders.borrow().directive.limit;
            self.times.kept(now.into_std(), limit, shown.is_none(), rand::random());
            self.state.held = Some(Held::new(kept, shown, now));
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
        for (began, connected) in self.state.dials.overdue(now) {
            self.send(What::DialOverdue { began, connected }).await;
        }
        let Some(held) = &mut self.state.held else { return };
        let limit = self.orders.borrow().directive.limit;
        let over = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        if over(held.ping_at) {
            // Whether it is busy or gone tells the ping beside the question.
            held.ping_at = None;
            if held.kept.may_ping() && held.kept.multiplexes() {
                held.kept.ping(now);
                held.pong_by = Some(now + limit);
            }
        }
        let mut asked = None;
        if over(held.pong_by) {
            held.pong_by = None;
            asked = held.kept.pinged();
        }
        let unanswered = over(held.answer_by);
        if unanswered {
            held.answer_by = None;
            if held.kept.multiplexes() && !held.silent && asked.is_none() {
                // Its pings are answered: it lives, and is not fit for new connections.
                if let Some(asked) = held.kept.asked() {
                    held.kept.take_back();
                    self.probed(asked, now, Outcome::Unready, None, None).await;
                }
                return;
            }
            asked = asked.or(held.kept.asked());
        }
        if let Some(asked) = asked {
            tracing::debug!(address = %self.target.address, unanswered, "a kept-open connection is silent");
            held.silent = true;
            self.send(What::Overdue { asked, now, cue: Cue::Silent }).await;
        }
    }

    async fn probed(
        &mut self,
        started: Instant,
        now: Instant,
        outcome: Outcome,
        round_trip: Option<Duration>,
        answered: Option<Answered>,
    ) {
        let (started, finished) = (started.into_std(), now.into_std());
        let (handshake, local) = (None, None);
        let probe = Probe { started, finished, outcome, round_trip, handshake, local, answered };
        self.send(What::Probed(probe)).await;
    }

    async fn send(&mut self, what: What) {
        // Nobody listens when the daemon is about to end, and then this task is, too.
        let _ = self.events.send(Event { backend: self.target.address, what }).await;
    }
}
