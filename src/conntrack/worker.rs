//! The thread that works on orders, and the handles to it: all orders take turns, step by step.
//!
//! In: commands. Out: reports. It sleeps while there is no order, and ends when nobody can give one.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::challenge::ChallengeOutcome;
use super::kernel::KernelSockets;
use super::progress::TokenBucket;
use super::queue::{Command, CommandQueue, FlowOptions, RecheckQueue};
use super::terminate::FlowJob;
use crate::dataplane::flows::{FlowKiller, FlowOrder, FlowReport, StaleFlows};
use crate::model::types::{Backend, Vip};
use crate::netlink::NetlinkError;

/// Why no flows can be ended.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// Conntrack cannot be read.
    #[error(transparent)]
    Conntrack(#[from] NetlinkError),
    /// No thread.
    #[error("start the thread that ends flows")]
    Worker(#[source] io::Error),
}

/// Moves, challenges and ends flows in the network namespace of whoever opened it.
pub struct Flows {
    commands: mpsc::Sender<Command>,
    reports: UnboundedReceiver<FlowReport>,
}

impl Flows {
    /// Opens the sockets and starts the thread. Needs CAP_NET_ADMIN for anything to succeed later; without
    /// CAP_NET_RAW clients are reset only when they send something, and reports say so.
    pub fn open(options: FlowOptions) -> Result<Self, FlowError> {
        let kernel = KernelSockets::open()?;
        let (commands, queue) = mpsc::channel();
        let (finished, reports) = unbounded_channel();
        thread::Builder::new()
            .name("flows".to_owned())
            .stack_size(256 << 10)
            .spawn(move || run(kernel, &options, CommandQueue::new(queue), &finished))
            .map_err(FlowError::Worker)?;
        Ok(Self { commands, reports })
    }

    /// Challenges backends, on the same thread.
    pub fn path_challenger(&self) -> PathChallenger {
        PathChallenger::new(self.commands.clone())
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

    fn stop_rerouting(&mut self, backend: Backend) {
        let _ = self.commands.send(Command::StopRerouting(backend));
    }

    fn delete_stale(&mut self, stale: Vec<StaleFlows>) {
        let _ = self.commands.send(Command::DeleteStale(stale));
    }

    async fn finished(&mut self) -> FlowReport {
        match self.reports.recv().await {
            Some(report) => report,
            None => std::future::pending().await,
        }
    }
}

/// Challenges backends on the thread that works on orders.
#[derive(Clone, Debug)]
pub struct PathChallenger(mpsc::Sender<Command>);

impl PathChallenger {
    fn new(commands: mpsc::Sender<Command>) -> Self {
        Self(commands)
    }

    /// Challenges `backend` on up to five open flows, chosen at random, that lead to it: those of clients of these virtual IPs,
    /// or, where there are none, this host's own connections to it. Returns once the SYNs are sent.
    pub async fn challenge(&self, backend: Backend, vips: Vec<Vip>) -> ChallengeOutcome {
        let (answer, asked) = oneshot::channel();
        match self.0.send(Command::Challenge(backend, vips, answer)) {
            Ok(()) => asked.await.unwrap_or(ChallengeOutcome::Impossible),
            Err(_) => ChallengeOutcome::Impossible,
        }
    }
}

/// Runs until `queue` is closed.
fn run(
    mut kernel: KernelSockets,
    options: &FlowOptions,
    mut queue: CommandQueue,
    reports: &UnboundedSender<FlowReport>,
) {
    let mut jobs: Vec<FlowJob> = Vec::new();
    let mut rechecks = RecheckQueue::default();
    let mut bucket = TokenBucket::new(options.rate, Instant::now());
    loop {
        let now = Instant::now();
        while let Some(stale) = rechecks.take(now) {
            stale.iter().for_each(|stale| kernel.delete_stale(stale));
        }
        match queue.next(jobs.iter().map(|job| job.due(now)).chain(rechecks.due()).min()) {
            Ok(Command::Start(order)) => {
                let now = Instant::now();
                match jobs.iter_mut().find(|job| job.backend() == order.backend) {
                    Some(job) => job.update(order, options, now),
                    None => jobs.push(FlowJob::new(order, options, now)),
                }
            }
            Ok(Command::Cancel(backend)) => {
                if let Some(at) = jobs.iter().position(|job| job.backend() == backend && job.ends()) {
                    report(reports, jobs.swap_remove(at).cancel());
                }
            }
            Ok(Command::StopRerouting(backend)) => {
                if let Some(at) = jobs.iter().position(|job| job.backend() == backend && job.only_moves()) {
                    report(reports, jobs.swap_remove(at).cancel());
                }
            }
            Ok(Command::DeleteStale(stale)) => {
                stale.iter().for_each(|stale| kernel.delete_stale(stale));
                rechecks.schedule(stale, Instant::now());
            }
            Ok(Command::Challenge(backend, vips, answer)) => {
                // The caller may have given up.
                let _ = answer.send(kernel.challenge_backend(backend, &vips));
            }
            Err(RecvTimeoutError::Timeout) => {
                jobs.retain_mut(|job| match job.step(&mut kernel, &mut bucket, &mut queue) {
                    Some(finished) => {
                        report(reports, finished);
                        false
                    }
                    None => true,
                });
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Nobody waits any more when the daemon ends.
fn report(reports: &UnboundedSender<FlowReport>, finished: FlowReport) {
    drop(reports.send(finished));
}
