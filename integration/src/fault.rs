//! What can happen to apiservers, and to the node's way to them.
//! In: a control plane and the numbers of the apiservers concerned. Out: an [`Inflicted`] that undoes it.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::control_plane::ControlPlane;
use crate::lab::Lab;
use crate::pki::{Authority, Validity};
use crate::process::Spawned;
use crate::sim::control::Control;

/// What slow means.
const DELAY: Duration = Duration::from_secs(3);

/// How often a flapping apiserver goes and comes, at most, so that it ends by itself.
const FLAPS: u32 = 60;

/// Longer than it takes nft to load a rule.
const LAST_FLAP: Duration = Duration::from_secs(1);

/// Where the rules of a fault are, in the namespace of the apiserver or of the switch.
const TABLE: &str = "fault";

/// The kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Killed,
    /// SIGTERM: unready for a moment, then no new connections, GOAWAY, and the end once no watch is open; a real one ends its watches
    /// after a minute.
    Stopped,
    /// SIGSTOP: the kernel still accepts connections, and nobody answers.
    Paused,
    /// The cable is out.
    Unplugged,
    /// Packets to the apiserver are lost on the way, those from it arrive.
    InboundLost,
    /// Packets from the apiserver are lost on the way, those to it arrive.
    OutboundLost,
    /// `/readyz` is answered with 500 and everything else as before. A real one loses its etcd, and its watches.
    Unready,
    /// The certificate is of an authority that nobody knows. Simulated apiservers only.
    ForeignCertificate,
    /// The certificate has expired, as it seems to a node whose clock is ahead. Simulated apiservers only.
    Expired,
    /// The certificate is not valid yet, as it seems to a node whose clock is behind. Simulated apiservers only.
    NotYetValid,
    /// Every answer comes 3 s late. Simulated apiservers only.
    Slow,
    /// Connections are reset during one second, and served during the next, by all of them in step.
    Flapping,
    /// The node's own cable is out: nothing is wrong with any apiserver.
    UplinkDown,
}

/// A fault that lasts until it is healed.
#[derive(Debug)]
pub struct Inflicted {
    fault: Fault,
    numbers: Vec<u8>,
    flapping: Option<Spawned>,
}

impl Fault {
    /// Every fault that makes an apiserver useless to clients until it is healed.
    pub const OUTAGES: [Self; 5] =
        [Self::Killed, Self::Paused, Self::Unplugged, Self::InboundLost, Self::OutboundLost];

    /// Lets it happen to these apiservers, to all of them at once.
    pub fn inflict(self, plane: &mut ControlPlane<'_>, numbers: &[u8]) -> Result<Inflicted> {
        let flapping =
            self.begin(plane, numbers).with_context(|| format!("{self:?} for apiservers {numbers:?}"))?;
        Ok(Inflicted { fault: self, numbers: numbers.to_vec(), flapping })
    }

    fn begin(self, plane: &mut ControlPlane<'_>, numbers: &[u8]) -> Result<Option<Spawned>> {
        let lab = plane.lab();
        let mut each = numbers.iter().copied();
        match self {
            Self::Killed => plane.kill_all(numbers)?,
            Self::Stopped => each.try_for_each(|i| plane.terminate(i))?,
            Self::Paused => each.try_for_each(|i| plane.pause(i))?,
            Self::Unplugged => lab.unplug_all(numbers)?,
            Self::InboundLost => {
                lab.fabric().nft_load(&each.map(|i| losing(i, "oifname", "dport")).collect::<String>())?;
            }
            Self::OutboundLost => {
                lab.fabric().nft_load(&each.map(|i| losing(i, "iifname", "sport")).collect::<String>())?;
            }
            Self::Unready if plane.is_simulated() => {
                plane.fleet()?.on_each(numbers, |_, control| async move { control.readyz(500).await })?;
            }
            Self::Unready => {
                lab.fabric().nft_load(&each.map(|i| without_etcd(lab, i)).collect::<String>())?;
            }
            Self::ForeignCertificate => {
                let foreign = Authority::new(lab.dir(), "foreign-ca")?;
                plane.show_certificates(numbers, Some(&foreign), Validity::Now)?;
            }
            Self::Expired => plane.show_certificates(numbers, None, Validity::Expired)?,
            Self::NotYetValid => plane.show_certificates(numbers, None, Validity::NotYet)?,
            Self::Slow => {
                plane.fleet()?.on_each(numbers, |_, control| async move { control.delay(DELAY).await })?;
            }
            Self::Flapping => return flap(lab, numbers).map(Some),
            Self::UplinkDown => lab.unplug_node()?,
        }
        Ok(None)
    }

