//! What `apivip check` says of healthy nodes, and of nodes on which one thing after the other is wrong.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use integration::check::{BAD, GOOD, SETTINGS, Stage, check, check_by, check_command, sees_processes};
use integration::command::{self, COMMAND_LIMIT};
use integration::control_plane::ControlPlane;
use integration::foreign::fill_conntrack;
use integration::lab::{Lab, LabOptions, addresses};
use integration::neighbour::Neighbour;
use integration::nftfault::{Fault, NftFault};

/// Everything on a node that others could see change.
fn state_of(lab: &Lab) -> Result<String> {
    let script = "nft list ruleset; ip link; ip rule; ip -6 rule; ip route show table all";
    lab.node().run("sh", &["-c", script])
}

#[test]
fn a_healthy_node_is_ok_before_and_after_and_stays_as_it_was() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut stage = Stage::start(&lab)?;
    let before = state_of(&lab)?;
    let checked = stage.check_with(&["--strict"])?;
    ensure!(state_of(&lab)? == before, "it changed the node");
    ensure!(!lab.dir().join("run").exists() && !lab.dir().join("state").exists(), "it made folders");
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    // A node without apivip has neither a daemon nor state, which is worth knowing and no more.
    ensure!(checked.with_verdicts(&["info"]) == ["daemon", "saved-state"], "{:#}", checked.report);
    // A container sees its own processes only, and so do tests that run in one.
    let unseen: &[&str] = if sees_processes()? { &[] } else { &["macvlan"] };
    ensure!(checked.with_verdicts(&["unknown", "warning", "fail"]) == unseen, "{:#}", checked.report);
    checked.expect("api-read", "ok", &["10.96.0.1:443", "3 API servers"])?;
    let manual = include_str!("../../../docs/reference.md");
    let id = |finding: &serde_json::Value| format!("`{}`", finding["id"].as_str().unwrap_or_default());
    let unexplained: Vec<String> = checked.findings().map(id).filter(|id| !manual.contains(id)).collect();
    ensure!(unexplained.is_empty(), "docs/reference.md does not explain {unexplained:?}");
    for i in 1..=3 {
        for id in ["apiserver-tcp", "apiserver-tls", "apiserver-readyz", "apiserver-certificate-expiry"] {
            checked.expect(id, "ok", &[&stage.scenario.plane.apiservers(i)[0].to_string()])?;
        }
    }
    let asked = asked(&stage.scenario.plane)?;
    ensure!(
        asked.iter().all(|what| what.starts_with("GET ") || what.contains("selfsubjectaccessreviews")),
        "{asked:?}"
    );

    stage.scenario.options = stage.scenario.options.clone().arg("--table-owner=off");
    let mut daemon = stage.scenario.daemon()?;
    daemon.wait_for_state(COMMAND_LIMIT)?;
    let checked = stage.check_with(&["--strict", "--table-owner=off"])?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    ensure!(checked.with_verdicts(&["info", "unknown", "warning", "fail"]) == unseen, "{:#}", checked.report);
    checked.expect("daemon", "ok", &[&format!("pid {}", daemon.pid()), "programmed"])
}

/// Requests that all apiservers saw of the checks so far.
fn asked(plane: &ControlPlane<'_>) -> Result<Vec<String>> {
    let mut asked = Vec::new();
    for i in 1..=3 {
        let log = std::fs::read_to_string(plane.lab().dir().join(format!("apiserver-{i}.access")))?;
        for line in log.lines() {
            let entry: serde_json::Value = serde_json::from_str(line)?;
            let request = entry.pointer("/what/request").or(entry.pointer("/request")).unwrap_or(&entry);
            if let Some(method) = request["method"].as_str() {
                asked.push(format!("{method} {}", request["path"].as_str().unwrap_or_default()));
            }
        }
    }
    ensure!(!asked.is_empty(), "no request is in the access logs");
    Ok(asked)
}

