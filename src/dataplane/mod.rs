//! What [`crate::reconcile`] needs of the kernel: rules, routes, and the end of flows, as traits.
//!
//! In: a desired state. Out: what came of it. `nftables`, `routes` and `conntrack` implement the traits and turn their own
//! errors into [`DataplaneError`]; this room knows none of them. [`dry_run`] implements them all and does nothing, [`fake`]
//! without a kernel.

pub mod dry_run;
pub mod fake;
pub mod flows;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;

use crate::model::desired::{DesiredState, NodeView};
use crate::model::types::Backend;

/// Translates virtual IPs to backends.
pub trait Dataplane {
    /// Programs `state` in place of `before`, whole or not at all: after an error, what stood before still stands.
    fn apply(
        &mut self,
        state: &DesiredState,
        before: Option<&DesiredState>,
    ) -> impl Future<Output = Result<Applied, DataplaneError>>;

    /// Whether rules of ours are installed, or may be, whichever process made them.
    fn is_installed(&mut self) -> impl Future<Output = bool>;

    /// Keeps ending the flows of these backends, among those that what was applied last takes for dead, and of no
    /// others. It expires a minute after the last call of this or of [`Dataplane::apply`].
    fn refresh(&mut self, dead: &BTreeSet<Backend>) -> impl Future<Output = Result<(), DataplaneError>>;

    /// Connections to each backend of `state`, as the kernel counts them now.
    fn connections(
        &mut self,
        state: &DesiredState,
    ) -> impl Future<Output = Result<BTreeMap<Backend, u64>, DataplaneError>>;

    /// Resolves while what was applied last no longer stands as it was, whoever changed it. Cancel safe.
    fn drifted(&mut self) -> impl Future<Output = Drift>;

    /// Removes all that [`Dataplane::apply`] made. `false`: there was nothing.
    fn remove(&mut self) -> impl Future<Output = Result<bool, DataplaneError>>;
}

/// What the node's addresses and routes say, and the routes that apivip adds to them.
pub trait Host {
    /// The node as it is now, as far as these addresses are concerned. It may take seconds, in which this can be used for
    /// other things.
    fn view(
        &self,
        vips: BTreeSet<IpAddr>,
        backends: BTreeSet<IpAddr>,
    ) -> LocalBoxFuture<'static, Result<NodeView, DataplaneError>>;

    /// Makes sure that the node's own processes have a route to every virtual IP of `state`.
    fn ensure_routes(&mut self, state: &DesiredState) -> impl Future<Output = Result<(), DataplaneError>>;

    /// Removes the routes that [`Host::ensure_routes`] made and says which.
    fn remove_routes(&mut self) -> impl Future<Output = Result<Vec<IpAddr>, DataplaneError>>;

    /// Makes the virtual IPs of `state` local to this node, for [`LocalVip::All`] of their packets or those to their ports.
    /// They stay so until [`Host::release_local_vips`], or until the process ends.
    fn acquire_local_vips(
        &mut self,
        state: &DesiredState,
        packets: LocalVip,
    ) -> impl Future<Output = Result<(), DataplaneError>>;

    /// Ends every [`Host::acquire_local_vips`], also what an earlier process left of one. `false`: there was none.
    fn release_local_vips(&mut self) -> impl Future<Output = Result<bool, DataplaneError>>;

    /// How many routes and routing rules of ours others removed, and were made again, since the last call.
    fn repaired(&mut self) -> usize;

    /// Resolves when addresses or routes may have changed.
    fn changed(&mut self) -> impl Future<Output = ()>;
}

/// A state that was programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Connections to each backend of the state that was replaced, as the kernel counted them last: the counters of
    /// backends that are gone went with it.
    pub connections_before: BTreeMap<Backend, u64>,
    /// Time from asking the kernel to its answer.
    pub took: Duration,
    /// Messages in the transaction.
    pub steps: usize,
    /// Whether no other program may change what was programmed.
    pub owned: bool,
}

/// Which packets to a virtual IP come to this node's own sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalVip {
    /// All, where rules with a guard stand, which must see that. They drop what goes to no port of the Service.
    All,
    /// Those to the Service's TCP ports that no rule of ours translates: of connections that began while all came; or of
    /// every connection, where no rules stand. Other programs' rules for local addresses do not see it either.
    Ports,
}

