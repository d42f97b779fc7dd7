//! The connection that a worker keeps open: what was shown on it, what is awaited on it, and when another one should take its
//! place.
//!
//! One that was opened with credentials is asked over. One without carries no request, since an apiserver ends a connection
//! over which a stranger asks; it is replaced before the server ends it for that.

use std::time::Duration;

use tokio::time::Instant;

use super::beat::about;
use super::kept::Kept;
use super::timetable::{Action, Link};
use crate::readyz::Credentials;

/// kube-apiserver ends a connection without a request after 32 s over HTTP/1.1 (its ReadHeaderTimeout), and after 90 s over
/// HTTP/2 (its IdleTimeout, which PINGs do not renew). Another one is there before that.
const WITHOUT_REQUEST: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(70));
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
    shown: Option<Credentials>,
    renew_at: Option<Instant>,
}

impl Held {
    /// Kept from `now` on, and opened with those credentials, or to carry no request. `chance` is from 0 up to 1.
    pub(super) fn new(kept: Box<Kept>, shown: Option<Credentials>, now: Instant, chance: f64) -> Self {
        let (h1, h2) = WITHOUT_REQUEST;
        let renew_at = match shown {
            Some(_) => None,
            None => Some(now + about(if kept.can_ping() { h2 } else { h1 }, chance)),
        };
        Self { kept, since: now, pong_by: None, answer_by: None, shown, renew_at }
    }

    /// Whether it carries no request.
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
        let by = if usable.is_some() { Action::Fresh } else { Action::Hold };
        Link {
            may_ping: self.kept.can_ping() && self.kept.pinged().is_none(),
            asking: self.kept.asked().is_some(),
            mute: self.is_mute(),
            renew: self.renew_at.map(|at| (at.into_std(), by)),
        }
    }
}
