//! Desired state -> the kernel. What the reconciler needs of a dataplane, and the dataplanes themselves.

pub mod drift;
pub mod dry_run;
pub mod fake;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::routes::local_vip::Claim;
use drift::Drift;
use futures_util::future::LocalBoxFuture;

use crate::model::desired::{DesiredState, NodeView};
use crate::model::types::Backend;

/// Something that leads virtual IPs to backends.
pub trait Dataplane {
    /// Programs `state` in place of `before`, whole or not at all: after an error, what stood before still stands.
    fn apply(
        &mut self,
        state: &DesiredState,
        before: Option<&DesiredState>,
    ) -> impl Future<Output = Result<Applied, DataplaneError>>;

    /// Whether rules of ours stand, or may stand, whoever made them.
    fn stands(&mut self) -> impl Future<Output = bool>;

    /// Goes on having the flows of these backends ended, of those that what was applied last takes for dead, and of no
    /// others. It ends by itself a minute after it was last asked for, by this or by [`Dataplane::apply`].
    fn refresh(&mut self, dead: &BTreeSet<Backend>) -> impl Future<Output = Result<(), DataplaneError>>;

    /// Connections to each backend of `state`, as the kernel counts them now.
    fn connections(
        &mut self,
        state: &DesiredState,
    ) -> impl Future<Output = Result<BTreeMap<Backend, u64>, DataplaneError>>;

    /// Resolves while what was applied last no longer stands as it was, by whom ever. Losing this future loses nothing.
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

    /// Makes the virtual IPs of `state` local to this node, for [`Claim::All`] of their packets or those to their ports.
    /// They stay so until [`Host::release`], or until the process ends.
    fn claim(
        &mut self,
        state: &DesiredState,
        claim: Claim,
    ) -> impl Future<Output = Result<(), DataplaneError>>;

    /// Ends every [`Host::claim`], also what an earlier process left of one. `false`: there was none.
    fn release(&mut self) -> impl Future<Output = Result<bool, DataplaneError>>;

    /// How many routes and routing rules of ours others removed, and were made again, since this was asked last.
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

/// Why the kernel does not have the desired state.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// nf_tables.
    #[error(transparent)]
    Nft(#[from] crate::nftables::socket::NftError),
    /// Routes and addresses.
    #[error(transparent)]
    Host(#[from] crate::routes::HostError),
    /// No answer in time; the commit may still happen.
    #[error("no answer from nf_tables within {} s: another program holds its commit lock", .0.as_secs())]
    TimedOut(Duration),
    /// An earlier request still waits for the kernel, and this one was not even begun.
    #[error("the thread that owns the nf_tables socket is busy with an earlier request")]
    Busy,
    /// The thread that owns the nf_tables socket could not be started or has ended.
    #[error("reach the thread that owns the nf_tables socket")]
    Worker(#[source] io::Error),
}

impl DataplaneError {
    /// Its label in metrics.
    pub fn label(&self) -> &'static str {
        use crate::nftables::socket::NftError;
        match self {
            Self::Nft(NftError::Refused { .. }) => "refused",
            Self::Nft(NftError::OwnedByAnother(_)) => "owned_by_another",
            Self::Nft(_) => "no_answer",
            Self::TimedOut(_) => "timed_out",
            Self::Busy => "busy",
            Self::Host(_) => "routes",
            Self::Worker(_) => "thread",
        }
    }

    /// Whether something of what was asked for was done, such as for one address family.
    pub fn is_partial(&self) -> bool {
        matches!(self, Self::Host(error) if error.partial)
    }

    /// All labels.
    pub const LABELS: [&str; 7] =
        ["refused", "owned_by_another", "no_answer", "timed_out", "busy", "routes", "thread"];

    /// Whether a commit that failed with this may have happened, or may happen still.
    pub fn leaves_unknown(&self) -> bool {
        use crate::nftables::socket::NftError;
        match self {
            Self::Nft(error) => matches!(error, NftError::Receive(_) | NftError::Malformed(_)),
            Self::TimedOut(_) | Self::Worker(_) => true,
            Self::Busy | Self::Host(_) => false,
        }
    }
}
