//! Thousands of Services in the API, each with an endpoint, so that a kube-proxy has work.
//! In: an apiserver and how many. Out: they are there.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::command;
use crate::control_plane::ControlPlane;
use crate::real::ADMIN_TOKEN;

/// Longest until 5,000 of them are there. It takes a minute.
const LIMIT: Duration = Duration::from_secs(300);

/// Creates them in the namespace `default`, by apiserver 1.
pub fn create(plane: &mut ControlPlane<'_>, count: u32) -> Result<()> {
    let address = plane.real()?.address(1);
    let authority = plane.authority().display().to_string();
    let mut requests = String::new();
    for i in 0..count {
        for (collection, object) in [
            ("api/v1/namespaces/default/services", service(i)),
            ("apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice(i)),
        ] {
            let body = object.to_string().replace('"', "\\\"");
            if !requests.is_empty() {
                requests.push_str("next\n");
            }
            // Writing to a String cannot fail.
            let _ = write!(
                requests,
                "url = \"https://{address}/{collection}\"\ncacert = \"{authority}\"\noutput = /dev/null\n\
                 header = \"Authorization: Bearer {ADMIN_TOKEN}\"\nheader = \"Content-Type: application/json\"\n\
                 data = \"{body}\"\nfail\nsilent\nshow-error\nnoproxy = \"*\"\n"
            );
        }
    }
    // One process, and a few connections for all of them.
    let mut curl = plane.lab().fabric().command("curl");
    curl.args(["--parallel", "--parallel-max", "16", "--config", "-"]);
    let finished = command::finish(curl, &requests, LIMIT).context("create Services")?;
    ensure!(finished.status.success(), "create Services: {}", finished.stderr);
    Ok(())
}

fn service(i: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("one-of-many-{i}") },
        "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] },
    })
}

fn slice(i: u32) -> Value {
    let name = format!("one-of-many-{i}");
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [format!("10.245.{}.{}", i / 250, i % 250 + 1)], "conditions": { "ready": true } }],
        "ports": [{ "port": 8080, "protocol": "TCP" }],
    })
}
