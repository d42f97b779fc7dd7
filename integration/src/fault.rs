//! What can happen to apiservers, and to the node's way to them.
//! In: a control plane and the numbers of the apiservers concerned. Out: an [`Inflicted`] that undoes it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::control_plane::ControlPlane;
use crate::netns::Namespace;
use crate::pki::{Authority, Validity};
use crate::process::Spawned;

/// What slow means.
const DELAY: Duration = Duration::from_secs(3);

/// How often a flapping apiserver goes and comes, at most, so that it ends by itself.
const FLAPS: u32 = 60;

/// Where the rules of a fault are, in the namespace of the apiserver or of the switch.
const TABLE: &str = "fault";

/// The kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Killed,
    /// SIGTERM: unready for half a second, then no new connections, GOAWAY, the end.
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
    /// Connections are reset during one second, and served during the next.
    Flapping,
    /// The node's own cable is out: nothing is wrong with any apiserver.
    UplinkDown,
}

/// A fault that lasts until it is healed.
#[derive(Debug)]
pub struct Inflicted {
    fault: Fault,
    numbers: Vec<u8>,
    flapping: Vec<Spawned>,
}

impl Fault {
    /// Every fault that makes an apiserver useless to clients until it is healed.
    pub const OUTAGES: [Self; 5] =
        [Self::Killed, Self::Paused, Self::Unplugged, Self::InboundLost, Self::OutboundLost];

    /// Lets it happen to these apiservers.
    pub fn inflict(self, plane: &mut ControlPlane<'_>, numbers: &[u8]) -> Result<Inflicted> {
        let mut flapping = Vec::new();
        if self == Self::UplinkDown {
            plane.lab().unplug_node()?;
        } else {
            for i in numbers.iter().copied() {
                flapping.extend(self.begin(plane, i).with_context(|| format!("{self:?} for apiserver {i}"))?);
            }
        }
        Ok(Inflicted { fault: self, numbers: numbers.to_vec(), flapping })
    }

    fn begin(self, plane: &mut ControlPlane<'_>, i: u8) -> Result<Option<Spawned>> {
        let lab = plane.lab();
        match self {
            Self::Killed => plane.kill(i)?,
            Self::Stopped => plane.stop(i)?,
            Self::Paused => plane.pause(i)?,
            Self::Unplugged => lab.unplug(i)?,
            Self::InboundLost => lose(lab.fabric(), i, "oifname", "dport")?,
            Self::OutboundLost => lose(lab.fabric(), i, "iifname", "sport")?,
            Self::Unready if plane.is_simulated() => {
                plane.fleet()?.on(i, |control| async move { control.readyz(500).await })?;
            }
            Self::Unready => lab.apiserver(i).nft_load(&refusing("output", 2379))?,
            Self::ForeignCertificate => {
                let foreign = Authority::new(lab.dir(), "foreign-ca")?;
                plane.show_certificate(i, Some(&foreign), Validity::Now)?;
            }
            Self::Expired => plane.show_certificate(i, None, Validity::Expired)?,
            Self::NotYetValid => plane.show_certificate(i, None, Validity::NotYet)?,
            Self::Slow => plane.fleet()?.on(i, |control| async move { control.delay(DELAY).await })?,
            Self::Flapping => return flap(lab.apiserver(i), lab.dir(), i).map(Some),
            Self::UplinkDown => {}
        }
        Ok(None)
    }

    fn end(self, plane: &mut ControlPlane<'_>, i: u8) -> Result<()> {
        let lab = plane.lab();
        match self {
            Self::Killed | Self::Stopped => plane.start_again(i),
            Self::Paused => plane.resume(i),
            Self::Unplugged => lab.replug(i),
            Self::InboundLost | Self::OutboundLost => {
                lab.fabric().nft_load(&format!("delete table bridge {TABLE}{i}\n"))
            }
            Self::Unready if plane.is_simulated() => {
                plane.fleet()?.on(i, |control| async move { control.readyz(200).await })
            }
            Self::Unready => lab.apiserver(i).nft_load(&format!("delete table inet {TABLE}\n")),
            Self::ForeignCertificate | Self::Expired | Self::NotYetValid => {
                plane.show_certificate(i, None, Validity::Now)
            }
            Self::Slow => plane.fleet()?.on(i, |control| async move { control.delay(Duration::ZERO).await }),
            // The last flap may have left its table or not: after an `add` it can be deleted in either case.
            Self::Flapping => {
                lab.apiserver(i).nft_load(&format!("add table inet {TABLE}\ndelete table inet {TABLE}\n"))
            }
            Self::UplinkDown => Ok(()),
        }
    }
}

impl Inflicted {
    /// Undoes it; whoever was killed or stopped is started again and ready when this returns.
    pub fn heal(mut self, plane: &mut ControlPlane<'_>) -> Result<()> {
        for flapping in &mut self.flapping {
            flapping.kill()?;
        }
        if self.fault == Fault::UplinkDown {
            return plane.lab().replug_node();
        }
        for i in self.numbers {
            self.fault.end(plane, i).with_context(|| format!("heal apiserver {i} from {:?}", self.fault))?;
        }
        Ok(())
    }
}

/// Packets on their way through the switch, between apiserver `i` and anybody, are dropped in one direction.
fn lose(fabric: &Namespace, i: u8, side: &str, port: &str) -> Result<()> {
    fabric.nft_load(&format!(
        "table bridge {TABLE}{i} {{\nchain forward {{ type filter hook forward priority 0;\n\
         {side} \"api{i}\" tcp {port} 6443 drop\n}}\n}}\n"
    ))
}

/// Connections to a port are refused, and those that exist reset.
fn refusing(hook: &str, port: u16) -> String {
    format!(
        "table inet {TABLE} {{\nchain {hook} {{ type filter hook {hook} priority -300;\n\
         tcp dport {port} reject with tcp reset\n}}\n}}\n"
    )
}

fn flap(apiserver: &Namespace, folder: &std::path::Path, i: u8) -> Result<Spawned> {
    let rules = refusing("input", 6443);
    let mut shell = apiserver.command("sh");
    shell.arg("-c").arg(format!(
        "i=0; while [ $i -lt {FLAPS} ]; do echo '{rules}' | nft -f -; sleep 1; nft delete table inet {TABLE}; \
         sleep 1; i=$((i+1)); done"
    ));
    Spawned::start(&format!("flapping-{i}"), shell, folder)
}
