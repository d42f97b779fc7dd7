//! The prober of one backend: keeps a connection open, sends requests over it, and makes fresh ones when in doubt.
//!
//! In: [`ProberOrder`]s, the identity to use. Out: [`ProberEvent`]s. It ends when the sender of its orders is dropped.
//!
//! What is overdue is reported once and waited for all the same. At most two handshakes are unfinished at a time, and
//! the oldest stays open for a late answer, so that a stopped process finds a handful of them when it continues, and
//! no storm.

use std::future::pending;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{Abortable, Aborted, BoxFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Duration, Instant, sleep_until};

use super::SocketInfo;
use super::connection::{ConnectionEvent, ConnectionState, HeldConnection, ProbeConnection};
use super::detector::Directive;
use super::probe::{
    self, Handshake, PendingReadyz, ProbeAttempt, ProbeTask, ProberEvent, ProberEventKind, READYZ_TIMEOUT,
    Target, UnfinishedHandshakes, open_ping_connection,
};
use super::schedule::{Action, ProbeSchedule};
use super::socket::{BoxError, KEEPALIVE, LocalError};
use crate::model::health::{AuthResult, FailReason, ProbeOutcome, ProbeResult, ReadyzAnswer, Trigger};
use crate::transport::readyz::{Credentials, Identity, UNAUTHORIZED, outcome, tells_readiness};

/// Fresh probes that have completed the handshake and wait for `/readyz`. A burst must not pile up handshakes on a
/// server that is slow to answer: further ones would learn nothing sooner.
const MAX_PENDING_READYZ: usize = 2;
/// A kept-open connection that ends sooner than this ended too soon.
const SHORT_LIVED_TIME: Duration = Duration::from_secs(5);
/// So many of them in a row, and their end is no sign of anything: this server keeps no connections, or flaps. Without
/// the bound it would be probed in a burst for ever.
const MAX_SHORT_LIVED: u32 = 3;
/// Credentials that were rejected are used again after so long, if there are no other ones: an API server that cannot reach
/// what it verifies tokens with refuses good ones, too.
const CREDENTIALS_RETRY: Duration = Duration::from_secs(60);

/// What a prober is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProberOrder {
    pub(super) directive: Directive,
    /// When connections to the backend were last seen.
    pub(super) in_use: Option<Instant>,
}

/// The prober.
pub(super) struct Prober {
    pub(super) target: Target,
    pub(super) identity: watch::Receiver<Identity>,
    pub(super) orders: watch::Receiver<ProberOrder>,
    pub(super) kernel: Arc<dyn SocketInfo>,
    pub(super) events: mpsc::Sender<ProberEvent>,
    pub(super) schedule: ProbeSchedule,
    pub(super) state: ProberState,
}

/// What is under way.
#[derive(Default)]
pub(super) struct ProberState {
    held: Option<HeldConnection>,
    handshakes: UnfinishedHandshakes,
    tasks: FuturesUnordered<BoxFuture<'static, Completed>>,
    waiting: PendingReadyz,
    short_lived: u32,
    /// The credentials that the API server rejected, and when.
    refused: Option<(Credentials, Instant)>,
    /// The last fresh probe could not be made; that was logged.
    cannot_probe: bool,
    in_use: Option<Instant>,
}

/// What was made beside the kept-open connection.
enum Completed {
    /// The handshake of a fresh probe ended.
    Handshake(Box<ProbeTask>, Result<Handshake, BoxError>),
    /// It was given up.
    Aborted,
    Probed(ProbeAttempt),
    /// A connection to be kept for pings only, if it was established.
    Connection(Option<Box<ProbeConnection>>),
}

enum Woken {
    ConnectionEvent(ConnectionEvent),
    Completed(Completed),
    Order(bool),
    Identity,
    Time,
}

impl Prober {
    pub(super) async fn run(mut self) {
        loop {
            let ProberOrder { directive, in_use } = *self.orders.borrow_and_update();
            if in_use > self.state.in_use {
                self.state.in_use = in_use;
                self.schedule.in_use(Instant::now().into_std());
            }
            let wake = self.start_what_is_due(directive).await;
            match self.wait(wake).await {
                Woken::ConnectionEvent(event) => self.handle_event(event).await,
                Woken::Completed(Completed::Handshake(task, result)) => {
                    self.handshake_ended(*task, result).await
                }
                Woken::Completed(Completed::Aborted) => {}
                Woken::Completed(Completed::Probed(attempt)) => self.probe_ended(attempt).await,
                Woken::Completed(Completed::Connection(kept)) => self.adopt(kept, None),
                Woken::Order(true) => {}
                Woken::Order(false) => return,
                Woken::Identity => self.credentials_changed(),
                Woken::Time => self.check_deadlines(Instant::now()).await,
            }
        }
    }

