//! The real control plane: etcd and kube-apiservers, one apiserver per apiserver namespace of a lab.
//! In: a lab and [`RealOptions`]. Out: a [`RealControlPlane`] whose apiservers can be started, stopped, killed and
//! paused, a [`Client`] for what the tests write, and kubeconfigs for the other programs of Kubernetes.
//! `scripts/real-control-plane` provides the programs.

mod apiserver;
mod client;
mod etcd;
pub mod node;
mod objects;
mod programs;
mod signals;
pub mod writing;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use apiserver::PORT;
pub use client::Client;
pub use programs::{cached, version};

use crate::kubeconfig::{self, Kubeconfig};
use crate::lab::{Families, Lab};
use crate::pki::{Authority, Validity};
use crate::process::{Signal, Spawned};
use crate::sim::objects::Port;
use apiserver::Apiserver;

/// Longest until an apiserver is ready. Three of them, started together on two cores, take about 15 s.
const READY_LIMIT: Duration = Duration::from_secs(180);

/// Longest until an apiserver shows another certificate: it looks once a minute.
const SHOWN_LIMIT: Duration = Duration::from_secs(300);

/// How often the Service is written before somebody else must be at work. Each apiserver looks for it every 10 s.
const WRITES: usize = 6;

/// The token of a user who may do everything.
pub const ADMIN_TOKEN: &str = "lab-admin-token";
/// The token of the user `apivip`, who may get, list and watch services and endpointslices in `default`.
pub const APIVIP_TOKEN: &str = "lab-apivip-token";

/// How the control plane is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealOptions {
    /// Who writes the endpoints of the Service `kubernetes`.
    pub endpoints: EndpointsBy,
    /// Apiservers that are stopped serve on for [`SHUTDOWN_DELAY`], say so to new requests, and then end their watches in order.
    pub drains: bool,
}

/// How long an apiserver that drains serves on after it was stopped.
pub const SHUTDOWN_DELAY: Duration = Duration::from_secs(10);

/// Who writes the endpoints of the Service `kubernetes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointsBy {
    /// The apiservers, each keeping a lease of 15 s: the first family of the lab only.
    #[default]
    Apiservers,
    /// The test, with [`Client::publish`].
    Test,
}

/// A running control plane. Dropping it kills all of it.
#[derive(Debug)]
pub struct RealControlPlane<'lab> {
    lab: &'lab Lab,
    authority: Authority,
    token_signing_key: PathBuf,
    apiservers: Vec<Apiserver<'lab>>,
    etcd: Spawned,
}

impl<'lab> RealControlPlane<'lab> {
    /// Starts etcd and every apiserver, and waits until all are ready and user `apivip` may read. In a dual-stack lab
    /// the Service `kubernetes` gets its second virtual IP, which apiservers leave to whoever wants it.
    pub fn start(lab: &'lab Lab, options: RealOptions) -> Result<Self> {
        let authority = Authority::new(lab.dir(), "ca")?;
        let files = apiserver::SharedFiles::write(lab.dir(), &authority)?;
        let (etcd, etcd_url) = etcd::start(lab)?;
        let apiservers = (1..=lab.options().apiservers)
            .map(|i| Apiserver::new(lab, i, &authority, &files, &etcd_url, options))
            .collect::<Result<_>>()?;
        let token_signing_key = files.token_signing_key().to_owned();
        let mut made = Self { lab, authority, token_signing_key, apiservers, etcd };
        for apiserver in &mut made.apiservers {
            apiserver.start()?;
        }
        for i in 1..=lab.options().apiservers {
            made.wait_ready(i)?;
        }
        // Ready servers may still be about to make the namespace `default`, and this Service in it.
        let client = made.client(1);
        made.apiserver(1)?.wait_until("the Service kubernetes to exist", READY_LIMIT, || {
            client.status("GET", objects::KUBERNETES_SERVICE).is_ok_and(|status| status == 200)
        })?;
        for (path, object) in objects::apivip_permissions()? {
            made.client(1).post(path, &object)?;
        }
        if lab.options().families == Families::Dual {
            made.put_service(&lab.vips(), &[Port::new("https", 443)], false)?;
        }
        Ok(made)
    }

