//! `apivip render`: the table for objects in files, as nft syntax.
//!
//! In: files with Kubernetes objects, as `kubectl get -o yaml` prints them. Out: a script for `nft -f`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use crate::config::RenderArgs;
use crate::model::desired::{DesiredState, NodeView, PreferredSource, SourceAddress, compute_desired_state};
use crate::model::health::{BackendHealth, FailReason, HealthState, HealthView, Trigger};
use crate::model::objects::{ClusterView, EndpointSlice, Service};
use crate::model::snapshot::Snapshot;
use crate::model::types::{Backend, ServiceKey};
use crate::nftables;

pub(super) fn render(args: &RenderArgs) -> Result<(), Failure> {
    let (desired, remarks) = desired(args).map_err(Failure::Configuration)?;
    for remark in remarks {
        eprintln!("apivip: {remark}");
    }
    let script = nftables::script(&nftables::build::table(&desired));
    std::io::stdout().write_all(script.as_bytes()).context("write to stdout").map_err(Failure::Runtime)
}

/// The state that a fresh daemon would program for these objects, and what the operator should know about it.
pub fn desired(args: &RenderArgs) -> anyhow::Result<(DesiredState, Vec<String>)> {
    let key = &args.table.service;
    let mut objects = Objects::default();
    for path in &args.from {
        objects.read(path, key)?;
    }
    let view = objects.view(key)?;
    let snapshot = Snapshot::build(&view, args.table.snapshot_options(), 1);
    let preferred: BTreeMap<_, _> = args
        .source_address
        .iter()
        .map(|(backend, source)| (*backend, PreferredSource::Address(SourceAddress::anywhere(*source))))
        .collect();
    let node = NodeView { preferred, ..NodeView::default() };
    let rejected = snapshot.rejected.clone();
    let view = health(snapshot, &args.failed_backend);
    let (mut desired, retained) = compute_desired_state(&view, None, &node, &args.table.policy());
    desired.forwarding = args.forwarder_active;
    let remarks = rejected.iter().map(|r| format!("ignored address {r}"));
    Ok((desired, remarks.chain(retained.iter().map(ToString::to_string)).collect()))
}

/// What probes would say if only `dead` did not answer.
fn health(snapshot: Snapshot, dead: &[Backend]) -> HealthView {
    let now = Instant::now();
    let down = BackendHealth {
        state: HealthState::Failed,
        since: now,
        noticed: now,
        trigger: Trigger::ProbeFailed,
        published: true,
        answering: false,
        end_flows: true,
        challenge_at: None,
        silent_since: None,
        termination_blocked: None,
        failure: Some(FailReason::Timeout),
        round_trip: None,
        hold_down_until: None,
        readyz: None,
    };
    let mut view = HealthView::unprobed(Arc::new(snapshot), now);
    view.backends = dead.iter().map(|backend| (*backend, down)).collect();
    view
}

/// The label that ties a slice to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// More than any list of one Service's objects; keeps a wrong file from filling the memory.
const MAX_INPUT: u64 = 64 << 20;

/// The objects of one Service, collected from any number of documents.
#[derive(Default)]
struct Objects {
    service: Option<Service>,
    slices: BTreeMap<String, EndpointSlice>,
    /// There was an Endpoints object, which holds what slices hold and is not read.
    has_endpoints: bool,
}

impl Objects {
    /// Reads a file (`-`: standard input) and takes in every object of the Service `key`.
    fn read(&mut self, path: &Path, key: &ServiceKey) -> anyhow::Result<()> {
        let text = read(path)?;
        let documents: Vec<Value> =
            documents(&text).with_context(|| format!("{}: not YAML or JSON", path.display()))?;
        ensure!(documents.iter().any(|d| !d.is_null()), "{}: contains no object", path.display());
        for document in documents.into_iter().filter(|d| !d.is_null()) {
            self.take(document, key).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// The view, if the Service was among the objects.
    fn view(self, key: &ServiceKey) -> anyhow::Result<ClusterView> {
        let service = self
            .service
            .ok_or_else(|| anyhow!("the files contain no Service {key}; set --service to another one"))?;
        ensure!(
            !self.slices.is_empty() || !self.has_endpoints,
            "Endpoints objects are ignored, and the files contain no EndpointSlice of Service {key}: add the output of `kubectl get endpointslice \
             -n {} -l {SERVICE_LABEL}={} -o yaml`",
            key.namespace,
            key.name
        );
        Ok(ClusterView { service: Some(service), slices: self.slices })
    }

    fn take(&mut self, object: Value, key: &ServiceKey) -> anyhow::Result<()> {
        let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (kind, version) = (text("kind"), text("apiVersion"));
        match (kind.as_str(), version.as_str()) {
            ("Service", "v1") => {
                let service: Service = parse(object, &kind)?;
                if service.metadata.name == key.name && service.metadata.namespace == key.namespace {
                    self.service = Some(service);
                }
            }
            ("EndpointSlice", "discovery.k8s.io/v1") => {
                let slice: EndpointSlice = parse(object, &kind)?;
                if slice.metadata.namespace == key.namespace
                    && slice.metadata.labels.get(SERVICE_LABEL) == Some(&key.name)
                {
                    self.slices.insert(slice.metadata.name.clone(), slice);
                }
            }
            // A backup of a cluster has them, too.
            ("Endpoints", "v1") => self.has_endpoints = true,
            (list, _) if list.ends_with("List") => self.take_list(object, &kind, &version, key)?,
            ("", _) => bail!("an object has no kind"),
            _ => bail!(
                "{kind} {version} is not supported here; expected Service v1, EndpointSlice discovery.k8s.io/v1 or List objects"
            ),
        }
        Ok(())
    }

    /// Items of a typed list, such as ServiceList, name no kind of their own.
    fn take_list(&mut self, list: Value, kind: &str, version: &str, key: &ServiceKey) -> anyhow::Result<()> {
        let item_kind = kind.trim_end_matches("List");
        let items = match list.get("items") {
            Some(Value::Array(items)) => items.clone(),
            Some(Value::Null) | None => Vec::new(),
            Some(_) => bail!("{kind}: items is not a list"),
        };
        for mut item in items {
            if let Some(fields) = item.as_object_mut().filter(|_| !item_kind.is_empty()) {
                fields.entry("kind").or_insert_with(|| item_kind.into());
                fields.entry("apiVersion").or_insert_with(|| version.into());
            }
            ensure!(item.get("kind").is_some_and(|k| k != kind), "{kind}: contains another list");
            self.take(item, key)?;
        }
        Ok(())
    }
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    if text.trim_start().starts_with('{') {
        let stream = serde_json::Deserializer::from_str(text).into_iter();
        return Ok(stream.collect::<Result<_, _>>()?);
    }
    let options = serde_saphyr::options! { with_snippet: false };
    Ok(serde_saphyr::from_multiple_with_options(text, options)?)
}

fn parse<T: for<'de> Deserialize<'de>>(object: Value, kind: &str) -> anyhow::Result<T> {
    let name =
        object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("without a name").to_owned();
    // Its message begins with the field, as in `spec.ports: invalid type`.
    serde_path_to_error::deserialize(object).with_context(|| format!("{kind} {name}"))
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let outcome = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_INPUT).read_to_string(&mut text))
    };
    outcome.with_context(|| format!("read {}", path.display()))?;
    ensure!((text.len() as u64) < MAX_INPUT, "{}: larger than {MAX_INPUT} bytes", path.display());
    Ok(text)
}
