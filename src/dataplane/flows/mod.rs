//! Ends the TCP flows of a dead backend, so that clients are told instead of hanging for 15 minutes.
//!
//! In: a [`KillOrder`]. Out: a [`KillReport`]. For each order: conntrack entries that the backend never answered are
//! deleted, so that the client's next SYN is translated anew; sockets of the host itself are destroyed; every other
//! open flow is nudged with a bare SYN from the virtual IP, whose answer, a challenge ACK, meets the table's kill
//! rule and is rejected with a reset that the client accepts. Then conntrack is read again, until nothing is open.
//!
//! `conntrack`, `sockets`, `routes`, `packet`, `pace` and `progress` are pure; `netlink`, `sender` and `sniffer` own
//! sockets; `lookup` reads what the kernel knows of one connection, `meter`
//! what open ones have carried; `job` is one order, `worker` the thread on which all of it blocks.

pub(super) mod attr;
mod conntrack;
pub mod fake;
mod job;
mod kernel;
pub mod lookup;
pub mod meter;
pub(super) mod netlink;
mod pace;
mod packet;
mod progress;
mod report;
mod routes;
mod sender;
mod sniffer;
mod sockets;
pub(super) mod trial;
mod worker;

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::model::types::{Backend, Family, Vip};
use kernel::Kernel;
pub use netlink::{Malformed, NetlinkError};
pub use report::{KillReport, Remaining};
use worker::Command;

/// What limits the ending of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowOptions {
    /// Flows nudged per second over all orders. A second's worth may go at once; the rest is spread, so that not all
    /// clients of a node dial at the same moment.
    pub rate: u32,
    /// How long to go on for one order.
    pub bound: Duration,
}

impl Default for FlowOptions {
    /// 5,000 is more than the pods of one node hold as a rule, so that they are told at once, and 10,000 clients dial
    /// again over 1 s. 15 s are some 27 rounds: who did not answer by then will not.
    fn default() -> Self {
        Self { rate: 5000, bound: Duration::from_secs(15) }
    }
}

/// A backend whose flows shall end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillOrder {
    /// The dead backend.
    pub backend: Backend,
    /// The virtual IPs that lead to it.
    pub vips: Vec<Vip>,
    /// The table's kill rule is not in place: answer clients with resets of our own.
    pub own_reset: bool,
}

impl KillOrder {
    /// Those of the virtual IPs that can lead to the backend.
    fn vips_of_its_family(&self) -> Vec<Vip> {
        let family = Family::of(self.backend.ip());
        self.vips.iter().copied().filter(|vip| Family::of(vip.ip()) == family).collect()
    }
}

/// Something that ends flows.
pub trait FlowKiller {
    /// Takes up an order. One for the same backend that is under way goes on as the new one says, and one report tells of
    /// both.
    fn start(&mut self, order: KillOrder);

    /// Stops ending the flows of a backend that is up again; a report says how far that got. Without such an order
    /// nothing happens.
    fn cancel(&mut self, backend: Backend);

    /// Deletes what conntrack remembers of connections to these virtual IPs that no rule translated and that have ended, or were
    /// never answered: a client that dials again, or from the same port, would not be translated either.
    fn forget(&mut self, vips: BTreeSet<Vip>);

    /// The next report. Cancel safe: none is lost when the future is dropped.
    fn finished(&mut self) -> impl Future<Output = KillReport>;
}

/// Why no flows can be ended.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// Conntrack cannot be asked.
    #[error(transparent)]
    Conntrack(#[from] NetlinkError),
    /// No thread.
    #[error("start the thread that ends flows")]
    Worker(#[source] io::Error),
}

/// Ends flows in the network namespace of whoever opened it.
pub struct Flows {
    commands: mpsc::Sender<Command>,
    reports: UnboundedReceiver<KillReport>,
}

impl Flows {
    /// Opens the sockets and starts the thread. Needs CAP_NET_ADMIN for anything to succeed later; without
    /// CAP_NET_RAW clients are told only when they send something, and reports say so.
    pub fn open(options: FlowOptions) -> Result<Self, FlowError> {
        let kernel = Kernel::open()?;
        let (commands, inbox) = mpsc::channel();
        let (finished, reports) = unbounded_channel();
        thread::Builder::new()
            .name("flows".to_owned())
            .stack_size(256 << 10)
            .spawn(move || worker::run(kernel, &options, &inbox, &finished))
            .map_err(FlowError::Worker)?;
        Ok(Self { commands, reports })
    }
}

impl FlowKiller for Flows {
    fn start(&mut self, order: KillOrder) {
        // The thread ends only after this side of the channel.
        let _ = self.commands.send(Command::Start(order));
    }

    fn cancel(&mut self, backend: Backend) {
        let _ = self.commands.send(Command::Cancel(backend));
    }

    fn forget(&mut self, vips: BTreeSet<Vip>) {
        let _ = self.commands.send(Command::Forget(vips));
    }

    async fn finished(&mut self) -> KillReport {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

/// Without a killer no flow is ended.
impl<F: FlowKiller> FlowKiller for Option<F> {
    fn start(&mut self, order: KillOrder) {
        if let Some(killer) = self {
            killer.start(order);
        }
    }

    fn cancel(&mut self, backend: Backend) {
        if let Some(killer) = self {
            killer.cancel(backend);
        }
    }

    fn forget(&mut self, vips: BTreeSet<Vip>) {
        if let Some(killer) = self {
            killer.forget(vips);
        }
    }

    async fn finished(&mut self) -> KillReport {
        match self {
            Some(killer) => killer.finished().await,
            None => std::future::pending().await,
        }
    }
}
