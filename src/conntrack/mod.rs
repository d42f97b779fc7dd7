//! Acts upon the TCP flows of a backend that is silent or dead, so that clients are told instead of hanging for 15
//! minutes.
//!
//! In: a [`FlowOrder`]. Out: a [`FlowReport`]. For each order, conntrack entries that the backend never answered are
//! deleted, so that the client's next SYN is translated anew. What else is done is the order's [`Purpose`]. To ask, every
//! open flow is nudged with a bare SYN from the virtual IP: the client's answer, a challenge ACK, travels to the
//! backend's kernel, which ignores it if it knows the connection and resets it if not. To end, the sockets of the
//! host itself are destroyed, and every other open flow is nudged: the challenge ACK meets the table's kill rule and is
//! rejected with a reset that the client accepts. Then conntrack is read again, until nothing is open.
//!
//! The other direction needs no order: `ask` has a backend's kernel answer on its clients' own path, and `observe` sees
//! what comes on it.
//!
//! `conntrack`, `sockets`, `routes`, `packet`, `pace`, `progress` and `stale` are pure; `filter` is what packet sockets pass;
//! `netlink`, `sender`, `sniffer` and `observe` own sockets; `lookup` reads what the kernel knows of one connection,
//! `meter` what open ones have carried; `job` is one order, `inbox` what the thread is told, `worker` the thread on which
//! all of it blocks.

mod ask;
pub mod attr;
mod entries;
pub mod fake;
mod filter;
mod inbox;
mod job;
mod kernel;
pub mod lookup;
pub mod meter;
pub mod observe;
mod pace;
mod packet;
mod progress;
mod report;
mod routes;
mod sender;
mod sniffer;
mod sockets;
mod stale;
pub mod trial;
mod worker;

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::model::types::{Backend, Family, Vip};
pub use crate::netlink::netlink::{Malformed, NetlinkError};
pub use ask::{Asked, Asker};
use inbox::{Command, Inbox};
use kernel::Kernel;
pub use report::{FlowReport, Remaining};
pub use stale::Stale;

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

/// What an order does to the flows of its backend, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Connections that are being opened go elsewhere with their client's next SYN. Established ones are left alone.
    Move,
    /// Every open flow is asked whether the backend's kernel still knows it. A live connection stays; one whose host lost its
    /// memory is reset by that host.
    Ask,
    /// Connections that are being opened move, and every open flow is ended.
    End {
        /// The table's kill rule is not in place: answer clients with resets of our own.
        own_reset: bool,
    },
}

impl Purpose {
    /// The purpose as a report has it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Ask => "ask",
            Self::End { .. } => "end",
        }
    }

    /// Whether flows are ended.
    pub fn ends(self) -> bool {
        matches!(self, Self::End { .. })
    }

    /// Whether an order of this purpose changes nothing about one of `other` that is under way.
    pub(crate) fn is_weaker_than(self, other: Self) -> bool {
        let strength = |purpose| match purpose {
            Self::Move => 0,
            Self::Ask => 1,
            Self::End { .. } => 2,
        };
        strength(self) < strength(other)
    }
}

impl Serialize for Purpose {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// A backend, and what is to happen to its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowOrder {
    /// The backend that is silent or dead.
    pub backend: Backend,
    /// The virtual IPs that lead to it.
    pub vips: Vec<Vip>,
    /// What is to be done.
    pub purpose: Purpose,
}

impl FlowOrder {
    /// Those of the virtual IPs that can lead to the backend.
    fn vips_of_its_family(&self) -> Vec<Vip> {
        of_its_family(&self.vips, self.backend).collect()
    }
}

fn of_its_family(vips: &[Vip], backend: Backend) -> impl Iterator<Item = Vip> {
    vips.iter().copied().filter(move |vip| Family::of(vip.ip()) == Family::of(backend.ip()))
}

/// Something that moves, asks and ends flows.
pub trait FlowKiller {
    /// Takes up an order. One for the same backend that is under way goes on as the new one says, and one report tells of
    /// both; but a weaker one changes nothing about a stronger one.
    fn start(&mut self, order: FlowOrder);

    /// Stops ending the flows of a backend that is up again, at once; a report says how far that got. Without an order
    /// to end them nothing happens: to move and to ask harms nobody.
    fn cancel(&mut self, backend: Backend);

    /// The backend was heard again: connections that are being opened to it come about, and none is moved any more.
    fn settle(&mut self, backend: Backend);

    /// Deletes what conntrack remembers of these connections: a client that sends its SYN again, or dials from the same
    /// port, would not be led where others are.
    fn forget(&mut self, stale: Vec<Stale>);

    /// The next report. Cancel safe: none is lost when the future is dropped.
    fn finished(&mut self) -> impl Future<Output = FlowReport>;
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

/// Moves, asks and ends flows in the network namespace of whoever opened it.
pub struct Flows {
    commands: mpsc::Sender<Command>,
    reports: UnboundedReceiver<FlowReport>,
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
            .spawn(move || worker::run(kernel, &options, Inbox::new(inbox), &finished))
            .map_err(FlowError::Worker)?;
        Ok(Self { commands, reports })
    }

    /// Asks backends, on the same thread.
    pub fn asker(&self) -> Asker {
        Asker::new(self.commands.clone())
    }
}

impl FlowKiller for Flows {
    fn start(&mut self, order: FlowOrder) {
        // The thread ends only after this side of the channel.
        let _ = self.commands.send(Command::Start(order));
    }

    fn cancel(&mut self, backend: Backend) {
        let _ = self.commands.send(Command::Cancel(backend));
    }

    fn settle(&mut self, backend: Backend) {
        let _ = self.commands.send(Command::Settle(backend));
    }

    fn forget(&mut self, stale: Vec<Stale>) {
        let _ = self.commands.send(Command::Forget(stale));
    }

    async fn finished(&mut self) -> FlowReport {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

/// Without a killer no flow is ended.
impl<F: FlowKiller> FlowKiller for Option<F> {
    fn start(&mut self, order: FlowOrder) {
        if let Some(killer) = self {
            killer.start(order);
        }
    }

    fn cancel(&mut self, backend: Backend) {
        if let Some(killer) = self {
            killer.cancel(backend);
        }
    }

    fn settle(&mut self, backend: Backend) {
        if let Some(killer) = self {
            killer.settle(backend);
        }
    }

    fn forget(&mut self, stale: Vec<Stale>) {
        if let Some(killer) = self {
            killer.forget(stale);
        }
    }

    async fn finished(&mut self) -> FlowReport {
        match self {
            Some(killer) => killer.finished().await,
            None => std::future::pending().await,
        }
    }
}
