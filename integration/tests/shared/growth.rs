//! What a cluster becomes in the course of years: dual-stack, larger, and at another port.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::{ControlPlane, SERVICE_PORT, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::lab::{Families, Lab, LabOptions};
use integration::load::Load;

/// Probes of 61 addresses that nobody has end within 5 s.
const LIMIT: Duration = Duration::from_secs(60);

/// In an apiserver's namespace: it answers at a second port as well.
const MOVED: &str = "table inet moved {
    chain ports {
        type nat hook prerouting priority dstnat
        tcp dport 6444 redirect to :6443
    }
}";

pub(crate) fn dual_stack_64_endpoints_and_another_port(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let plane = ControlPlane::start(&lab, variant)?;
    let vips = lab.vips();
    let v4 = |i: u8| lab.apiserver_addresses(i).into_iter().filter(IpAddr::is_ipv4);
    let real: Vec<IpAddr> = (1..=3).flat_map(v4).collect();
    plane.put_service(&vips[..1], false)?;
    plane.publish(&real)?;
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &DaemonOptions::kubeconfig(plane.kubeconfig()?))?;
    let vip = SocketAddr::new(vips[0], SERVICE_PORT);
    let load = Load::start(lab.pod(1), lab.dir(), "conversion", "tcp", &[vip], 200)?;

    plane.put_service(&vips, false)?;
    plane.publish_apiservers(&[1, 2, 3])?;
    plane.wait_until_served(&mut daemon, &[1, 2, 3])?;
    for vip in &vips {
        for from in [lab.pod(1), lab.node()] {
            ensure!(plane.fetch(from, *vip)? == "ok", "{} does not reach {vip}", from.name());
        }
    }
    load.finish_clean()?;

    // Connections to those that nobody has may fail until probes have found them dead; none may after that.
    let nobody = (101..=161).map(|last| IpAddr::from([192, 0, 2, last]));
    plane.publish(&real.iter().copied().chain(nobody).collect::<Vec<_>>())?;
    let all: Vec<SocketAddr> = real.iter().map(|ip| SocketAddr::new(*ip, 6443)).collect();
    daemon.wait_for_status("64 endpoints", LIMIT, |status| {
        status["frontends"].as_array().is_some_and(|frontends| {
            frontends.iter().any(|f| f["backends"].as_array().is_some_and(|b| b.len() == 64))
        })
    })?;
    daemon.wait_for_backends(vip, &all)?;
    let load = Load::start(lab.pod(1), lab.dir(), "move", "tcp", &[vip], 200)?;
    plane.publish(&real)?;
    daemon.wait_for_backends(vip, &all)?;

    // The apiservers move to another port, and answer at the old one a while longer.
    for i in 1..=3 {
        lab.apiserver(i).nft_load(MOVED)?;
    }
    plane.publish_at(&real, 6444)?;
    let moved: Vec<SocketAddr> = real.iter().map(|ip| SocketAddr::new(*ip, 6444)).collect();
    daemon.wait_for_backends(vip, &moved)?;
    ensure!(plane.fetch(lab.pod(1), vip.ip())? == "ok", "the pod does not reach the new port");
    load.finish_clean()?;
    Ok(())
}
