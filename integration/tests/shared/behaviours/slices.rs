//! The EndpointSlices of the Service `kubernetes`.
//!
//! Seen, written by the apiservers themselves: one slice with the Service's name and label, whose endpoints are ready and
//! have no other condition, and one port `https`. A slice without endpoints, sent with null, is read back with null or [].

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use integration::control_plane::ControlPlane;
use integration::lab::Lab;
use integration::real::PORT;
use integration::sim::objects::{self, Port};
use integration::wire::{self, Server};
use serde_json::{Value, json};

const EMPTY: &str = "kubernetes-empty";

pub(super) fn are_those_of_kubernetes(lab: &Lab, plane: &ControlPlane<'_>) -> Result<()> {
    plane.add_slice(&objects::endpoint_slice(EMPTY, "IPv4", &[], &[Port::new("https", PORT)]))?;
    let server = plane.wire(1);
    let list = wire::inside(lab.node(), || list(&server))?;
    ensure!(list["kind"] == "EndpointSliceList", "{list}");
    ensure!(list["apiVersion"] == "discovery.k8s.io/v1", "{list}");
    let items = list["items"].as_array().context("a list without items")?;
    let named = |name: &str| {
        let found = items.iter().find(|slice| slice["metadata"]["name"] == name);
        found.with_context(|| format!("no slice {name} in {list}"))
    };
    let empty = named(EMPTY)?;
    ensure!(empty["endpoints"].is_null() || empty["endpoints"] == json!([]), "{empty}");
    let slice = named("kubernetes")?;
    for slice in [empty, slice] {
        ensure!(slice["addressType"] == "IPv4", "{slice}");
        ensure!(
            slice["metadata"]["labels"] == json!({"kubernetes.io/service-name": "kubernetes"}),
            "{slice}"
        );
        ensure!(slice["ports"] == json!([{"name": "https", "protocol": "TCP", "port": PORT}]), "{slice}");
    }
    let endpoints = slice["endpoints"].as_array().context("a slice without endpoints")?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for endpoint in endpoints {
        ensure!(endpoint["conditions"] == json!({"ready": true}), "{endpoint}");
        let address = endpoint["addresses"][0].as_str().context("an endpoint without address")?;
        addresses.push(address.parse()?);
    }
    addresses.sort();
    let expected: Vec<IpAddr> = (1..=3).flat_map(|i| lab.apiserver_addresses(i)).collect();
    ensure!(addresses == expected, "{addresses:?} instead of {expected:?}");
    Ok(())
}

async fn list(server: &Server) -> Result<Value> {
    let answer = server.http2().await?.get(super::SLICES, server.token()).await?;
    ensure!(answer.status == 200 && answer.content_type == "application/json", "{answer:?}");
    answer.json()
}
