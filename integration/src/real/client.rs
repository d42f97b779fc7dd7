//! A small client of one apiserver, for what the tests read and write. It runs `curl` in a namespace of the lab.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::objects;
use crate::command;
use crate::netns::Namespace;
use crate::sim::objects::Port;

/// Longest that one call may take. It usually takes 20 ms.
const LIMIT_SECONDS: u32 = 20;

/// A client of one apiserver.
#[derive(Clone, Debug)]
pub struct Client<'lab> {
    from: &'lab Namespace,
    server: SocketAddr,
    authority: PathBuf,
    token: String,
}

impl<'lab> Client<'lab> {
    /// A client that calls `server` from a namespace as the bearer of `token`.
    pub fn new(from: &'lab Namespace, server: SocketAddr, authority: &Path, token: &str) -> Self {
        Self { from, server, authority: authority.to_owned(), token: token.to_owned() }
    }

    /// Reads an object. Paths are those of the API, for instance `/api/v1/namespaces/default/services/kubernetes`.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, None)
    }

    /// Creates an object in the collection at `path`.
    pub fn post(&self, path: &str, object: &Value) -> Result<Value> {
        self.call("POST", path, Some(("application/json", object)))
    }

    /// Replaces or creates the object at `path`.
    pub fn put(&self, path: &str, object: &Value) -> Result<Value> {
        self.call("PUT", path, Some(("application/json", object)))
    }

    /// Changes the object at `path` by a merge patch (RFC 7386).
    pub fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.call("PATCH", path, Some(("application/merge-patch+json", change)))
    }

    /// Deletes the object at `path`.
    pub fn delete(&self, path: &str) -> Result<Value> {
        self.call("DELETE", path, None)
    }

    /// Makes these the endpoints of the Service `kubernetes`: one EndpointSlice per family, where a family without address
    /// has an empty one. For [`super::EndpointsBy::Test`].
    pub fn publish(&self, addresses: &[IpAddr], ports: &[Port]) -> Result<()> {
        for slice in objects::kubernetes_slices(addresses, ports) {
            let name = slice["metadata"]["name"].as_str().context("name a slice")?;
            let path = format!("{}/{name}", objects::SLICES);
            if self.status("GET", &path)? == 404 {
                self.post(objects::SLICES, &slice)?;
            } else {
                self.put(&path, &slice)?;
            }
        }
        Ok(())
    }

    /// Whether `/readyz` is answered with 200.
    pub fn is_ready(&self) -> bool {
        // Asked again and again, so a server that hangs is not waited for.
        self.exchange("GET", "/readyz", None, 2).is_ok_and(|(status, _)| status == 200)
    }

    /// Calls and returns the status of the answer.
    pub fn status(&self, verb: &str, path: &str) -> Result<u16> {
        Ok(self.exchange(verb, path, None, LIMIT_SECONDS)?.0)
    }

    fn call(&self, verb: &str, path: &str, body: Option<(&str, &Value)>) -> Result<Value> {
        let (status, answer) = self.exchange(verb, path, body, LIMIT_SECONDS)?;
        if !(200..300).contains(&status) {
            bail!("{verb} {path} on {} was answered {status}: {answer}", self.server);
        }
        serde_json::from_str(&answer).with_context(|| format!("parse the answer to {verb} {path}"))
    }

    fn exchange(
        &self,
        verb: &str,
        path: &str,
        body: Option<(&str, &Value)>,
        seconds: u32,
    ) -> Result<(u16, String)> {
        let mut curl = self.from.command("curl");
        curl.args([
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            &seconds.to_string(),
            "-X",
            verb,
            "-w",
            "\n%{http_code}",
        ]);
        curl.arg("--cacert").arg(&self.authority);
        curl.arg("-H").arg(format!("Authorization: Bearer {}", self.token));
        let mut input = String::new();
        if let Some((media_type, object)) = body {
            curl.arg("-H").arg(format!("Content-Type: {media_type}")).args(["--data-binary", "@-"]);
            input = object.to_string();
        }
        curl.arg(format!("https://{}{path}", self.server));
        let output = command::run(curl, &input)?;
        let (answer, status) = output.rsplit_once('\n').context("read curl's status")?;
        Ok((status.parse().context("parse curl's status")?, answer.to_owned()))
    }
}
