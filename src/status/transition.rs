//! The latest changes of apiservers' states, in `apivip status`.

use std::fmt::{self, Display, Formatter};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::model::health::FailReason;
use crate::model::report::HealthTransition;
use crate::model::types::Backend;

/// One change of an apiserver's state, and what followed from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TransitionStatus {
    /// Seconds since 1970 when it was decided.
    pub at: u64,
    /// Seconds since then.
    pub seconds_ago: u64,
    /// Whose.
    pub backend: Backend,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
    /// Why its latest probe failed, if it did.
    pub reason: Option<String>,
    /// The first sign of it.
    #[serde(default)]
    pub cue: Option<String>,
    /// From the first sign to the decision, in milliseconds.
    pub decision_ms: u64,
    /// From the decision to the commit, in milliseconds.
    pub commit_ms: u64,
    /// From the order to end its connections to the end of the last one, in milliseconds.
    pub flows_ms: Option<u64>,
    /// How many connections it had then.
    pub flows: Option<u64>,
    /// How many of them could not be ended.
    pub remaining: Option<u64>,
}

impl TransitionStatus {
    pub(super) fn new(transition: &HealthTransition) -> Self {
        let ago = transition.at.elapsed();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ended = transition.ended;
        Self {
            at: now.saturating_sub(ago).as_secs(),
            seconds_ago: ago.as_secs(),
            backend: transition.backend,
            from: transition.from.label().to_owned(),
            to: transition.to.label().to_owned(),
            reason: transition.reason.map(|reason: FailReason| reason.label().to_owned()),
            cue: Some(transition.trigger.label().to_owned()),
            decision_ms: millis(transition.decision),
            commit_ms: millis(transition.commit),
            flows_ms: ended.map(|ended| millis(ended.took)),
            flows: ended.map(|ended| ended.flows),
            remaining: ended.map(|ended| ended.remaining),
        }
    }

    /// What is known of it besides who and when.
    pub fn details(&self) -> String {
        let mut text = self.reason.as_ref().map(|reason| format!("{reason}, ")).unwrap_or_default();
        text += &format!("decided in {} ms, programmed in {} ms", self.decision_ms, self.commit_ms);
        if let (Some(flows @ 1..), Some(remaining), Some(ms)) = (self.flows, self.remaining, self.flows_ms) {
            let ended = flows.saturating_sub(remaining);
            text += &format!(", {ended} of {flows} connections ended in {ms} ms");
        }
        text
    }
}

impl Display for TransitionStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { backend, from, to, .. } = self;
        let ago = super::duration(self.seconds_ago);
        write!(f, "{backend} {from} -> {to} {ago} ago: {}", self.details())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
