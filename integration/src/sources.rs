//! More addresses of a pod, so that its connections do not run out of ports.
//! In: a lab with routed pods. Out: addresses that `pod 1` may dial from, and that answers find.

use std::net::IpAddr;

use anyhow::Result;
use apivip::model::types::Family;

use crate::lab::{Lab, addresses};

/// The first of them is that of a pod that no test has.
const FIRST: u8 = 201;

/// Gives pod 1 so many more addresses of each family of the lab, at most 40.
pub fn add(lab: &Lab, count: u8) -> Result<Vec<IpAddr>> {
    let (mut pod, mut node, mut added) = (String::new(), String::new(), Vec::new());
    for family in lab.families().iter().copied() {
        let nodad = if family == Family::V6 { " nodad" } else { "" };
        for i in 0..count {
            let address = addresses::pod(FIRST + i, family);
            pod.push_str(&format!("addr add {address} dev eth0{nodad}\n"));
            node.push_str(&format!("route add {address} dev pod1\n"));
            added.push(address);
        }
    }
    lab.pod(1).ip(&pod)?;
    lab.node().ip(&node)?;
    Ok(added)
}
