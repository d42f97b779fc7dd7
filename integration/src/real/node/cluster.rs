//! A whole cluster of one node: apiservers, controllers, and a node that runs Pods.
//! In: a lab whose pods hang on a bridge, and where controllers and kubelet find the API. Out: a [`Cluster`] that `kubectl` talks to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::controllers::{ControllerFiles, Controllers};
use super::{NAME, Node};
use crate::command;
use crate::control_plane::{ControlPlane, SERVICE_PORT};
use crate::kubeconfig::{Authority, Kubeconfig, User};
use crate::lab::{Families, Lab, LabOptions, PodAttachment};
use crate::real::{ADMIN_TOKEN, cached};

/// Longest until something happens that takes several programs. It takes seconds.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The cluster. Dropping it ends all of it but the lab.
#[derive(Debug)]
pub struct Cluster<'lab> {
    /// Its node.
    pub node: Node<'lab>,
    /// What makes and places Pods.
    pub controllers: Controllers<'lab>,
    /// Its apiservers.
    pub plane: ControlPlane<'lab>,
    lab: &'lab Lab,
    admin: PathBuf,
}

/// A lab for a cluster: bridged packets pass netfilter, as on nodes of kubeadm.
pub fn lab(apiservers: u8) -> Result<Lab> {
    let attachment = PodAttachment::Bridged { netfilter: true };
    Lab::start(LabOptions { families: Families::V4, apiservers, attachment, ..LabOptions::default() })
}

impl<'lab> Cluster<'lab> {
    /// Starts controllers beside the apiservers and a kubelet, all of which call apiserver 1, and waits until the node is ready.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let plane = ControlPlane::self_published(lab)?;
        let api = plane.apiservers(1)[0];
        Self::reaching(lab, plane, api, false)
    }

    /// The same for a control plane that runs, with controllers and a kubelet on the node that call the virtual IP. Somebody must
    /// serve it.
    pub fn behind_the_vip(lab: &'lab Lab, plane: ControlPlane<'lab>) -> Result<Self> {
        Self::reaching(lab, plane, SocketAddr::new(lab.vips()[0], SERVICE_PORT), true)
    }

    fn reaching(
        lab: &'lab Lab,
        mut plane: ControlPlane<'lab>,
        api: SocketAddr,
        controllers_on_node: bool,
    ) -> Result<Self> {
        let real = plane.real()?;
        let kubelet = real.kubeconfig_of(&format!("system:node:{NAME}"), &["system:nodes"], api)?;
        let files = ControllerFiles {
            manager: real.kubeconfig_of("system:kube-controller-manager", &[], api)?,
            scheduler: real.kubeconfig_of("system:kube-scheduler", &[], api)?,
            authority: real.authority().certificate().to_owned(),
            signing_key: real.token_signing_key().to_owned(),
        };
        let admin = lab.dir().join("admin.yaml");
        let authority = Authority::File(plane.authority().to_owned());
        let server = format!("https://{}", plane.apiservers(1)[0]);
        Kubeconfig::new(server, authority, User::Token(ADMIN_TOKEN.to_owned())).write(&admin)?;
        let at = if controllers_on_node { lab.node() } else { lab.fabric() };
        let controllers = Controllers::start(lab, at, files)?;
        let mut node = Node::start(lab)?;
        node.start_kubelet(&kubelet, plane.authority())?;
        let mut made = Self { node, controllers, plane, lab, admin };
        made.wait("a node that is ready", &format!("/api/v1/nodes/{NAME}"), |node| {
            condition(node, "Ready") == Some("True")
        })?;
        Ok(made)
    }

    /// Runs `kubectl` with these words as somebody who may do everything, from outside of the node.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.kubectl_reading(words, "")
    }

    /// The same with an input, for `-f -`.
    pub fn kubectl_reading(&self, words: &[&str], input: &str) -> Result<String> {
        let mut kubectl = self.lab.fabric().command(cached("kubectl")?);
        kubectl.arg("--kubeconfig").arg(&self.admin).args(words);
        command::run(kubectl, input)
    }

    /// Waits until the object at a path of the API is as `wanted` says, and returns it; `what` names that in an error.
    pub fn wait(&mut self, what: &str, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = self.plane.real()?.writer().and_then(|client| client.get(path));
            match seen {
                Ok(object) if wanted(&object) => return Ok(object),
                seen if Instant::now() >= deadline => {
                    let (events, tail) = (self.kubectl(&["get", "events", "-A"]), self.node.tail());
                    bail!("no sign of {what} within {PATIENCE:?}: {seen:#?}\n{events:?}\n{tail}");
                }
                _ => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Waits until a Pod has ended, and returns what it wrote. Fails if it failed.
    pub fn outcome(&mut self, namespace: &str, pod: &str) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let ended = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let seen = self.wait(&format!("the end of Pod {pod}"), &path, ended)?;
        let log = self.node.pod_log(namespace, pod)?;
        if seen["status"]["phase"] == "Failed" {
            bail!("Pod {pod} failed: {}\n{log}", seen["status"]);
        }
        Ok(log)
    }
}

/// The status of a condition of an object: `True`, `False` or `Unknown`.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind)?["status"].as_str()
}