#[test]
fn without_any_access_it_says_what_it_lacks() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    lab.node().sysctls(&SETTINGS)?;
    let checked = check::<&str>(lab.node(), lab.dir(), &[])?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    checked.expect("api-access", "unknown", &["not running in a Pod", "--kubeconfig"])?;
    checked.expect("virtual-ip", "unknown", &["kubectl get service", "--vip"])?;
    let seeded = ["--seed", "192.0.2.11:6443", "--service-cidr", "10.96.0.0/12"];
    let checked = check(lab.node(), lab.dir(), &seeded)?;
    ensure!(checked.code == Some(BAD), "{:#}", checked.report);
    checked.expect("virtual-ip", "ok", &["10.96.0.1:443"])?;
    checked.expect("apiserver-tcp", "fail", &["192.0.2.11:6443", "connection refused"])?;
    checked.expect("vip-source", "ok", &["192.0.2.1"])?;
    // The words of `apivip run` are taken as they are, and its mistakes are the same.
    for (arguments, code) in [
        (&["--balance", "nearest", "--mode", "auto", "--probe-fall", "3"][..], GOOD),
        (&["--vip", "10.97.0.1:443", "--service-cidr", "10.96.0.0/16"], 2),
        (&["--seed", "nonsense"], 2),
        (&["--no-such-flag"], 2),
    ] {
        let mut command = check_command(lab.node(), lab.dir(), &[])?;
        command.args(arguments);
        let finished = command::finish(command, "", COMMAND_LIMIT)?;
        ensure!(finished.status.code() == Some(code), "{arguments:?}: {finished:?}");
        ensure!((code == 2) == finished.stderr.starts_with("apivip: "), "{finished:?}");
    }
    Ok(())
}

#[test]
fn settings_of_the_kernel_are_noticed() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let node = lab.node();
    node.sysctls(&[("net/ipv4/ip_forward", "0"), ("net/ipv4/conf/eth0/rp_filter", "1")])?;
    node.sysctls(&[
        ("net/netfilter/nf_conntrack_tcp_loose", "0"),
        ("net/ipv4/conf/eth0/route_localnet", "1"),
    ])?;
    let checked = stage.check_with(&["--listen", "127.0.0.1:7445"])?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    checked.expect("ip-forward", "warning", &["sysctl -w net.ipv4.ip_forward=1"])?;
    checked.expect("rp-filter", "info", &["strict on eth0"])?;
    checked.expect("conntrack-tcp-loose", "info", &["off"])?;
    checked.expect("route-localnet", "warning", &["eth0"])?;
    ensure!(stage.check_with(&["--strict"])?.code == Some(BAD), "a warning passes --strict");
    node.ip("rule add from 10.9.9.0/24 table 99\n")?;
    stage.check()?.expect("rp-filter", "warning", &["1 routing rules"])?;

    let limit = node.run("cat", &["/proc/sys/net/netfilter/nf_conntrack_max"])?;
    let limit: u32 = limit.trim().parse().context("parse the limit")?;
    fill_conntrack(node, lab.dir(), limit / 100 * 97)?;
    let checked = stage.check()?;
    checked.expect("conntrack-table", "fail", &[&format!("of {limit} entries"), "nf_conntrack_max"])?;
    ensure!(checked.code == Some(BAD), "{:#}", checked.report);
    Ok(())
}

#[test]
fn other_programs_are_known_by_their_traces() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let (node, families) = (lab.node(), lab.families());
    Neighbour::KubeProxyNft.load(node, families)?;
    let checked = stage.check()?;
    checked.expect("kube-proxy", "info", &["nftables"])?;
    checked.expect("nat-order", "ok", &[])?;
    node.run("iptables-nft", &["-t", "nat", "-N", "KUBE-SERVICES"])?;
    stage.check()?.expect("kube-proxy", "warning", &["nftables", "iptables", "kube-proxy --cleanup"])?;
    Neighbour::KubeProxyNft.remove(node, families)?;
    stage.check()?.expect("kube-proxy", "info", &["iptables (chain KUBE-SERVICES)"])?;
    node.nft_load("flush ruleset")?;

    // IPVS is known by its device, of whatever kind.
    node.ip("link add kube-ipvs0 type veth peer name ipvs-end\naddress add 10.96.0.1/32 dev kube-ipvs0\nlink set kube-ipvs0 up\n")?;
    let checked = stage.check()?;
    checked.expect("kube-proxy", "info", &["IPVS"])?;
    checked.expect("vip-bound", "info", &["10.96.0.1"])?;
    node.ip("link delete kube-ipvs0\n")?;

    node.nft_load(
        "table ip early { chain pre { type nat hook prerouting priority -120; }; }
         table ip strict { chain passing { type filter hook forward priority 0; policy drop; }; }",
    )?;
    let checked = stage.check()?;
    checked.expect("nat-order", "warning", &["ip early pre (-120)"])?;
    checked.expect("firewall", "warning", &["ip strict passing"])?;
    node.nft_load("flush ruleset")?;

    node.run("iptables-legacy", &["-t", "nat", "-N", "KUBE-SERVICES"]).context(
        "this test needs iptables-legacy (Debian package iptables) and a kernel that still has it",
    )?;
    let checked = stage.check()?;
    checked.expect("kube-proxy", "unknown", &["iptables-legacy -t nat -nL KUBE-SERVICES"])?;
    checked.expect("firewall", "ok", &[])?;
    node.run("ip6tables-legacy", &["-P", "FORWARD", "DROP"])?;
    stage.check()?.expect("firewall", "unknown", &["ip6tables-legacy -S | grep -- -P"])?;
    node.run("iptables-legacy", &["-P", "FORWARD", "DROP"])?;
    stage.check()?.expect("firewall", "unknown", &["-> iptables-legacy -S | grep -- -P"])?;

    node.ip("link add cilium_host type veth peer name cilium_net\n")?;
    stage.check()?.expect("cilium", "unknown", &["cilium_host", "cilium-dbg status --verbose"])
}

