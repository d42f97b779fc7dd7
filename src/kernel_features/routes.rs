//! The forwarder's way to a virtual IP: a tun device, a local route on it, a routing rule with a port.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::{Feature, Outcome, Tried, chain, refused};
use crate::routes::local_vip::Device;
use crate::routes::{HostError, Node};

/// `RT_TABLE_LOCAL`.
const LOCAL: u32 = 255;

pub(super) fn attempt(tried: &mut impl FnMut(Tried)) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(claim(tried)),
        Err(error) => tried((Feature::Tun, Outcome::Unclear(error.to_string()))),
    }
}

async fn claim(tried: &mut impl FnMut(Tried)) {
    let device = match Device::make().await {
        Ok(device) => {
            tried((Feature::Tun, Outcome::Works));
            device
        }
        Err(error) => return tried((Feature::Tun, of_host(&error))),
    };
    let mut node = match Node::open() {
        Ok(node) => node,
        Err(error) => return tried((Feature::LocalRoutes, Outcome::Unclear(chain(&error)))),
    };
    let vip = SocketAddr::from(([198, 51, 100, 1], 443));
    let routed = node.add_local(vip.ip(), None::<IpAddr>, LOCAL, device.index()).await;
    tried((Feature::LocalRoutes, outcome(routed)));
    tried((Feature::RoutingRules, outcome(node.add_rule(vip).await)));
}

fn outcome(result: Result<(), HostError>) -> Outcome {
    result.map_or_else(|error| of_host(&error), |()| Outcome::Works)
}

fn of_host(error: &HostError) -> Outcome {
    let source: &io::Error = &error.source;
    refused(source, error)
}