    /// The authority that signed the apiservers' certificates.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A client of apiserver `i` that may do everything. It calls from the switch, not through the node.
    pub fn client(&self, i: u8) -> Client<'lab> {
        Client::new(self.lab.fabric(), self.address(i), self.authority.certificate(), ADMIN_TOKEN)
    }

    /// A client of the first apiserver that is ready.
    pub fn writer(&self) -> Result<Client<'lab>> {
        let mut clients = (1..=self.lab.options().apiservers).map(|i| self.client(i));
        clients.find(Client::is_ready).context("no apiserver is ready")
    }

    /// Where apiserver `i` listens, in the lab's first family.
    pub fn address(&self, i: u8) -> SocketAddr {
        SocketAddr::new(self.lab.apiserver_addresses(i)[0], PORT)
    }

    /// Writes a kubeconfig that names apiserver `i` and user `apivip`, and returns its path.
    pub fn kubeconfig(&self, i: u8) -> Result<PathBuf> {
        let path = self.lab.dir().join(format!("kubeconfig-{i}.yaml"));
        let authority = kubeconfig::Authority::Inline(self.authority.pem().to_owned());
        let user = kubeconfig::User::Token(APIVIP_TOKEN.to_owned());
        Kubeconfig::new(format!("https://{}", self.address(i)), authority, user).write(&path)?;
        Ok(path)
    }

    /// Writes a kubeconfig that names this server and a user with a client certificate, and returns its path. Apiservers know
    /// `system:kube-controller-manager`, `system:kube-scheduler`, and `system:node:NAME` in the group `system:nodes`.
    pub fn kubeconfig_of(&self, user: &str, groups: &[&str], server: SocketAddr) -> Result<PathBuf> {
        let name = user.replace(':', "-");
        let path = self.lab.dir().join(format!("{name}.kubeconfig"));
        let authority = kubeconfig::Authority::Inline(self.authority.pem().to_owned());
        let user = kubeconfig::User::Files(self.authority.client(&name, user, groups, Validity::Now)?);
        Kubeconfig::new(format!("https://{server}"), authority, user).write(&path)?;
        Ok(path)
    }

    /// The file with the key that signs tokens of service accounts, which a kube-controller-manager asks for.
    pub fn token_signing_key(&self) -> &Path {
        &self.token_signing_key
    }

    /// Starts apiserver `i` after a stop or kill, without waiting for it to be ready.
    pub fn start_apiserver(&mut self, i: u8) -> Result<()> {
        self.apiserver(i)?.start()
    }

    /// Stops apiserver `i` with SIGTERM, upon which it takes itself out of the endpoints, and waits for its end.
    pub fn stop_apiserver(&mut self, i: u8) -> Result<()> {
        self.apiserver(i)?.stop()
    }

    /// Kills these apiservers with SIGKILL and waits until they are gone. None answers any more when the first one dies.
    pub fn kill_apiservers(&mut self, numbers: &[u8]) -> Result<()> {
        numbers.iter().try_for_each(|i| self.apiserver(*i)?.signal(Signal::STOP))?;
        numbers.iter().try_for_each(|i| self.apiserver(*i)?.kill())
    }

    /// The process of apiserver `i`.
    pub fn apiserver_pid(&mut self, i: u8) -> Result<u32> {
        self.apiserver(i)?.pid().with_context(|| format!("apiserver {i} does not run"))
    }

    /// Waits until apiserver `i` answers `/readyz` with 200.
    pub fn wait_ready(&mut self, i: u8) -> Result<()> {
        let client = self.client(i);
        self.apiserver(i)?.wait_until("/readyz to be ok", READY_LIMIT, || client.is_ready())
    }

    /// Waits until the EndpointSlices of the Service `kubernetes` hold these, whatever their order.
    pub fn wait_for_endpoints(&self, expected: &[SocketAddr], limit: Duration) -> Result<()> {
        let mut expected = expected.to_vec();
        expected.sort();
        let deadline = Instant::now() + limit;
        loop {
            let mut last = self.endpoints();
            if let Ok(addresses) = &mut last {
                addresses.sort();
                if *addresses == expected {
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                bail!("the endpoints did not become {expected:?} within {limit:?}, last seen: {last:?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What the EndpointSlices of the Service `kubernetes` hold, from the first apiserver that answers.
    pub fn endpoints(&self) -> Result<Vec<SocketAddr>> {
        let path = format!("{}?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes", objects::SLICES);
        let mut last = None;
        for i in 1..=self.lab.options().apiservers {
            match self.client(i).get(&path) {
                Ok(list) => return objects::slice_addresses(&list),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("a lab without apiservers")?)
    }

    /// Where the requests of user `user` to apiserver `i` came from, as its audit log has it, oldest first.
    pub fn audit_source_ips(&self, i: u8, user: &str) -> Result<Vec<String>> {
        let events = self.audit_log(i)?;
        let by_user = events.iter().filter(|event| event["user"]["username"] == user);
        let addresses = by_user.filter_map(|event| event["sourceIPs"][0].as_str());
        Ok(addresses.map(str::to_owned).collect())
    }

    /// Every finished request of apiserver `i`, as `audit.k8s.io/v1` events, oldest first.
    pub fn audit_log(&self, i: u8) -> Result<Vec<Value>> {
        let index = usize::from(i).checked_sub(1);
        let apiserver = index.and_then(|index| self.apiservers.get(index));
        apiserver.with_context(|| format!("there is no apiserver {i}"))?.audit_log()
    }

    /// Makes the Service `kubernetes` have these virtual IPs and ports. As it keeps its first virtual IP for life, one that has
    /// another is deleted first.
    pub fn put_service(&self, vips: &[IpAddr], ports: &[Port], affinity: bool) -> Result<()> {
        let client = self.writer()?;
        let service = objects::kubernetes_service(vips, ports, affinity);
        let mut refused = None;
        for _ in 0..WRITES {
            if client.status("GET", objects::KUBERNETES_SERVICE)? == 404 {
                match client.post(objects::SERVICES, &service) {
                    Ok(_) => return Ok(()),
                    // An apiserver may have written its own meanwhile.
                    Err(error) => refused = Some(error),
                }
            } else if client.get(objects::KUBERNETES_SERVICE)?["spec"]["clusterIP"]
                == service["spec"]["clusterIP"]
            {
                return client.patch(objects::KUBERNETES_SERVICE, &service).map(drop);
            } else {
                self.delete_service()?;
            }
        }
        Err(refused.context("the apiservers wrote the Service again and again")?)
    }

    /// Gives these apiservers other certificates, of another authority, and waits until they show them. They look for
    /// them once a minute. Everybody who asks for the test, and the apiservers themselves, trusts both authorities then.
    pub fn show_certificates(&mut self, numbers: &[u8], authority: &Authority) -> Result<()> {
        let both = format!("{}{}", self.authority.pem(), authority.pem());
        std::fs::write(self.authority.certificate(), both).context("trust both authorities")?;
        for i in numbers {
            self.apiserver(*i)?.certify(authority)?;
        }
        for i in numbers {
            let client =
                Client::new(self.lab.fabric(), self.address(*i), authority.certificate(), ADMIN_TOKEN);
            self.apiserver(*i)?.wait_until("another certificate", SHOWN_LIMIT, || client.is_ready())?;
        }
        Ok(())
    }

    /// Deletes the Service `kubernetes`.
    pub fn delete_service(&self) -> Result<()> {
        self.writer()?.delete(objects::KUBERNETES_SERVICE).map(drop)
    }

    fn apiserver(&mut self, i: u8) -> Result<&mut Apiserver<'lab>> {
        usize::from(i)
            .checked_sub(1)
            .and_then(|index| self.apiservers.get_mut(index))
            .with_context(|| format!("there is no apiserver {i}"))
    }
}
