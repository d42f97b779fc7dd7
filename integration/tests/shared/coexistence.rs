//! The daemon beside other programs that want the same virtual IP.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::control_plane::Variant;
use integration::lab::{Families, Lab, LabOptions, addresses};
use integration::neighbour::Neighbour;
use integration::scenario::Scenario;
use serde_json::Value;

/// It takes as long as the first self-test.
const LIMIT: Duration = Duration::from_secs(60);

/// No problem is named, and a connection of the node to each virtual IP was led by apivip's rules.
fn is_healthy(status: &Value) -> bool {
    let tests = status["selftests"].as_array().map_or(&[][..], Vec::as_slice);
    let ours = |test: &Value| test["ready"] == true && test["answered_by"] == "rules";
    status["problems"] == serde_json::json!([]) && tests.len() == 2 && tests.iter().all(ours)
}

/// Pod and node reach live apiservers whoever came first, and after the daemon has ended.
pub(crate) fn either_may_come_first(variant: Variant) -> Result<()> {
    let lab = Lab::start(LabOptions { families: Families::Dual, ..LabOptions::default() })?;
    let (node, families) = (lab.node(), lab.families());
    let scenario = Scenario::start(&lab, variant, &[1, 2, 3])?;
    for neighbour in Neighbour::ALL {
        neighbour.load(node, families)?;
        for family in families {
            let vip: IpAddr = addresses::vip(*family);
            for from in [lab.pod(1), node] {
                let alone = scenario.plane.fetch(from, vip);
                let taken =
                    alone.as_ref().is_err_and(|error| format!("{error:#}").contains("Failed to connect"));
                ensure!(taken, "{neighbour:?} does not take {vip} from {}: {alone:?}", from.name());
            }
        }
        let mut daemon = scenario.daemon()?;
        scenario.expect_everybody(&format!("{neighbour:?} was there first"))?;
        daemon.wait_for_status("a healthy node", LIMIT, is_healthy)?;
        neighbour.remove(node, families)?;
        neighbour.load(node, families)?;
        scenario.expect_everybody(&format!("{neighbour:?} came second"))?;
        daemon.wait_for_status("a healthy node", LIMIT, is_healthy)?;
        daemon.stop()?;
        scenario.expect_everybody(&format!("{neighbour:?} stays when the daemon ends"))?;
        scenario.cleanup(&daemon)?;
        neighbour.remove(node, families)?;
    }
    Ok(())
}
