//! The thread that works on orders: all of them take turns, step by step.
//!
//! In: commands. Out: reports. It sleeps while there is no order, and ends when nobody can give one.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::FlowOptions;
use super::inbox::{Command, Inbox};
use super::job::Job;
use super::kernel::Kernel;
use super::pace::Bucket;
use super::report::FlowReport;
use super::stale::Again;

/// Runs until `inbox` is closed.
pub(super) fn run(
    mut kernel: Kernel,
    options: &FlowOptions,
    mut inbox: Inbox,
    reports: &UnboundedSender<FlowReport>,
) {
    let mut jobs: Vec<Job> = Vec::new();
    let mut again = Again::default();
    let mut bucket = Bucket::new(options.rate, Instant::now());
    loop {
        let now = Instant::now();
        while let Some(stale) = again.take(now) {
            stale.iter().for_each(|stale| kernel.forget(stale));
        }
        match inbox.next(jobs.iter().map(|job| job.due(now)).chain(again.due()).min()) {
            Ok(Command::Start(order)) => {
                let now = Instant::now();
                match jobs.iter_mut().find(|job| job.backend() == order.backend) {
                    Some(job) => job.again(order, options, now),
                    None => jobs.push(Job::new(order, options, now)),
                }
            }
            Ok(Command::Cancel(backend)) => {
                if let Some(at) = jobs.iter().position(|job| job.backend() == backend && job.ends()) {
                    report(reports, jobs.swap_remove(at).cancel());
                }
            }
            Ok(Command::Settle(backend)) => {
                if let Some(at) = jobs.iter().position(|job| job.backend() == backend && job.only_moves()) {
                    report(reports, jobs.swap_remove(at).cancel());
                }
            }
            Ok(Command::Forget(stale)) => {
                stale.iter().for_each(|stale| kernel.forget(stale));
                again.looked(stale, Instant::now());
            }
            Ok(Command::Ask(backend, vips, answer)) => {
                // Who asked may not wait any more.
                let _ = answer.send(kernel.ask_backend(backend, &vips));
            }
            Err(RecvTimeoutError::Timeout) => {
                jobs.retain_mut(|job| match job.step(&mut kernel, &mut bucket, &mut inbox) {
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
