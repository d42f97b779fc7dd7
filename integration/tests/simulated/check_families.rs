//! What `apivip check` says of a node with both families, of one behind a socket load balancer, and of the tables of firewalls.

use anyhow::{Context, Result, ensure};
use integration::check::{Stage, check_by};
use integration::lab::{Families, Lab, LabOptions};
use integration::socklb::SocketBalancer;

const VIP: &str = "10.96.0.1:443";

#[test]
fn each_family_is_looked_at_by_itself() -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let stage = Stage::start(&lab)?;
    let node = lab.node();
    let checked = stage.check()?;
    checked.expect("virtual-ip", "ok", &[VIP, "[fd00:10:96::1]:443"])?;
    checked.expect("ip-forward", "ok", &["on"])?;
    checked.expect("ipv6-forwarding", "ok", &["on"])?;
    for id in ["vip-route", "vip-source"] {
        checked.expect(id, "ok", &["10.96.0.1", "192.0.2.1", "fd00:10:96::1", "2001:db8::1"])?;
    }
    for i in 1..=3 {
        let both = stage.scenario.plane.apiservers(i).iter().map(ToString::to_string).collect::<Vec<_>>();
        ensure!(both.len() == 2, "{both:?}");
        checked.expect("apiserver-readyz", "ok", &[&both[0], &both[1]])?;
    }

    node.sysctls(&[("net/ipv6/conf/all/forwarding", "0")])?;
    let checked = stage.check()?;
    checked.expect("ipv6-forwarding", "warning", &["sysctl -w net.ipv6.conf.all.forwarding=1"])?;
    checked.expect("ip-forward", "ok", &["on"])?;
    node.sysctls(&[("net/ipv6/conf/all/forwarding", "1")])?;

    node.run("ip", &["-6", "route", "delete", "default"])?;
    let routes = stage.check()?.of("vip-route");
    let of = |ip: &str| routes.iter().find(|(subject, _, _)| subject == ip).context("no such route");
    ensure!(of("10.96.0.1")?.1 == "ok", "{routes:?}");
    let (_, verdict, said) = of("fd00:10:96::1")?;
    ensure!(verdict == "info" && said.contains("the daemon adds one"), "{routes:?}");

    node.ip("route add local fd00:10:96::1 dev lo table local\n")?;
    let bound = stage.check()?.of("vip-bound");
    let (_, verdict, said) =
        bound.iter().find(|(subject, _, _)| subject == "fd00:10:96::1").context("no such address")?;
    ensure!(
        verdict == "warning" && said.ends_with("-> ip route del local fd00:10:96::1 table local"),
        "{bound:?}"
    );
    node.run("ip", &["route", "del", "local", "fd00:10:96::1", "table", "local"]).map(drop)
}

#[test]
fn a_socket_load_balancer_is_seen_by_what_it_does() -> Result<()> {
    for (at, vip) in [VIP, "[fd00:10:96::1]:443"].into_iter().enumerate() {
        let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
        let stage = Stage::start(&lab)?;
        stage.check()?.expect("socket-translation", "ok", &[])?;
        let balancer = SocketBalancer::build(&lab)?;
        let backend = stage.scenario.plane.apiservers(2)[at];
        let wrapper = balancer.wrapper(vip.parse()?, backend);
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let checked = check_by(lab.node(), lab.dir(), &wrapper, &stage.arguments, &[])?;
        let words = format!("a socket that dials {vip} is connected to {backend}");
        checked.expect("socket-translation", "warning", &[&words, "-> bpftool cgroup tree", "--listen"])?;
    }
    Ok(())
}

#[test]
fn firewalls_are_known_by_their_tables_and_policies() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let node = lab.node();
    node.nft_load("table inet firewalld { }")?;
    let checked = stage.check()?;
    checked.expect("firewall", "warning", &["firewalld: rejects", "-> firewall-cmd --list-all-zones"])?;
    node.nft_load("flush ruleset\ntable ip filter { chain ufw-before-input { }; }")?;
    stage.check()?.expect("firewall", "info", &["ufw"])?;
    node.nft_load(
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }",
    )?;
    let checked = stage.check()?;
    checked.expect(
        "firewall",
        "warning",
        &["ufw: policies drop", "ip filter FORWARD", "-> ufw route allow proto tcp to 192.0.2.11 port 6443"],
    )?;
    node.nft_load("delete chain ip filter ufw-before-input")?;
    let checked = stage.check()?;
    checked.expect("firewall", "warning", &["-> nft 'insert rule ip filter FORWARD"])?;
    // Pasted as it stands, it lets Pods through.
    let (_, _, said) = checked.of("firewall").pop().context("no finding")?;
    let (_, mend) = said.split_once(" -> ").context("no mend")?;
    node.run("sh", &["-e", "-c", mend])?;
    for i in 1..=3 {
        let answer = stage.scenario.plane.fetch_at(lab.pod(1), stage.scenario.plane.apiservers(i)[0])?;
        ensure!(answer == "ok", "apiserver {i} answered {answer:?}\n{}", node.nft_text("ruleset")?);
    }
    let policy = node.nft_text("chain ip filter FORWARD")?;
    ensure!(policy.contains("policy drop"), "{policy}");
    Ok(())
}
