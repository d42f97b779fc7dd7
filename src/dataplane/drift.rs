//! What is known of a change that somebody else made to what this daemon made.

use std::time::Instant;

use crate::nftables::events::Culprit;

/// The most culprits that are named at a time.
const MOST_CULPRITS: usize = 8;

/// How a change was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// The kernel said so.
    Event,
    /// The kernel said more than could be heard.
    Lost,
    /// A look at the regular time, of which no event had told.
    Check,
}

impl Found {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Event, Self::Lost, Self::Check];

    /// The label in metrics and status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Lost => "lost_events",
            Self::Check => "check",
        }
    }
}

/// A change by somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// How it was found.
    pub found: Found,
    /// When.
    pub noticed: Instant,
    /// Transactions of others that the kernel told of; 0 if it told of none.
    pub changes: u64,
    /// Who made them, each once, as far as the kernel said.
    pub culprits: Vec<Culprit>,
}

impl Drift {
    /// One that nothing else is known of.
    pub fn new(found: Found) -> Self {
        Self { found, noticed: Instant::now(), changes: 0, culprits: Vec::new() }
    }

    /// Somebody made one more change.
    pub fn blame(&mut self, culprit: Culprit) {
        self.found = Found::Event;
        self.changes = self.changes.saturating_add(1);
        if self.culprits.len() < MOST_CULPRITS && !self.culprits.contains(&culprit) {
            self.culprits.push(culprit);
        }
    }

    /// The culprits in one line.
    pub fn who(&self) -> Option<String> {
        let names: Vec<String> = self.culprits.iter().map(ToString::to_string).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}
