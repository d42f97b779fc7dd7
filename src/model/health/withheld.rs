//! Why established connections to a silent backend are left alone.

use std::fmt;

use serde::Serialize;

/// What is missing, or speaks against ending them. A closed set, in the order in which they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withheld {
    /// No other backend of the family, on another node, has answered throughout.
    NoWitness,
    /// Data of its process still arrive on clients' connections.
    DataArrive,
    /// Its host answers on clients' connections, and not this node's own dials.
    OwnDialsBlocked,
    /// What arrives on clients' connections could not be seen all the time, or they could not be asked.
    NotObserved,
}

impl Withheld {
    /// The word in status and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::NoWitness => "no-witness",
            Self::DataArrive => "data-arrive",
            Self::OwnDialsBlocked => "own-dials-blocked",
            Self::NotObserved => "not-observed",
        }
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoWitness => "no other apiserver on another node has answered all the time",
            Self::DataArrive => "data still arrive from it on clients' connections",
            Self::OwnDialsBlocked => {
                "its host answers on clients' connections, so only this node's own probes are blocked: check this node's firewall"
            }
            Self::NotObserved => "this node could not see all the time what arrives on clients' connections",
        })
    }
}
