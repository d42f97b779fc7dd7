//! Every proxy in turn, measured in the same way, round after round, so that what else the machine does meets all alike.
//! In: a plan. Out: the median of each figure and its ratio to a direct connection of the same round.

use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::command;
use integration::lab::{Lab, LabOptions};
use integration::sources;
use integration::streams::{Case, Idle, Servers};

use crate::arms::{Arm, Proxy};
use crate::drive::{Answer, Work};
use crate::process;

/// Connections whose memory is measured.
const IDLE: usize = 1_000;
/// Until memory that is given back has been given back.
const SETTLE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(300);
const ZERO_WINDOW: Duration = Duration::from_secs(3);

/// What is measured.
pub struct Plan {
    pub proxies: Vec<Proxy>,
    pub rounds: usize,
    pub rate: Duration,
    pub bytes: u64,
}

/// The figures, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    Up,
    Down,
    CpuUp,
    CpuDown,
    Connections,
    CpuConnection,
    Requests,
    CpuRequest,
    Latency,
    Memory,
}

impl Figure {
    pub const ALL: [Self; 10] = [
        Self::Up,
        Self::Down,
        Self::CpuUp,
        Self::CpuDown,
        Self::Connections,
        Self::CpuConnection,
        Self::Requests,
        Self::CpuRequest,
        Self::Latency,
        Self::Memory,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Up => "throughput up, GB/s",
            Self::Down => "throughput down, GB/s",
            Self::CpuUp => "CPU seconds per GB up",
            Self::CpuDown => "CPU seconds per GB down",
            Self::Connections => "new connections/s",
            Self::CpuConnection => "CPU microseconds per connection",
            Self::CpuRequest => "CPU microseconds per request",
            Self::Requests => "1 KiB requests/s on 32 connections",
            Self::Latency => "p99 of a 1 KiB request, us",
            Self::Memory => "memory for 1,000 idle connections, MB",
        }
    }

    /// Which direction is the better one.
    pub fn higher_is_better(self) -> bool {
        matches!(self, Self::Up | Self::Down | Self::Connections | Self::Requests)
    }
}

/// One column of the table.
pub struct Column {
    pub title: &'static str,
    figures: Vec<(Figure, Vec<f64>)>,
}

impl Column {
    fn note(&mut self, figure: Figure, value: f64) {
        match self.figures.iter_mut().find(|(known, _)| *known == figure) {
            Some((_, values)) => values.push(value),
            None => self.figures.push((figure, vec![value])),
        }
    }

    fn values(&self, figure: Figure) -> &[f64] {
        self.figures.iter().find(|(known, _)| *known == figure).map_or(&[], |(_, values)| values)
    }

    /// The median of its rounds. Memory that is kept after the first round does not grow again: there the most counts.
    pub fn median(&self, figure: Figure) -> Option<f64> {
        let values = self.values(figure);
        match figure {
            Figure::Memory => values.iter().copied().max_by(f64::total_cmp),
            _ => median(values.to_vec()),
        }
    }