/// The most culprits that are named in one report.
const MOST_CULPRITS: usize = 8;

/// How a change was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DriftSource {
    /// A notification of the kernel.
    Event,
    /// Notifications were lost.
    Lost,
    /// A periodic check, ahead of any event.
    Check,
}

impl DriftSource {
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

/// A change by another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// How it was found.
    pub source: DriftSource,
    /// When.
    pub noticed: Instant,
    /// Transactions of other programs that the kernel reported; 0 if it reported none.
    pub changes: u64,
    /// Who made them, each once, as far as the kernel reported.
    pub culprits: Vec<Culprit>,
}

impl Drift {
    /// A change of which nothing else is known.
    pub fn new(source: DriftSource) -> Self {
        Self { source, noticed: Instant::now(), changes: 0, culprits: Vec::new() }
    }

    /// A process made one more change.
    pub fn blame(&mut self, culprit: Culprit) {
        self.source = DriftSource::Event;
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

/// A process that changed the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Culprit {
    /// Its pid, as the machine's first pid namespace has it.
    pub pid: u32,
    /// Its name, cut to 15 bytes by the kernel.
    pub name: String,
}

impl Display for Culprit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Why the kernel does not have the desired state.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The kernel, or the way to it, said no.
    #[error(transparent)]
    Kernel(KernelError),
    /// No answer in time; the commit may still happen.
    #[error("no answer from nf_tables within {} s: another program has its commit lock", .0.as_secs())]
    TimedOut(Duration),
    /// An earlier request still waits for the kernel, and this one was not even begun.
    #[error("the thread that owns the nf_tables socket is busy with an earlier request")]
    Busy,
    /// The thread that owns the nf_tables socket could not be started or has ended.
    #[error("reach the thread that owns the nf_tables socket")]
    Worker(#[source] io::Error),
}

/// An error of whoever implements a trait of this room, and what it means for those who call it. Shown as that error.
#[derive(Debug)]
pub struct KernelError {
    kind: KernelErrorKind,
    error: Box<dyn Error + Send + Sync>,
}

/// What an error of the kernel's means for the desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelErrorKind {
    /// nf_tables refused a step, and with it the whole transaction.
    Refused,
    /// Another process owns the table.
    OwnedByAnother,
    /// nf_tables was not reached, or gave no readable answer.
    NoAnswer {
        /// The transaction was sent, so it may have happened.
        sent: bool,
    },
    /// Routes and addresses.
    Routes {
        /// Something of what was asked for was done, such as for one address family.
        partial: bool,
    },
}

impl Display for KernelError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.error, f)
    }
}

impl Error for KernelError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl DataplaneError {
    /// An error of the kernel's, of this kind.
    pub fn kernel(kind: KernelErrorKind, error: impl Error + Send + Sync + 'static) -> Self {
        Self::Kernel(KernelError { kind, error: Box::new(error) })
    }

    /// The error of the implementation, if it is one of this type.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Kernel(error) => error.error.downcast_ref(),
            _ => None,
        }
    }

    /// Its label in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Kernel(error) => match error.kind {
                KernelErrorKind::Refused => "refused",
                KernelErrorKind::OwnedByAnother => "owned_by_another",
                KernelErrorKind::NoAnswer { .. } => "no_answer",
                KernelErrorKind::Routes { .. } => "routes",
            },
            Self::TimedOut(_) => "timed_out",
            Self::Busy => "busy",
            Self::Worker(_) => "thread",
        }
    }

    /// All labels.
    pub const LABELS: [&str; 7] =
        ["refused", "owned_by_another", "no_answer", "timed_out", "busy", "routes", "thread"];

    /// Whether something of what was asked for was done, such as for one address family.
    pub fn is_partial(&self) -> bool {
        matches!(self, Self::Kernel(KernelError { kind: KernelErrorKind::Routes { partial: true }, .. }))
    }

    /// Whether a commit that failed with this may have happened, or may happen still.
    pub fn leaves_unknown(&self) -> bool {
        match self {
            Self::Kernel(error) => matches!(error.kind, KernelErrorKind::NoAnswer { sent: true }),
            Self::TimedOut(_) | Self::Worker(_) => true,
            Self::Busy => false,
        }
    }
}