    fn end(self, plane: &mut ControlPlane<'_>, numbers: &[u8]) -> Result<()> {
        let lab = plane.lab();
        let mut each = numbers.iter().copied();
        let delete = |i| format!("delete table bridge {TABLE}{i}\n");
        match self {
            Self::Killed => each.try_for_each(|i| plane.start_again(i)),
            Self::Stopped => each.try_for_each(|i| {
                // A real one lives on for up to a minute.
                if !plane.is_simulated() {
                    plane.stop(i)?;
                }
                plane.start_again(i)
            }),
            Self::Paused => each.try_for_each(|i| plane.resume(i)),
            Self::Unplugged => lab.replug_all(numbers),
            Self::InboundLost | Self::OutboundLost => {
                lab.fabric().nft_load(&each.map(delete).collect::<String>())
            }
            Self::Unready if plane.is_simulated() => {
                plane.fleet()?.on_each(numbers, |_, control| async move { control.readyz(200).await })
            }
            Self::Unready => {
                let delete = |i| format!("delete table inet {TABLE}{i}\n");
                lab.fabric().nft_load(&each.map(delete).collect::<String>())
            }
            Self::ForeignCertificate | Self::Expired | Self::NotYetValid => {
                plane.show_certificates(numbers, None, Validity::Now)
            }
            Self::Slow => {
                let heal = |_, control: Control| async move { control.delay(Duration::ZERO).await };
                plane.fleet()?.on_each(numbers, heal)
            }
            // The last flap may have left its table or not: after an `add` it can be deleted in either case.
            Self::Flapping => each.try_for_each(|i| {
                lab.apiserver(i).nft_load(&format!("add table inet {TABLE}\ndelete table inet {TABLE}\n"))
            }),
            Self::UplinkDown => lab.replug_node(),
        }
    }
}

impl Inflicted {
    /// Undoes it, for all at once; whoever was killed or stopped is started again and ready when this returns.
    pub fn heal(mut self, plane: &mut ControlPlane<'_>) -> Result<()> {
        if let Some(flapping) = &mut self.flapping {
            flapping.kill()?;
            // Its last nft, which ends by itself, is not to add the table after it was deleted.
            thread::sleep(LAST_FLAP);
        }
        let Self { fault, numbers, .. } = self;
        fault.end(plane, &numbers).with_context(|| format!("heal apiservers {numbers:?} from {fault:?}"))
    }
}

/// Packets on their way through the switch, between apiserver `i` and anybody, are dropped in one direction.
fn losing(i: u8, side: &str, port: &str) -> String {
    format!(
        "table bridge {TABLE}{i} {{\nchain forward {{ type filter hook forward priority 0;\n\
         {side} \"api{i}\" tcp {port} 6443 drop\n}}\n}}\n"
    )
}

/// The connections of apiserver `i` to etcd, which runs in the switch, are reset, and new ones refused.
fn without_etcd(lab: &Lab, i: u8) -> String {
    let reject = |address: IpAddr| {
        let family = if address.is_ipv6() { "ip6" } else { "ip" };
        format!("{family} saddr {address} tcp dport 2379 reject with tcp reset\n")
    };
    let rules: String = lab.apiserver_addresses(i).into_iter().map(reject).collect();
    format!("table inet {TABLE}{i} {{\nchain input {{ type filter hook input priority -300;\n{rules}}}\n}}\n")
}

/// Connections to an apiserver are refused, and those that exist reset.
fn refusing() -> String {
    format!(
        "table inet {TABLE} {{\nchain input {{ type filter hook input priority -300;\n\
         tcp dport 6443 reject with tcp reset\n}}\n}}\n"
    )
}

fn flap(lab: &Lab, numbers: &[u8]) -> Result<Spawned> {
    let rules = lab.dir().join("flapping.nft");
    std::fs::write(&rules, refusing()).context("write the rules of flapping apiservers")?;
    let rules = rules.display();
    let on_each = |what: &str| -> String {
        let on = |i: &u8| format!("ip netns exec {} nft {what} & ", lab.apiserver(*i).name());
        numbers.iter().map(on).collect::<String>() + "wait; sleep 1; "
    };
    let (refuse, serve) = (on_each(&format!("-f '{rules}'")), on_each(&format!("delete table inet {TABLE}")));
    let mut shell = std::process::Command::new("sh");
    shell.arg("-c").arg(format!("i=0; while [ $i -lt {FLAPS} ]; do {refuse}{serve}i=$((i+1)); done"));
    Spawned::start("flapping", shell, lab.dir())
}