    /// The credentials to use, unless there are none or this API server rejected them.
    fn usable(&self, now: Instant) -> Option<Credentials> {
        let credentials = self.identity.borrow().credentials.clone()?;
        let refused = self.state.refused.as_ref();
        let refused = refused.is_some_and(|(who, at)| *who == credentials && now - *at < CREDENTIALS_RETRY);
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

    /// Starts all that is due, and returns when to check again.
    async fn start_what_is_due(&mut self, directive: Directive) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let free = (self.state.waiting.count() < MAX_PENDING_READYZ)
                .then(|| self.state.handshakes.next_slot(now));
            let usable = self.usable(now);
            let connection = self.state.held.as_ref().map(|held| held.state(usable.as_ref()));
            let next = self.schedule.plan(directive, connection, free, usable.is_none()).next();
            match next {
                Some((at, action)) if at <= now.into_std() => {
                    self.start(action, connection, usable, now, directive.limit).await;
                }
                _ => {
                    let held = self.state.held.as_ref().and_then(HeldConnection::deadline);
                    let next = next.map(|(at, _)| Instant::from_std(at));
                    return [held, self.state.handshakes.next_overdue(), next].into_iter().flatten().min();
                }
            }
        }
    }

    async fn start(
        &mut self,
        action: Action,
        connection: Option<ConnectionState>,
        usable: Option<Credentials>,
        now: Instant,
        limit: Duration,
    ) {
        self.schedule.started(action, connection, now.into_std(), rand::random());
        let target = self.target.clone();
        match (action, &mut self.state.held) {
            (Action::Ping, Some(held)) => {
                held.kept.ping(now);
                held.pong_by = Some(now + limit);
            }
            (Action::Readyz, Some(held)) => {
                held.kept.request_readyz(now, usable.as_ref().and_then(|shown| shown.authorization.as_ref()));
                held.ping_at = Some(now + limit);
                held.answer_by = Some(now + READYZ_TIMEOUT);
            }
            (Action::CheckKeepalive, Some(_)) => self.check_keepalive(now, limit).await,
            (Action::OpenPingConnection, _) => {
                self.schedule.ping_connection_retry(now.into_std(), self.state.short_lived, rand::random());
                let trust = Arc::clone(&self.identity.borrow().trust);
                self.state
                    .tasks
                    .push(open_ping_connection(target, trust, limit).map(Completed::Connection).boxed());
            }
            (_, held) => {
                held.iter_mut().for_each(|held| held.replacement_begun(now));
                self.dial(usable, now, limit).await;
            }
        }
    }

    /// A fresh probe. Where two handshakes are unfinished, the younger one is aborted for it.
    async fn dial(&mut self, usable: Option<Credentials>, now: Instant, limit: Duration) {
        if let Some((began, connected)) = self.state.handshakes.abort_younger() {
            self.send(ProberEventKind::ConnectOverdue { began, connected }).await;
        }
        let trust = Arc::clone(&self.identity.borrow().trust);
        let identity = Identity { trust, credentials: usable };
        let (connected, abort) = self.state.handshakes.begin(now, limit);
        let task = ProbeTask {
            target: self.target.clone(),
            identity: identity.clone(),
            started: now,
            limit,
            waiting: self.state.waiting.clone(),
            overdue: self.events.clone(),
        };
        let dial =
            Abortable::new(probe::connect_and_handshake(self.target.clone(), identity, connected), abort);
        let completed = dial.map(|result| match result {
            Ok(result) => Completed::Handshake(Box::new(task), result),
            Err(Aborted) => Completed::Aborted,
        });
        self.state.tasks.push(completed.boxed());
    }

    /// The peer's kernel, whatever its processes do, acknowledges a keepalive each second.
    async fn check_keepalive(&mut self, now: Instant, limit: Duration) {
        let Some(held) = &mut self.state.held else { return };
        let heard = held.kept.addresses().and_then(|(own, peer)| self.kernel.last_segment_age(own, peer));
        // Where the kernel does not say, it ends the connection itself later.
        self.schedule.keepalive_checked(now.into_std(), heard.unwrap_or_default(), limit);
        let Some(heard) = heard else { return };
        let deaf = heard > KEEPALIVE + limit;
        if std::mem::replace(&mut held.keepalive_lost, deaf) == deaf {
            return;
        }
        tracing::debug!(
            event = %"keepalive_checked", backend = %self.target.address, since_ack = ?heard, lost = deaf,
            "Checked whether host acknowledges keepalives"
        );
        let asked = now.checked_sub(heard).map_or(now, |last| last + KEEPALIVE);
        self.send(match deaf {
            true => ProberEventKind::RequestOverdue { asked, now, trigger: Trigger::KeepaliveTimeout },
            false => ProberEventKind::HostResponded(now),
        })
        .await;
    }

    /// What was received comes before what is overdue: after a pause of this process all timers are over, and the
    /// answers lie in the sockets.
    async fn wait(&mut self, wake: Option<Instant>) -> Woken {
        let ProberState { held, tasks, .. } = &mut self.state;
        tokio::select! {
            biased;
            event = async {
                match held {
                    Some(held) => held.kept.next_event().await,
                    None => pending().await,
                }
            } => Woken::ConnectionEvent(event),
            Some(completed) = tasks.next() => Woken::Completed(completed),
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

    async fn handle_event(&mut self, event: ConnectionEvent) {
        let Some(held) = &mut self.state.held else { return };
        let now = Instant::now();
        match event {
            ConnectionEvent::Pong(sent) => {
                (held.pong_by, held.silent, held.keepalive_lost) = (None, false, false);
                self.probed(sent, now, ProbeOutcome::Alive, Some(now - sent), None).await;
            }
            // Its credentials ended with their lifetime, or are no longer known, and the apiserver ends the
            // connection for that. A fresh connection tells which.
            ConnectionEvent::Readyz { status: UNAUTHORIZED, .. } => {
                self.drop_connection(now);
                self.schedule.probe_now(now.into_std());
            }
            ConnectionEvent::Readyz { asked, status, last } => {
                (held.answer_by, held.ping_at) = (None, None);
                (held.silent, held.keepalive_lost) = (held.kept.ping_sent().is_some() && held.silent, false);
                let outcome = outcome(status);
                // An answer that no API server gives: probe over a fresh connection.
                if last || matches!(outcome, ProbeOutcome::Failed(_)) {
                    self.drop_connection(now);
                }
                let readiness_known = tells_readiness(status);
                let answered = ReadyzAnswer { auth: AuthResult::Authenticated, readiness_known };
                self.probed(asked, now, outcome, None, Some(answered)).await;
            }
            ConnectionEvent::ReadyzFailed(asked, reason) => {
                self.drop_connection(now);
                self.probed(asked, now, ProbeOutcome::Failed(reason), None, None).await;
            }
            ConnectionEvent::Closed(reason) => self.ended(now, reason).await,
        }
    }

    fn drop_connection(&mut self, now: Instant) -> Option<HeldConnection> {
        self.schedule.lost(now.into_std(), rand::random());
        self.state.held.take()
    }

    async fn ended(&mut self, now: Instant, reason: FailReason) {
        let Some(held) = self.drop_connection(now) else { return };
        let backend = self.target.address;
        if reason == FailReason::Reset {
            self.send(ProberEventKind::HostResponded(now)).await;
        }
        self.state.short_lived =
            if now - held.since < SHORT_LIVED_TIME { self.state.short_lived + 1 } else { 0 };
        tracing::debug!(
            event = %"probe_connection_closed", %backend, %reason, short_lived = self.state.short_lived,
            "Kept connection has ended"
        );
        if self.state.short_lived <= MAX_SHORT_LIVED {
            self.send(ProberEventKind::Triggered(now, Trigger::ConnectionClosed)).await;
        } else {
            self.schedule.lost_repeatedly(now.into_std(), rand::random());
        }
    }

    async fn handshake_ended(&mut self, task: ProbeTask, result: Result<Handshake, BoxError>) {
        let began = task.started;
        self.state.handshakes.ended(began);
        match result {
            Ok(handshake) => {
                self.send(ProberEventKind::HandshakeCompleted {
                    now: Instant::now(),
                    local: handshake.local,
                })
                .await;
                self.state.tasks.push(probe::request_readyz(task, handshake).map(Completed::Probed).boxed());
            }
            Err(error) => self.probe_ended(probe::failed(task, error)).await,
        }
    }

    async fn probe_ended(&mut self, attempt: ProbeAttempt) {
        let ProbeAttempt { probe, kept, shown } = attempt;
        match probe {
            Ok(mut probe) => {
                self.state.cannot_probe = false;
                // There are credentials, and they were not used again.
                if let Some(answered) = probe.readyz.as_mut().filter(|_| shown.is_none())
                    && self.identity.borrow().credentials.is_some()
                {
                    answered.auth = AuthResult::Refused;
                }
                match (probe.readyz.map(|answered| answered.auth), shown.clone()) {
                    (Some(AuthResult::Refused), Some(shown)) => {
                        self.state.refused = Some((shown, Instant::now()));
                    }
                    (Some(AuthResult::Authenticated), _) => self.state.refused = None,
                    _ => {}
                }
                self.adopt(kept, shown);
                self.send(ProberEventKind::Probed(probe)).await;
            }
            Err(error) => self.log_local_error(&error),
        }
    }

    /// Keeps a connection, if there is none, or none that is as useful. The one that it replaces is closed.
    fn adopt(&mut self, kept: Option<Box<ProbeConnection>>, shown: Option<Credentials>) {
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
            self.schedule.kept(now.into_std(), limit, shown.is_none(), rand::random());
            self.state.held = Some(HeldConnection::new(kept, shown, now));
        }
    }

    fn log_local_error(&mut self, error: &LocalError) {
        if !self.state.cannot_probe {
            tracing::warn!(
                event = %"probe_impossible",
                backend = %self.target.address, error = %format_args!("{error}: {}", error.0),
                "This node cannot probe API servers"
            );
        }
        self.state.cannot_probe = true;
    }

    async fn check_deadlines(&mut self, now: Instant) {
        for (began, connected) in self.state.handshakes.overdue(now) {
            self.send(ProberEventKind::ConnectOverdue { began, connected }).await;
        }
        let Some(held) = &mut self.state.held else { return };
        let limit = self.orders.borrow().directive.limit;
        let over = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        if over(held.ping_at) {
            // The ping beside the request tells whether it is busy or dead.
            held.ping_at = None;
            if held.kept.can_ping() && held.kept.multiplexes() {
                held.kept.ping(now);
                held.pong_by = Some(now + limit);
            }
        }
        let mut asked = None;
        if over(held.pong_by) {
            held.pong_by = None;
            asked = held.kept.ping_sent();
        }
        let unanswered = over(held.answer_by);
        if unanswered {
            held.answer_by = None;
            if held.kept.multiplexes() && !held.silent && asked.is_none() {
                // Its pings are answered: it lives, and is not fit for new connections.
                if let Some(asked) = held.kept.readyz_requested() {
                    held.kept.cancel_readyz();
                    self.probed(asked, now, ProbeOutcome::Unready, None, None).await;
                }
                return;
            }
            asked = asked.or(held.kept.readyz_requested());
        }
        if let Some(asked) = asked {
            tracing::debug!(
                event = %"probe_connection_silent", backend = %self.target.address, unanswered,
                "Kept connection is silent"
            );
            held.silent = true;
            self.send(ProberEventKind::RequestOverdue { asked, now, trigger: Trigger::PingTimeout }).await;
        }
    }

    async fn probed(
        &mut self,
        started: Instant,
        now: Instant,
        outcome: ProbeOutcome,
        round_trip: Option<Duration>,
        readyz: Option<ReadyzAnswer>,
    ) {
        let (started, finished) = (started.into_std(), now.into_std());
        let (handshake, local) = (None, None);
        let probe = ProbeResult { started, finished, outcome, round_trip, handshake, local, readyz };
        self.send(ProberEventKind::Probed(probe)).await;
    }

    async fn send(&mut self, what: ProberEventKind) {
        // The receiver is gone when the daemon shuts down, and then this task ends, too.
        let _ = self.events.send(ProberEvent { backend: self.target.address, what }).await;
    }
}
