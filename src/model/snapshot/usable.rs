//! Endpoints that may serve, collected from slices by port name and address family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Rejection, SnapshotOptions, is_tcp, port_number, rejection};
use crate::model::address::{self, RejectReason};
use crate::model::objects::{Endpoint, EndpointPort, EndpointSlice};
use crate::model::types::{Backend, Family};

/// What every address is held against.
#[derive(Clone, Copy)]
pub(super) struct Judge<'a> {
    pub(super) vips: &'a BTreeSet<IpAddr>,
    /// The Service's TCP ports, number and name.
    pub(super) ports: &'a [(u16, &'a str)],
    pub(super) options: SnapshotOptions,
}

/// Usable addresses by port name and family: those that take new connections, and those that only still serve.
#[derive(Default)]
pub(super) struct Usable {
    ready: BTreeMap<(String, Family), BTreeSet<Backend>>,
    serving: BTreeMap<(String, Family), BTreeSet<Backend>>,
}

impl Usable {
    pub(super) fn add_slice(
        &mut self,
        slice: &EndpointSlice,
        judge: Judge<'_>,
        rejected: &mut BTreeSet<Rejection>,
    ) {
        let family = match slice.address_type.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        };
        for endpoint in &slice.endpoints {
            let Some(ready) = takes_connections(endpoint) else { continue };
            for address in &endpoint.addresses {
                match family {
                    Some(family) => {
                        self.add(address, family, &slice.ports, ready, judge, rejected);
                    }
                    None => {
                        rejected.insert(rejection(address, None, RejectReason::NotAnIpSlice));
                    }
                }
            }
        }
    }

    fn add(
        &mut self,
        text: &str,
        family: Family,
        ports: &[EndpointPort],
        ready: bool,
        judge: Judge<'_>,
        rejected: &mut BTreeSet<Rejection>,
    ) {
        let ip = match address::backend(text, Some(family), judge.vips, judge.options.allow_loopback) {
            Ok(ip) => ip,
            Err(reason) => {
                rejected.insert(rejection(text, None, reason));
                return;
            }
        };
        let ports = || ports.iter().filter(|p| is_tcp(&p.protocol));
        let is_known = |port: &EndpointPort| judge.ports.iter().any(|(_, known)| *known == port.name);
        if !judge.ports.is_empty() && !ports().any(is_known) {
            let number = ports().next().and_then(|port| port.port);
            rejected.insert(rejection(text, number, RejectReason::UnknownPort));
            return;
        }
        for port in ports() {
            match port_number(port.port) {
                Ok(number) => {
                    let set = if ready { &mut self.ready } else { &mut self.serving };
                    set.entry((port.name.clone(), Family::of(ip)))
                        .or_default()
                        .insert(Backend::new(ip, number));
                }
                Err(reason) => {
                    rejected.insert(rejection(text, port.port, reason));
                }
            }
        }
    }

    /// Ready endpoints; where there are none, those that still serve while they terminate.
    pub(super) fn backends(&self, name: &str, family: Family) -> Vec<Backend> {
        let key = (name.to_owned(), family);
        let set = self.ready.get(&key).or_else(|| self.serving.get(&key));
        set.into_iter().flatten().copied().collect()
    }
}

/// `Some(true)` if ready, `Some(false)` if it only still serves, `None` if it must get nothing.
fn takes_connections(endpoint: &Endpoint) -> Option<bool> {
    match (endpoint.conditions.ready, endpoint.conditions.serving) {
        (None | Some(true), _) => Some(true),
        (Some(false), Some(true)) => Some(false),
        (Some(false), _) => None,
    }
}
