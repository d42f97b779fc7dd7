//! A node with its pods, and apiservers, each in a network namespace, joined by a switch.
//! In: [`LabOptions`]. Out: a [`Lab`] whose addresses are those of [`addresses`]; dropping it removes everything.

pub mod addresses;
mod options;
mod wiring;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apivip::model::types::Family;
use tempfile::TempDir;

pub use options::{DefaultRoute, Families, LabOptions, PodAttachment};

use crate::delay::DelayLine;
use crate::netns::{self, Namespace};

/// A running lab. Pods and apiservers are numbered from 1.
#[derive(Debug)]
pub struct Lab {
    options: LabOptions,
    /// Of each apiserver that has a namespace of its own, where they are to be long; their devices hold the namespaces.
    cables: Vec<DelayLine>,
    fabric: Namespace,
    node: Namespace,
    pods: Vec<Namespace>,
    apiservers: Vec<Namespace>,
    folder: TempDir,
}

impl Lab {
    /// Builds a lab. All addresses are usable when this returns.
    pub fn start(options: LabOptions) -> Result<Self> {
        let prefix = format!("{}{}-", netns::FOLDER_PREFIX, std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().context("make the lab's folder")?;
        let own = first_own_apiserver(&options)..=options.apiservers;
        let mut roles = vec!["fabric".to_owned(), "node".to_owned()];
        roles.extend((1..=options.pods).map(|i| format!("pod{i}")));
        roles.extend(own.clone().map(|i| format!("api{i}")));
        let mut made = Namespace::create_all(&roles)?.into_iter();
        let mut lab = Self {
            options,
            cables: Vec::new(),
            folder,
            fabric: made.next().context("make the switch")?,
            node: made.next().context("make the node")?,
            pods: made.by_ref().take(options.pods.into()).collect(),
            apiservers: made.collect(),
        };
        lab.wire(own)?;
        Ok(lab)
    }

    fn wire(&mut self, own: std::ops::RangeInclusive<u8>) -> Result<()> {
        let all = [&self.fabric, &self.node].into_iter().chain(&self.pods).chain(&self.apiservers);
        for namespace in all {
            // Before any interface exists, so that link-local addresses come without waiting, too.
            let mut settings = vec![
                ("net/ipv6/conf/all/accept_dad", "0"),
                ("net/ipv6/conf/default/accept_dad", "0"),
                ("net/ipv6/conf/all/disable_ipv6", "0"),
                ("net/ipv6/conf/default/disable_ipv6", "0"),
            ];
            if namespace.name() == self.node.name() {
                settings.extend([("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]);
            }
            namespace.sysctls(&settings)?;
        }
        let names = wiring::Names {
            fabric: self.fabric.name(),
            node: self.node.name(),
            pods: self.pods.iter().map(Namespace::name).collect(),
            apiservers: own.clone().zip(self.apiservers.iter().map(Namespace::name)).collect(),
        };
        netns::ip_batch(&wiring::links(&names, &self.options))?;
        if self.options.long_cables {
            let line =
                |(i, apiserver)| DelayLine::new([(&self.fabric, &format!("api{i}")), (apiserver, "eth0")]);
            self.cables = own.clone().zip(&self.apiservers).map(line).collect::<Result<_>>()?;
        }
        self.fabric.ip(&wiring::fabric(&names, &self.options))?;
        self.node.ip(&wiring::node(&self.options))?;
        for (i, pod) in (1..).zip(&self.pods) {
            pod.ip(&wiring::pod(i, &self.options))?;
        }
        for (i, apiserver) in own.zip(&self.apiservers) {
            apiserver.ip(&wiring::apiserver(i, &self.options))?;
        }
        self.bridge_netfilter()
    }

    /// Off in the switch, which stands for hardware; on the node as the options say.
    fn bridge_netfilter(&self) -> Result<()> {
        let wanted = self.options.attachment == PodAttachment::Bridged { netfilter: true };
        if Path::new("/proc/sys/net/bridge").exists() {
            let set = |namespace: &Namespace, value: &str| {
                let keys = ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];
                namespace.sysctls(&keys.map(|key| (key, value)))
            };
            set(&self.fabric, "0")?;
            set(&self.node, if wanted { "1" } else { "0" })?;
        } else if wanted {
            bail!("this test needs the kernel module br_netfilter: run `modprobe br_netfilter` first");
        }
        Ok(())
    }

    /// What it was built from.
    pub fn options(&self) -> &LabOptions {
        &self.options
    }

    /// The IP versions it has, IPv4 first.
    pub fn families(&self) -> &'static [Family] {
        self.options.families.list()
    }

    /// The switch between node and apiservers. It holds the routers' addresses.
    pub fn fabric(&self) -> &Namespace {
        &self.fabric
    }

    /// The node, where the daemon runs.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// Pod number `i`, from 1. Panics if there is none.
    pub fn pod(&self, i: u8) -> &Namespace {
        &self.pods[usize::from(i) - 1]
    }

    /// Where apiserver number `i`, from 1, runs: its own namespace or the node. Panics if there is none.
    pub fn apiserver(&self, i: u8) -> &Namespace {
        let first = first_own_apiserver(&self.options);
        if i < first { &self.node } else { &self.apiservers[usize::from(i - first)] }
    }

    /// The addresses of apiserver number `i`, one per family, IPv4 first.
    pub fn apiserver_addresses(&self, i: u8) -> Vec<IpAddr> {
        self.families().iter().map(|family| self.apiserver_address(i, *family)).collect()
    }

    /// The address of apiserver number `i` in this family.
    pub fn apiserver_address(&self, i: u8, family: Family) -> IpAddr {
        if i < first_own_apiserver(&self.options) {
            addresses::node(family)
        } else {
            addresses::apiserver(i, family)
        }
    }

    /// The virtual IPs, one per family, IPv4 first.
    pub fn vips(&self) -> Vec<IpAddr> {
        self.families().iter().map(|family| addresses::vip(*family)).collect()
    }

    /// Takes the cable of apiserver number `i` out of the switch. Nobody is told.
    pub fn unplug(&self, i: u8) -> Result<()> {
        self.unplug_all(&[i])
    }

    /// Takes the cables of these apiservers out of the switch at once.
    pub fn unplug_all(&self, numbers: &[u8]) -> Result<()> {
        self.ports(numbers, "down")
    }

    /// Puts the cable back.
    pub fn replug(&self, i: u8) -> Result<()> {
        self.replug_all(&[i])
    }

    /// Puts the cables back at once.
    pub fn replug_all(&self, numbers: &[u8]) -> Result<()> {
        self.ports(numbers, "up")
    }

    /// Lets each frame from and to apiserver number `i` take so long from now on, each way. Fails unless the options have
    /// long cables.
    pub fn set_delay(&self, i: u8, one_way: Duration) -> Result<()> {
        let index = i.checked_sub(first_own_apiserver(&self.options)).map(usize::from);
        let cable = index.and_then(|index| self.cables.get(index));
        cable.with_context(|| format!("apiserver {i} has no long cable"))?.set(one_way);
        Ok(())
    }

    /// Takes the node's own cable out of the switch.
    pub fn unplug_node(&self) -> Result<()> {
        self.fabric.ip("link set node down\n")
    }

    /// Puts it back.
    pub fn replug_node(&self) -> Result<()> {
        self.fabric.ip("link set node up\n")
    }

    fn ports(&self, numbers: &[u8], state: &str) -> Result<()> {
        if let Some(i) = numbers.iter().find(|i| **i < first_own_apiserver(&self.options)) {
            bail!("apiserver {i} runs on the node and has no cable of its own");
        }
        let lines: String = numbers.iter().map(|i| format!("link set api{i} {state}\n")).collect();
        self.fabric.ip(&lines)
    }

    /// A folder for files of this test. It goes when the lab does.
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }
}

/// The number of the first apiserver that has a namespace of its own.
fn first_own_apiserver(options: &LabOptions) -> u8 {
    if options.node_is_apiserver { 2 } else { 1 }
}
