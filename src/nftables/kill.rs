//! The chains that end the flows of dead backends, and the one that lets their reminders pass. Pure.
//!
//! A flow is answered with a reset where its packets still carry the virtual IP: behind conntrack and ahead of nat, in
//! prerouting and output. In forward, a bridged pod would get the reset from the backend's address, and ignore it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::names::{backend_name, dead_name, reset_name};
use super::refuse;
use super::table::{Action, Chain, Counter, Element, Hook, Match, Rule, Set, TcpFlags};
use crate::model::desired::{DesiredFrontend, DesiredState};
use crate::model::types::{Backend, Family, Vip};

/// Three times as long as until a daemon puts them there again: it may once be kept from that by another program's
/// commit.
const DEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The base chains; they stand also while nobody is dead, so that a death changes rules only.
pub(super) fn base_chains(state: &DesiredState) -> Vec<Chain> {
    let dead = |name: &str, hook: Hook, comment: &str| Chain {
        name: name.to_owned(),
        comment: comment.to_owned(),
        hook: Some(hook),
        rules: state.frontends.iter().map(to_dead).chain(refuse::dispatch(state)).collect(),
    };
    vec![
        dead(
            "kill-prerouting",
            Hook::KillPrerouting,
            "ends flows of pods and other hosts to apiservers that do not answer",
        ),
        dead("kill-output", Hook::KillOutput, "ends flows of this node's own processes to such apiservers"),
        Chain {
            name: "notrack-output".to_owned(),
            comment: "lets a forged SYN ask a client or an apiserver whether its flow still stands"
                .to_owned(),
            hook: Some(Hook::NotrackOutput),
            rules: state.frontends.iter().map(nudge).chain(ports(state).into_iter().map(ask)).collect(),
        },
    ]
}

/// The chain of each frontend that rejects what goes to a dead backend.
pub(super) fn dead_chains(state: &DesiredState) -> impl Iterator<Item = Chain> {
    state.frontends.iter().map(|frontend| Chain {
        name: dead_name(frontend.vip),
        comment: format!("flows to {} whose apiserver does not answer", frontend.vip),
        hook: None,
        rules: vec![reject(frontend.vip)],
    })
}

/// The set of each frontend that says which backends are dead. It stands also while none is, so that a death changes
/// elements only; and they expire, so that a daemon that is gone has no flows of an apiserver ended that is back.
pub(super) fn dead_sets(state: &DesiredState) -> impl Iterator<Item = Set> {
    state.frontends.iter().map(|frontend| Set {
        name: dead_name(frontend.vip),
        comment: format!("apiservers of {} that do not answer", frontend.vip),
        family: Family::of(frontend.vip.ip()),
        timeout: DEAD_TIMEOUT,
        elements: frontend.dead.iter().map(element).collect(),
    })
}

fn element(backend: &Backend) -> Element {
    Element { address: *backend, comment: format!("apiserver {backend} does not answer") }
}

/// One counter for each frontend.
pub(super) fn counters(state: &DesiredState) -> impl Iterator<Item = Counter> {
    state.frontends.iter().map(|frontend| Counter {
        name: reset_name(frontend.vip),
        comment: format!("resets sent in place of apiservers of {}", frontend.vip),
    })
}

/// The counters of connections are kept while a backend is dead: it may come back.
pub(super) fn counted_backends(state: &DesiredState) -> impl Iterator<Item = Counter> {
    let mut all = state.backends();
    all.extend(state.dead().into_keys());
    all.into_iter().map(|backend| Counter {
        name: backend_name(backend),
        comment: format!("connections sent to apiserver {backend}"),
    })
}

fn to_dead(frontend: &DesiredFrontend) -> Rule {
    Rule::new(
        vec![
            Match::Tcp,
            Match::FlowDirectionOriginal,
            Match::FlowDestinationAddress(frontend.vip.ip()),
            Match::FlowDestinationPort(frontend.vip.port()),
        ],
        Action::Goto(dead_name(frontend.vip)),
    )
}

/// Never a SYN: a new connection goes to a live apiserver. Never a reset: it ends the flow by itself.
fn reject(vip: Vip) -> Rule {
    Rule::new(
        vec![Match::TcpFlags(TcpFlags::NeitherSynNorRst), Match::FlowRepliesFromDead(vip)],
        Action::RejectWithReset,
    )
    .counted(reset_name(vip))
}

fn nudge(frontend: &DesiredFrontend) -> Rule {
    let ip: IpAddr = frontend.vip.ip();
    Rule::new(
        vec![
            Match::SourceAddress(ip),
            Match::TcpSourcePort(frontend.vip.port()),
            Match::TcpFlags(TcpFlags::BareSyn),
        ],
        Action::Notrack,
    )
}

/// The ports of all apiservers that are known.
pub(super) fn ports(state: &DesiredState) -> BTreeSet<u16> {
    let mut all = state.backends();
    all.extend(state.dead().into_keys());
    all.into_iter().map(|backend| backend.port()).collect()
}

/// A kernel never opens a connection without TCP options, so this is no dial of anybody's. Whatever the address: an
/// apiserver that is neither chosen nor dead is asked too, and who is asked changes no rule.
fn ask(port: u16) -> Rule {
    Rule::new(
        vec![Match::TcpDestinationPort(port), Match::TcpFlags(TcpFlags::BareSyn), Match::TcpWithoutOptions],
        Action::Notrack,
    )
}
