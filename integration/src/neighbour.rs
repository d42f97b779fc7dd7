//! Other programs' rules for the same virtual IP, each leading it to where nobody answers, as those of a kube-proxy
//! with an outdated view do. The lab needs three apiservers in namespaces of their own.
//! In: whose rules. Out: they are in the node's namespace, or gone from it.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use apivip::model::types::Family;

use crate::lab::addresses;
use crate::netns::Namespace;

/// Who else wants the virtual IP.
#[derive(Clone, Copy, Debug)]
pub enum Neighbour {
    /// Tables as kube-proxy makes them in nftables mode.
    KubeProxyNft,
    /// Their translation without their checks.
    KubeProxyNftTranslation,
    /// iptables on nf_tables.
    IptablesNft,
    /// iptables on the kernel's own tables.
    IptablesLegacy,
}

/// Nobody listens there, and the host says so at once, so that no client waits for an answer that never comes.
fn dead_backend(family: Family) -> SocketAddr {
    SocketAddr::new(addresses::apiserver(3, family), 9)
}

impl Neighbour {
    /// Those that stand for a whole program.
    pub const ALL: [Self; 3] = [Self::KubeProxyNft, Self::IptablesNft, Self::IptablesLegacy];

    /// Adds its rules.
    pub fn load(self, node: &Namespace, families: &[Family]) -> Result<()> {
        self.on_each(node, families, "-A", |family| kube_proxy(family, matches!(self, Self::KubeProxyNft)))
    }

    /// Takes its rules away again.
    pub fn remove(self, node: &Namespace, families: &[Family]) -> Result<()> {
        self.on_each(node, families, "-D", |family| format!("delete table {} kube-proxy\n", ip(family)))
    }

    fn on_each(
        self,
        node: &Namespace,
        families: &[Family],
        verb: &str,
        nft: impl Fn(Family) -> String,
    ) -> Result<()> {
        for family in families.iter().copied() {
            let backend = match self {
                Self::KubeProxyNft | Self::KubeProxyNftTranslation => {
                    node.nft_load(&nft(family))?;
                    continue;
                }
                Self::IptablesNft => "nft",
                Self::IptablesLegacy => "legacy",
            };
            let program = format!("{}tables-{backend}", ip(family));
            iptables(node, &program, verb, family).with_context(|| {
                format!("this test needs {program} (Debian package iptables) and a kernel that still has it")
            })?;
        }
        Ok(())
    }
}

fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn iptables(node: &Namespace, program: &str, verb: &str, family: Family) -> Result<()> {
    let vip = addresses::vip(family).to_string();
    let target = dead_backend(family).to_string();
    for chain in ["PREROUTING", "OUTPUT"] {
        let arguments = ["-w", "-t", "nat", verb, chain, "-d", &vip, "-p", "tcp", "--dport", "443"];
        node.run(program, &[&arguments[..], &["-j", "DNAT", "--to-destination", &target]].concat())?;
    }
    node.run(
        program,
        &[
            "-w",
            "-t",
            "nat",
            verb,
            "POSTROUTING",
            "-m",
            "mark",
            "--mark",
            "0x4000/0x4000",
            "-j",
            "MASQUERADE",
        ],
    )?;
    Ok(())
}

/// The hooks and priorities are those of kube-proxy: checks at -110 and 0, translation at -100, masquerading at 100.
/// Whatever is still addressed to a virtual IP after the translation is taken for a port that no Service has.
fn kube_proxy(family: Family, checks: bool) -> String {
    let (ip, vip, pods) = (ip(family), addresses::vip(family), addresses::pod_range(family));
    let target = dead_backend(family);
    let firewall = format!("ct state new {ip} daddr {vip} tcp dport 8443 drop");
    let invalid = format!("ct state new {ip} daddr {vip} reject");
    let translate = format!(
        "{ip} daddr {vip} tcp dport 443 {ip} saddr != {pods} meta mark set meta mark or 0x4000\n\
         {ip} daddr {vip} tcp dport 443 dnat to {target}"
    );
    let masquerade = "meta mark & 0x4000 == 0x4000 masquerade".to_owned();
    let checking: &[_] = &[
        ("filter-prerouting-pre-dnat", "filter", "prerouting", -110, &firewall),
        ("filter-output-pre-dnat", "filter", "output", -110, &firewall),
        ("filter-forward", "filter", "forward", 0, &invalid),
        ("filter-output", "filter", "output", 0, &invalid),
    ];
    let translating = [
        ("nat-prerouting", "nat", "prerouting", -100, &translate),
        ("nat-output", "nat", "output", -100, &translate),
        ("nat-postrouting", "nat", "postrouting", 100, &masquerade),
    ];
    let chains: String = translating
        .iter()
        .chain(if checks { checking } else { &[] })
        .map(|(name, kind, hook, priority, rules)| {
            format!("chain {name} {{ type {kind} hook {hook} priority {priority};\n{rules}\n}}\n")
        })
        .collect();
    format!("table {ip} kube-proxy {{\n{chains}}}\n")
}
