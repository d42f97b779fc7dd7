//! One thing that happens to the node, its daemon or its control plane.

use std::fmt::{self, Display, Formatter};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use integration::fault::Fault;
use integration::process::Signal;
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::api::Trouble;
use crate::stage::{APISERVERS, Next, Stage};

/// What can happen to API servers and cables.
const FAULTS: [Fault; 11] = [
    Fault::Killed,
    Fault::Stopped,
    Fault::Paused,
    Fault::Unplugged,
    Fault::InboundLost,
    Fault::OutboundLost,
    Fault::Unready,
    Fault::Slow,
    Fault::Flapping,
    Fault::Expired,
    Fault::UplinkDown,
];

/// What other programs do to the rules. Where the table has an owner, the kernel refuses some of it.
const CHANGES: [&str; 5] = [
    "flush ruleset",
    "delete table inet apivip",
    "flush table inet apivip",
    "insert rule inet apivip nat-output ip daddr 192.0.2.99 drop",
    "reset counters table inet apivip",
];

/// New connections a second from each client while it happens.
const RATE: u32 = 30;
/// Changes of the endpoints in one storm.
const STORM: u32 = 300;

/// Something that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A fault of these API servers, for so long.
    Fault { fault: Fault, numbers: Vec<u8>, time: Duration },
    /// Another program changes the rules.
    Neighbour(&'static str),
    /// The CA, or the credentials of the daemon, are renewed.
    Rotation { ca: bool, half: bool },
    /// SIGKILL, and a pause before the next daemon, in which another program may change the rules.
    Kill { pause: Duration, change: Option<&'static str>, next: Next },
    /// SIGTERM, and the next daemon.
    Restart { next: Next },
    /// The endpoints change many times.
    Storm,
    /// The API fails for its readers.
    Api(Trouble),
    /// Two of them, the second while the first lasts.
    Both(Box<Self>, Box<Self>),
}

impl Step {
    /// Chooses one.
    pub fn choose(chance: &mut impl RngExt) -> Self {
        if chance.random_ratio(1, 4) {
            let fault = Self::fault(chance);
            return Self::Both(Box::new(fault), Box::new(Self::other(chance)));
        }
        if chance.random_ratio(1, 2) { Self::fault(chance) } else { Self::other(chance) }
    }

    fn fault(chance: &mut impl RngExt) -> Self {
        let fault = *FAULTS.choose(chance).unwrap_or(&Fault::Killed);
        let mut numbers = APISERVERS.to_vec();
        numbers.shuffle(chance);
        // Mostly one or two; now and then all of them.
        numbers.truncate([1, 1, 2, 2, 3][chance.random_range(0..5)]);
        Self::Fault { fault, numbers, time: Duration::from_millis(chance.random_range(200..4000)) }
    }

    fn other(chance: &mut impl RngExt) -> Self {
        match chance.random_range(0..11) {
            0 | 1 => Self::Neighbour(CHANGES.choose(chance).unwrap_or(&CHANGES[0])),
            2 | 3 => Self::Rotation { ca: chance.random(), half: chance.random() },
            4 => Self::Kill {
                pause: Duration::from_millis(chance.random_range(0..1500)),
                change: CHANGES.choose(chance).copied().filter(|_| chance.random()),
                next: Next::choose(chance),
            },
            5 => Self::Restart { next: Next::choose(chance) },
            6 => Self::Storm,
            _ => Self::Api(Trouble::choose(chance)),
        }
    }

    /// Does it while clients connect. What fails meanwhile is printed, and is no failure of the run: a fault may cost
    /// connections, the time after it may not.
    pub fn perform(&self, stage: &mut Stage<'_>, chance: &mut impl RngExt) -> Result<()> {
        let clients = stage.clients().into_iter().map(|(name, from)| stage.load(name, from, RATE));
        let clients = clients.collect::<Result<Vec<_>>>()?;
        self.happen(stage, chance)?;
        for (client, (name, _)) in clients.into_iter().zip(stage.clients()) {
            let report = client.finish()?;
            if !report.clean() {
                let report = report.to_string();
                println!("  from {name} meanwhile: {}", report.lines().next().unwrap_or_default());
            }
        }
        Ok(())
    }

    fn happen(&self, stage: &mut Stage<'_>, chance: &mut impl RngExt) -> Result<()> {
        match self {
            Self::Fault { fault, numbers, time } => {
                let inflicted = fault.inflict(&mut stage.plane, numbers)?;
                thread::sleep(*time);
                inflicted.heal(&mut stage.plane)
            }
            Self::Both(fault, other) => {
                let Self::Fault { fault, numbers, time } = &**fault else {
                    return other.happen(stage, chance);
                };
                let inflicted = fault.inflict(&mut stage.plane, numbers)?;
                thread::sleep(time.mul_f64(chance.random()));
                other.happen(stage, chance)?;
                inflicted.heal(&mut stage.plane)
            }
            Self::Neighbour(script) => {
                change_rules(stage, script);
                Ok(())
            }
            Self::Rotation { ca: true, half } => stage.renew_ca(*half),
            Self::Rotation { ca: false, half } => stage.renew_credentials(*half),
            Self::Kill { pause, change, next } => {
                stage.daemon.kill()?;
                if let Some(script) = change {
                    change_rules(stage, script);
                }
                thread::sleep(*pause);
                stage.respawn(*next)
            }
            Self::Restart { next } => {
                stage.daemon.process().signal(Signal::TERM)?;
                stage.daemon.process().wait(Duration::from_secs(60)).context("the end of a daemon")?;
                stage.respawn(*next)
            }
            Self::Api(trouble) => trouble.happen(&mut stage.plane, chance),
            Self::Storm => {
                for _ in 0..STORM {
                    // Simulated API servers that do not run now get it when they are back.
                    let many = chance.random_range(1..=APISERVERS.len());
                    let _ = stage.plane.publish_apiservers(&APISERVERS[..many]);
                }
                Ok(())
            }
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault { fault, numbers, time } => write!(f, "{fault:?} of {numbers:?} for {time:?}"),
            Self::Neighbour(script) => write!(f, "nft {script}"),
            Self::Rotation { ca, half } => {
                let (file, way) =
                    (if *ca { "CA" } else { "credentials" }, if *half { "in halves" } else { "by a link" });
                write!(f, "{file} renewed, {way}")
            }
            Self::Kill { pause, change, next } => {
                write!(f, "daemon killed, {pause:?} without one")?;
                change.map_or(Ok(()), |script| write!(f, " and then nft {script}"))?;
                write!(f, ", {next}")
            }
            Self::Restart { next } => write!(f, "daemon restarted, {next}"),
            Self::Storm => write!(f, "{STORM} changes of the endpoints"),
            Self::Api(trouble) => trouble.fmt(f),
            Self::Both(fault, other) => write!(f, "{fault}, and meanwhile {other}"),
        }
    }
}

/// Another program's transaction, which the kernel may refuse.
fn change_rules(stage: &Stage<'_>, script: &str) {
    if let Err(refused) = stage.lab.node().nft_load(script) {
        let line = format!("{refused:#}");
        println!("  refused: {}", line.lines().next().unwrap_or_default());
    }
}
