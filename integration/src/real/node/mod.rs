//! A real Kubernetes node in a lab: kubelet, containerd and runc, with Pods on the lab's bridge.
//! In: a lab and a control plane. Out: a [`Node`] whose Pods come and go as the API says; dropping it ends all of them, and so
//! does the end of the test, however it comes.

pub mod arm;
pub mod asking;
pub mod cluster;
mod containerd;
pub mod controllers;
pub mod image;
pub mod install;
pub mod kube_proxy;
mod kubelet;
pub mod leases;
mod sandbox;
pub mod services;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::process::Spawned;
use sandbox::Sandbox;

pub use image::Image;
pub use kubelet::MANIFESTS;
pub use sandbox::hierarchies;

/// The name of the node in the API.
pub const NAME: &str = "node";

/// A running node.
#[derive(Debug)]
pub struct Node<'lab> {
    lab: &'lab Lab,
    // Ends before the sandbox does, or a test that ends would show that they were killed.
    kubelet: Option<Spawned>,
    containerd: Spawned,
    sandbox: Sandbox,
}

impl<'lab> Node<'lab> {
    /// Starts the container runtime, without a kubelet.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let sandbox = Sandbox::start(lab)?;
        let containerd = containerd::start(lab, &sandbox)?;
        Ok(Self { lab, kubelet: None, containerd, sandbox })
    }

    /// Makes an image known to Pods. Its archive is used up.
    pub fn import(&self, image: Image) -> Result<()> {
        containerd::import(&self.sandbox, &image.write()?)
    }

    /// Starts the kubelet, which registers the node.
    pub fn start_kubelet(&mut self, kubeconfig: &Path, authority: &Path) -> Result<()> {
        self.kubelet = Some(kubelet::start(self.lab, &self.sandbox, NAME, kubeconfig, authority)?);
        Ok(())
    }

    /// Where a file of the node stands for this process. `inside` is absolute.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.sandbox.path(inside)
    }

    /// What the containers of a Pod have written, of a Pod that is named alike in all its lives.
    pub fn pod_log(&self, namespace: &str, pod: &str) -> Result<String> {
        let mut text = String::new();
        let begin = format!("{namespace}_{pod}_");
        for folder in below(&self.path("/var/log/pods"))? {
            if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin)) {
                for file in
                    below(&folder)?.iter().map(|folder| below(folder)).collect::<Result<Vec<_>>>()?.concat()
                {
                    text.push_str(&fs::read_to_string(&file).context("read the log of a container")?);
                }
            }
        }
        Ok(text)
    }

    /// The last words of kubelet and containerd, to be shown with an error.
    pub fn tail(&self) -> String {
        format!("{}{}", self.kubelet.as_ref().map(Spawned::tail).unwrap_or_default(), self.containerd.tail())
    }
}

fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("look into {}", folder.display()))?;
    let mut found = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    found.sort();
    Ok(found)
}

/// PATH with the folder of this program first.
fn path_with(program: &Path) -> Result<OsString> {
    let folder = program.parent().context("a program has a folder")?.to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path))).context("write PATH")
}