#[test]
fn ways_around_netfilter_are_named() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    lab.node()
        .ip("link add mv0 link eth0 type macvlan\n")
        .context("this test needs a kernel with macvlan (CONFIG_MACVLAN)")?;
    stage.check()?.expect("macvlan", "warning", &["mv0 (macvlan)", "--listen"])?;
    // As a CNI plugin does: the device is in the Pod, under a name that is nobody's here.
    lab.node().ip(&format!("link set mv0 netns {}\n", lab.pod(1).name()))?;
    stage.check()?.expect("macvlan", "warning", &["mv0 (macvlan, in a Pod)"])?;
    lab.pod(1).ip("link delete mv0\n")?;
    stage.check()?.expect("macvlan", if sees_processes()? { "ok" } else { "unknown" }, &[])?;
    let flowtable = "table inet f {\nflowtable t {\nhook ingress priority 0;\ndevices = { eth0 };\n}\n}\n";
    if lab.node().nft_load(flowtable).is_ok() {
        return stage.check()?.expect("flowtables", "warning", &["inet f t"]);
    }
    // This kernel has none (CONFIG_NF_FLOW_TABLE_INET): the fault stands for one.
    println!("fault-injected: this kernel takes no flowtable");
    lab.node().nft_load("table inet f { }")?;
    let faults = NftFault::build(lab.dir())?;
    faults.set(Fault::Flowtables)?;
    let checked = check_by(lab.node(), lab.dir(), &[], &stage.arguments, &faults.environment())?;
    ensure!(faults.met().iter().any(|met| met == "flowtable request"), "{:?}", faults.met());
    checked.expect("flowtables", "warning", &["inet f", "flow add"])
}

#[test]
fn a_table_is_told_by_its_owner() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let mut daemon = stage.scenario.daemon()?;
    daemon.wait_for_state(COMMAND_LIMIT)?;
    let checked = stage.check()?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    checked.expect("table", "ok", &["netlink port", "owns it"])?;
    checked.expect("ruleset-save", "info", &["nft -f fails as a whole", "--table-owner off"])?;
    checked.expect("saved-state", "ok", &[])?;
    let elsewhere = lab.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    let checked = check(lab.node(), &elsewhere, &stage.arguments)?;
    checked.expect("table", "fail", &["no daemon answers"])?;
    daemon.kill()?;
    let checked = stage.check()?;
    checked.expect("daemon", "info", &["no daemon runs"])?;
    checked.expect("table", "info", &["apivip cleanup removes it"])?;
    checked.expect("ruleset-save", "info", &["a table without an owner"])
}

#[test]
fn the_virtual_ip_itself_is_no_apiserver() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let vip = SocketAddr::new(lab.vips()[0], 443);
    let kubeconfig = stage.scenario.plane.kubeconfig_naming(vip)?.display().to_string();
    let seed = SocketAddr::new(addresses::apiserver(2, lab.families()[0]), 6443).to_string();
    let arguments = ["--kubeconfig", &kubeconfig, "--seed", &seed, "--vip", &vip.to_string()];
    let checked = check(lab.node(), lab.dir(), &arguments)?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    let subjects: Vec<String> =
        checked.of("apiserver-tcp").into_iter().map(|(subject, _, _)| subject).collect();
    ensure!(subjects.len() == 3 && !subjects.contains(&vip.to_string()), "{subjects:?}");
    Ok(())
}