    /// The median of the ratios to another column, round by round.
    pub fn ratio(&self, to: &Self, figure: Figure) -> Option<f64> {
        median(self.values(figure).iter().zip(to.values(figure)).map(|(own, other)| own / other).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// Measures everything. The first column is the direct connection.
pub fn all(plan: &Plan, packages: &Path) -> Result<Vec<Column>> {
    let lab = lab()?;
    let servers = Servers::start(&lab)?;
    let sources = sources::add(&lab, 10)?;
    let mut arms = vec![Arm::direct(&lab)];
    for proxy in &plan.proxies {
        arms.push(Arm::start(*proxy, &lab, &servers, packages)?);
    }
    let column = |arm: &Arm<'_>| Column { title: arm.title, figures: Vec::new() };
    let mut columns: Vec<Column> = arms.iter().map(column).collect();
    for round in 1..=plan.rounds {
        for (arm, column) in arms.iter().zip(&mut columns) {
            one(plan, &lab, arm, &sources, column).with_context(|| format!("measure {}", arm.title))?;
        }
        println!("round {round} of {} done", plan.rounds);
    }
    Ok(columns)
}

fn one(plan: &Plan, lab: &Lab, arm: &Arm<'_>, sources: &[IpAddr], column: &mut Column) -> Result<()> {
    let time = plan.rate.as_millis() as u64;
    for (work, rate, cost) in [
        (Work::Up, Figure::Up, Figure::CpuUp),
        (Work::Down, Figure::Down, Figure::CpuDown),
        (Work::Connect, Figure::Connections, Figure::CpuConnection),
        (Work::Request, Figure::Requests, Figure::CpuRequest),
    ] {
        // Of bytes, gigabytes and seconds count; of what is small, pieces and microseconds.
        let (sources, amount, unit, scale) = match work {
            Work::Up | Work::Down => (&[][..], plan.bytes, 1e9, 1.0),
            Work::Connect | Work::Request => (sources, time, 1.0, 1e6),
        };
        let before = arm.pid().map(process::seconds).transpose()?;
        let answer = drive(lab, arm, sources, work, amount)?;
        column.note(rate, answer.rate / unit);
        if let (Some(pid), Some(before)) = (arm.pid(), before) {
            column.note(cost, (process::seconds(pid)? - before) * scale / (answer.done / unit));
        }
        if work == Work::Request {
            column.note(Figure::Latency, answer.p99_us);
        }
    }
    if let Some(pid) = arm.pid() {
        thread::sleep(SETTLE);
        let before = process::resident(pid)?;
        let idle = Idle::start(lab.pod(1), lab, &[arm.target], sources, IDLE, false)?;
        thread::sleep(SETTLE);
        column.note(Figure::Memory, (process::resident(pid)? - before) / 1000.0);
        idle.finish_clean()?;
    }
    Ok(())
}

fn drive(lab: &Lab, arm: &Arm<'_>, sources: &[IpAddr], work: Work, amount: u64) -> Result<Answer> {
    let mut client = lab.pod(1).command(std::env::current_exe().context("find the running program")?);
    let word = format!("{work:?}").to_lowercase();
    client.args(["drive", "--target", &arm.target.to_string(), "--work", &word]);
    client.args(["--amount", &amount.to_string()]);
    for source in sources {
        client.args(["--source", &source.to_string()]);
    }
    let finished = command::finish(client, "", LIMIT)?;
    anyhow::ensure!(finished.status.success(), "{work:?}: {}", finished.stderr);
    serde_json::from_str(&finished.stdout).context("parse an answer")
}

/// Ports come back soon, for proxies that close in order.
fn lab() -> Result<Lab> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    lab.node().sysctls(&[("net.ipv4.tcp_tw_reuse", "1"), ("net.ipv4.ip_local_port_range", "1024 65535")])?;
    Ok(lab)
}

/// Judges the streams themselves: a proxy that carries them all may be measured by them.
pub fn streams(packages: &Path) -> Result<()> {
    let lab = lab()?;
    let servers = Servers::start(&lab)?;
    for proxy in [Proxy::Haproxy, Proxy::Nginx] {
        let arm = Arm::start(proxy, &lab, &servers, packages)?;
        let (transfers, zero_window) = (Case::transfers(1 << 30), Case::zero_window(ZERO_WINDOW));
        for case in transfers.iter().chain(&Case::slow()).chain(&zero_window).chain(&Case::endings()) {
            match servers.run(lab.pod(1), arm.target, case).map_err(first_line) {
                Ok(()) => println!("{}: {}: carried", arm.title, case.title),
                Err(line) => println!("{}: {line}", arm.title),
            }
        }
    }
    Ok(())
}

/// The rest shows where in the client it was.
fn first_line(error: anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
