//! The connection that a worker keeps open: what was shown on it, what is awaited on it, and when another one should take its
//! place.
//!
//! One that was opened with credentials is asked over. One without carries pings only, since an apiserver ends a connection over
//! which a stranger asks. Pings keep either open: kube-apiserver ends a connection that had no request for 90 s.

use std::time::Duration;

use tokio::time::Instant;

use super::kept::Kept;
use super::timetable::Link;
use crate::transport::readyz::Credentials;

/// Certificates are often renewed on all nodes at once. Each node waits so long at the most.
const SPREAD: Duration = Duration::from_secs(5);
/// When a try to replace the connection is over, with or without another one.
const AGAIN: Duration = Duration::from_secs(10);

/// The connection and its deadlines.
pub(super) struct Held {
    pub(super) kept: Box<Kept>,
    pub(super) since: Instant,
    pub(super) pong_by: Option<Instant>,
    pub(super) answer_by: Option<Instant>,
    /// When a ping is to go beside a question that is not answered.
    pub(super) ping_at: Option<Instant>,
    /// A ping, or a question that leaves no room for one, is overdue.
    pub(super) silent: bool,
    /// The host does not acknowledge the kernel's keepalive.
    pub(super) deaf: bool,
    shown: Option<Credentials>,
    renew_at: Option<Instant>,
}

impl Held {
    /// Kept from `now` on, and opened with those credentials, or to carry pings only.
    pub(super) fn new(kept: Box<Kept>, shown: Option<Credentials>, now: Instant) -> Self {
        Self {
            kept,
            since: now,
            pong_by: None,
            answer_by: None,
            ping_at: None,
            silent: false,
            deaf: false,
            shown,
            renew_at: None,
        }
    }

    /// When something is overdue next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.pong_by, self.answer_by, self.ping_at].into_iter().flatten().min()
    }

    /// Whether any other connection is worth more.
    pub(super) fn is_silent(&self) -> bool {
        self.silent || self.deaf
    }

    /// Whether it carries pings only.
    pub(super) fn is_mute(&self) -> bool {
        self.shown.is_none()
    }

    /// Whether another connection would show what this one does not. `usable` are the credentials as they are now.
    pub(super) fn is_outdated(&self, usable: Option<&Credentials>) -> bool {
        match (&self.shown, usable) {
            (None, Some(_)) => true,
            (Some(shown), Some(usable)) => !usable.connects_like(shown),
            (_, None) => false,
        }
    }

    /// The credentials are other ones now.
    pub(super) fn credentials_changed(&mut self, usable: Option<&Credentials>, now: Instant, chance: f64) {
        if self.is_outdated(usable) {
            let at = now + SPREAD.mul_f64(chance);
            self.renew_at = Some(self.renew_at.map_or(at, |known| known.min(at)));
        }
    }

    /// A connection was begun that may take its place.
    pub(super) fn replacement_begun(&mut self, now: Instant) {
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_at = Some(now + AGAIN);
        }
    }

    /// How the timetable sees it.
    pub(super) fn link(&self, usable: Option<&Credentials>) -> Link {
        Link {
            may_ping: self.kept.may_ping(),
            asking: self.kept.asked().is_some(),
            busy: self.kept.is_busy(),
            mute: self.is_mute() || self.is_silent(),
            renew: self.renew_at.filter(|_| usable.is_some()).map(Instant::into_std),
        }
    }
}
