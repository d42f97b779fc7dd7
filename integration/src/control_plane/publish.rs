//! What the API says of the Service `kubernetes`, the same on each kind of control plane.
//! In: virtual IPs, addresses, ports. Out: a Service and EndpointSlices, which replace what was there,
//! and a daemon that has heard of them.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use serde_json::Value;

use super::{ControlPlane, Plane, SERVICE_PORT, Variant};
use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::real::PORT;
use crate::sim::fleet::{endpoint_ports, service_ports};
use crate::sim::objects::Port;

/// The collection of slices.
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// The name of the port that the API has.
const HTTPS: &str = "https";

impl<'lab> ControlPlane<'lab> {
    /// Starts every apiserver and publishes all of them for the Service, which has the lab's virtual IPs.
    pub fn serving(lab: &'lab Lab, variant: Variant) -> Result<Self> {
        let made = Self::start(lab, variant)?;
        made.put_service(&lab.vips(), false)?;
        made.publish_apiservers(&(1..=lab.options().apiservers).collect::<Vec<_>>())?;
        Ok(made)
    }

    /// Publishes every address of these apiservers and nothing else.
    pub fn publish_apiservers(&self, numbers: &[u8]) -> Result<()> {
        self.publish(&self.addresses(numbers))
    }

    /// Publishes these addresses as endpoints and nothing else.
    pub fn publish(&self, addresses: &[IpAddr]) -> Result<()> {
        self.publish_with(addresses, &self.ports().1)
    }

    /// The same of apiservers that listen on another port.
    pub fn publish_at(&self, addresses: &[IpAddr], port: u16) -> Result<()> {
        let mut ports = self.ports().1;
        ports.iter_mut().filter(|known| known.name == HTTPS).for_each(|https| https.port = port);
        self.publish_with(addresses, &ports)
    }

    /// Publishes these apiservers, and gives the Service one more port, which leads to that one of theirs.
    pub fn publish_beside(&self, numbers: &[u8], service: Port, endpoint: Port) -> Result<()> {
        let (mut services, mut endpoints) = self.ports();
        services.push(service);
        endpoints.push(endpoint);
        self.put_service_with(&self.lab.vips(), &services, false)?;
        self.publish_with(&self.addresses(numbers), &endpoints)
    }

    /// Writes one more slice of the Service, which must not be there yet.
    pub fn add_slice(&self, slice: &Value) -> Result<()> {
        match &self.plane {
            Plane::Simulated { fleet, .. } => fleet.on_all(|control| {
                let slice = slice.clone();
                async move { control.put(&slice, None).await.map(drop) }
            }),
            Plane::Real(real) => real.writer()?.post(SLICES, slice).map(drop),
        }
    }

    /// Waits until a daemon leads every virtual IP to these apiservers and nobody else.
    pub fn wait_until_served(&self, daemon: &mut Daemon, numbers: &[u8]) -> Result<()> {
        self.lab.vips().into_iter().try_for_each(|vip| {
            let backends = numbers.iter().flat_map(|i| self.apiservers(*i));
            let backends: Vec<SocketAddr> = backends.filter(|b| b.is_ipv4() == vip.is_ipv4()).collect();
            daemon.wait_for_backends(SocketAddr::new(vip, SERVICE_PORT), &backends).map(drop)
        })
    }

    /// Writes the Service with these virtual IPs; none makes it headless. A real one that has others is deleted first,
    /// because its addresses cannot be changed.
    pub fn put_service(&self, vips: &[IpAddr], affinity: bool) -> Result<()> {
        self.put_service_with(vips, &self.ports().0, affinity)
    }

    /// Deletes the Service. Real apiservers write it again within seconds.
    pub fn delete_service(&self) -> Result<()> {
        match &self.plane {
            Plane::Simulated { fleet, .. } => fleet.delete_service(),
            Plane::Real(real) => real.delete_service(),
        }
    }

    fn put_service_with(&self, vips: &[IpAddr], ports: &[Port], affinity: bool) -> Result<()> {
        match &self.plane {
            Plane::Simulated { fleet, .. } => fleet.put_service(vips, ports, affinity),
            Plane::Real(real) => real.put_service(vips, ports, affinity),
        }
    }

    fn publish_with(&self, addresses: &[IpAddr], ports: &[Port]) -> Result<()> {
        match &self.plane {
            Plane::Simulated { fleet, .. } => fleet.publish(addresses, ports),
            Plane::Real(real) => real.writer()?.publish(addresses, ports),
        }
    }

    /// The ports of the Service, and those of each endpoint.
    fn ports(&self) -> (Vec<Port>, Vec<Port>) {
        match &self.plane {
            Plane::Simulated { .. } => (service_ports().into(), endpoint_ports().into()),
            Plane::Real(_) => (vec![Port::new(HTTPS, SERVICE_PORT)], vec![Port::new(HTTPS, PORT)]),
        }
    }

    fn addresses(&self, numbers: &[u8]) -> Vec<IpAddr> {
        numbers.iter().flat_map(|i| self.lab.apiserver_addresses(*i)).collect()
    }
}
