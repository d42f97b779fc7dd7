//! Everything that the daemon works with: the lab, the API servers in it, and clients.
//! In: which API servers are published. Out: what clients got, and what the API servers saw.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use apivip::model::types::Family;
use integration::command::{self, COMMAND_LIMIT, Finished};
use integration::kubeconfig::{Authority as Verify, Kubeconfig, User};
use integration::lab::{Lab, LabOptions, addresses};
use integration::netns::Namespace;
use integration::pki::Authority;
use integration::process::Spawned;
use integration::sim::access_log::{Entry, What};
use integration::sim::fleet::{API_PORT, Fleet, TOKEN};
use integration::sim::objects::{self, Port};

/// What clients dial.
pub(crate) const VIP: &str = "10.96.0.1:443";
/// How long the load lasts, and when an API server is removed, in seconds.
pub(crate) const SECONDS: u32 = 6;
pub(crate) const REMOVED_AFTER: u32 = 3;
/// New connections per second.
const RATE: &str = "100";
/// Longest until the first of them is established. It takes some milliseconds.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The lab and its API servers. Dropping it removes everything.
pub(crate) struct Stage {
    fleet: Fleet,
    authority: Authority,
    pub(crate) kubeconfig: PathBuf,
    // Declared last: the API servers end before their namespaces.
    pub(crate) lab: Lab,
}

impl Stage {
    /// Makes the lab and starts three API servers that publish themselves.
    pub(crate) fn build() -> Result<Self> {
        let lab = Lab::start(LabOptions { apiservers: 3, ..LabOptions::default() })?;
        let authority = Authority::new(lab.dir(), "ca")?;
        let fleet = Fleet::start(&lab, &authority)?;
        let kubeconfig = lab.dir().join("kubeconfig");
        let server = format!("https://{}:{API_PORT}", lab.apiserver_address(1, Family::V4));
        let verify = Verify::File(authority.certificate().to_owned());
        Kubeconfig::new(server, verify, User::Token(TOKEN.to_owned())).write(&kubeconfig)?;
        let service = objects::service(&[addresses::VIP_V4.into()], &[Port::new("https", 443)], false);
        fleet.put(&service)?;
        let stage = Self { fleet, authority, kubeconfig, lab };
        stage.publish(&[1, 2, 3])?;
        Ok(stage)
    }

    /// Writes the EndpointSlice with these API servers, as the API servers themselves do when one comes or goes.
    pub(crate) fn publish(&self, apiservers: &[u8]) -> Result<()> {
        let backends: Vec<IpAddr> =
            apiservers.iter().map(|i| self.lab.apiserver_address(*i, Family::V4)).collect();
        objects::endpoint_slices(&backends, &[Port::new("https", API_PORT)])
            .iter()
            .try_for_each(|slice| self.fleet.put(slice))
    }

    /// Requests the API's version through the virtual IP from a namespace. `name` marks the request in the access log.
    pub(crate) fn request(&self, from: &Namespace, name: &str) -> Result<Finished> {
        let mut curl = from.command("curl");
        curl.args(["--silent", "--show-error", "--max-time", "3", "--user-agent", name])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--cacert"])
            .arg(self.authority.certificate())
            .arg(format!("https://{VIP}/version"));
        command::finish(curl, "", COMMAND_LIMIT)
    }

    /// Which API server got the request of this name, and the client's address that it saw.
    pub(crate) fn answered_by(&self, name: &str) -> Result<(String, IpAddr)> {
        let matches =
            |entry: &Entry| matches!(&entry.what, What::Request { user_agent, .. } if user_agent == name);
        let found = self.entries()?.into_iter().flatten().find(matches);
        found
            .map(|entry| (entry.server, entry.peer.ip()))
            .with_context(|| format!("no API server logged request {name}"))
    }

    /// Starts a generator of TLS connections in the Pod.
    pub(crate) fn start_load(&self) -> Result<Spawned> {
        let mut load = self.lab.pod(1).command(command::program("load")?);
        load.args(["--kind", "tls", "--token", TOKEN, "--target", VIP, "--rate", RATE])
            .args(["--duration", &SECONDS.to_string(), "--ca"])
            .arg(self.authority.certificate());
        let mut load = Spawned::start("load", load, self.lab.dir())?;
        load.wait_for_line("started", START_LIMIT)?;
        Ok(load)
    }

    /// New connections that each API server accepted in each second after `begin`.
    pub(crate) fn connections_by_second(&self, begin: u64) -> Result<Vec<[u32; 3]>> {
        let mut seconds = vec![[0; 3]; SECONDS as usize + 1];
        for (server, entries) in self.entries()?.iter().enumerate() {
            for entry in
                entries.iter().filter(|entry| entry.what == What::Connection && entry.time_us >= begin)
            {
                let second = usize::try_from((entry.time_us - begin) / 1_000_000)?;
                if let Some(count) = seconds.get_mut(second).and_then(|counts| counts.get_mut(server)) {
                    *count += 1;
                }
            }
        }
        Ok(seconds)
    }

    fn entries(&self) -> Result<Vec<Vec<Entry>>> {
        (1..=3).map(|i| self.fleet.access_log(i)).collect()
    }
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
