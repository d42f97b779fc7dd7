//! What `apivip check` says where it lacks a right, and where the kernel lacks a part.

use anyhow::{Result, ensure};
use integration::check::{BAD, Checked, GOOD, Stage, check_by};
use integration::lab::{Lab, LabOptions};
use integration::nftfault::{Fault, NftFault};

#[test]
fn what_it_may_not_know_is_unknown_with_what_it_needs() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let without = |capability: &str| {
        let set = format!("-{capability}");
        let wrapper = ["setpriv", "--bounding-set", &set, "--inh-caps", &set];
        check_by(lab.node(), lab.dir(), &wrapper, &stage.arguments, &[])
    };
    let checked = without("net_admin")?;
    ensure!(checked.code == Some(BAD), "{:#}", checked.report);
    checked.expect("cap-net-admin", "fail", &["apivip run does not start"])?;
    for id in [
        "kernel-nf-tables",
        "kernel-nat",
        "kernel-tun",
        "kube-proxy",
        "nat-order",
        "firewall",
        "flowtables",
        "table",
    ] {
        checked.expect(id, "unknown", &["CAP_NET_ADMIN"])?;
    }
    checked.expect("kernel-raw-sockets", "ok", &[])?;
    without("net_bind_service")?.expect("cap-net-bind-service", "warning", &["forwarder cannot listen"])?;
    let checked = without("net_raw")?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    checked.expect("cap-net-raw", "warning", &[])?;
    checked.expect("kernel-raw-sockets", "unknown", &["CAP_NET_RAW"])?;
    checked.expect("kernel-table", "ok", &[])?;
    let checked = without("sys_admin")?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    checked.expect("kernel-table", "unknown", &["operation not permitted", "CAP_SYS_ADMIN"])?;
    checked.expect("kube-proxy", "ok", &[])
}

/// The faults are those of a library between the program and its sockets: this kernel has everything.
#[test]
fn what_the_kernel_lacks_is_named_with_what_is_lost() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let stage = Stage::start(&lab)?;
    let faults = NftFault::build(lab.dir())?;
    let run = |fault: Fault, more: &[&str]| -> Result<Checked> {
        faults.set(fault)?;
        let more = more.iter().map(|word| (*word).to_owned());
        let arguments: Vec<String> = stage.arguments.iter().cloned().chain(more).collect();
        check_by(lab.node(), lab.dir(), &[], &arguments, &faults.environment())
    };
    let checked = run(Fault::NoChainType, &[])?;
    checked.expect(
        "kernel-nat",
        "warning",
        &["the forwarder is the fallback", "No such file or directory"],
    )?;
    checked.expect("kernel-table", "warning", &["nat"])?;
    checked.expect("kernel-reject", "ok", &[])?;
    let checked = run(Fault::NoChainType, &["--mode", "nftables"])?;
    checked.expect("kernel-nat", "fail", &["CONFIG_NFT_NAT"])?;
    ensure!(checked.code == Some(BAD), "{:#}", checked.report);
    let checked = run(Fault::NoOwner, &[])?;
    checked.expect("kernel-table-owner", "warning", &["6.9"])?;
    checked.expect("kernel-table", "ok", &[])?;
    let checked = run(Fault::NoSubsystem, &[])?;
    checked.expect("kernel-nf-tables", "warning", &["Operation not supported"])?;
    run(Fault::NotPermitted, &[])?.expect("kernel-nf-tables", "unknown", &["CAP_NET_ADMIN"])?;
    let checked = run(Fault::NoSocket, &[])?;
    checked.expect("kernel-nf-tables", "warning", &["Protocol not supported"])?;
    checked.expect("table", "unknown", &["Protocol not supported"])
}
