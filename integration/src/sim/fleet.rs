//! One simulated apiserver per apiserver of a lab, run and ordered about together.
//!
//! In: a lab, and which API form it serves. Out: a [`Fleet`] that stores objects in all of its servers, and tells what
//! each of them saw. Its methods block, so that a scenario reads from top to bottom.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::access_log::{self, Entry};
use super::control::Control;
use super::objects::{self, Port};
use super::protocol::Resource;
use crate::command;
use crate::lab::{Lab, addresses};
use crate::pki::Authority;
use crate::process::{Signal, Spawned};

/// The port that apiservers listen on and publish.
pub const API_PORT: u16 = 6443;
/// The port of each server that greets and echoes.
pub const ECHO_PORT: u16 = 7007;
/// The Service's port that leads to [`ECHO_PORT`].
pub const ECHO_SERVICE_PORT: u16 = 7;
/// What a client shows to be let in.
pub const TOKEN: &str = TOKENS[0];
/// All that are accepted, for clients that renew theirs. None is the first half of another.
pub const TOKENS: [&str; 3] = ["lab-token", "renewed-token", "next-token"];

/// How long a server serves on, unready, after SIGTERM. A kube-apiserver without a delay took 60 to 200 ms.
const SHUTDOWN_DELAY_MS: &str = "100";

/// Above the versions of all servers that ran on.
const RESTARTED_AT: u64 = 1_000_000;

/// Longest until a server answers. It usually takes some ten milliseconds.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Running servers, numbered from 1. Dropping it ends them.
#[derive(Debug)]
pub struct Fleet {
    servers: Vec<Server>,
    /// What was stored, by kind and name, for servers that start again.
    stored: Mutex<BTreeMap<(String, String), Value>>,
    runtime: Runtime,
}

#[derive(Debug)]
struct Server {
    control: Control,
    access_log: PathBuf,
    process: Spawned,
    takes_orders: bool,
}

impl Fleet {
    /// Starts the servers, without any object, and waits until they answer.
    pub fn start(lab: &Lab, authority: &Authority) -> Result<Self> {
        let numbers = 1..=lab.options().apiservers;
        let servers = numbers.map(|i| server(lab, authority, i)).collect::<Result<_>>()?;
        let runtime = Runtime::new().context("start the runtime")?;
        let fleet = Self { servers, stored: Mutex::default(), runtime };
        for server in &fleet.servers {
            fleet.runtime.block_on(server.control.wait_ready(START_LIMIT))?;
        }
        Ok(fleet)
    }

    /// Writes the Service with these ports and cluster IPs; none of the latter makes it headless.
    pub fn put_service(&self, vips: &[IpAddr], ports: &[Port], affinity: bool) -> Result<()> {
        self.put(&objects::service(vips, ports, affinity))
    }

    /// Deletes the Service.
    pub fn delete_service(&self) -> Result<()> {
        self.stored().retain(|(kind, _), _| kind != "Service");
        self.on_all(|control| async move {
            control.delete(Resource::Services, objects::NAMESPACE, objects::SERVICE, None).await.map(drop)
        })
    }

    /// Writes one slice per family with these addresses, which is empty where there is none.
    pub fn publish(&self, backends: &[IpAddr], ports: &[Port]) -> Result<()> {
        let of = |v6: bool| backends.iter().copied().filter(|ip| ip.is_ipv6() == v6).collect::<Vec<_>>();
        self.put(&objects::endpoint_slice(objects::SERVICE, "IPv4", &of(false), ports))?;
        self.put(&objects::endpoint_slice("kubernetes-v6", "IPv6", &of(true), ports))
    }

    /// Stores an object in every server.
    pub fn put(&self, object: &Value) -> Result<()> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (word(&object["kind"]), word(&object["metadata"]["name"]));
        self.stored().insert(key, object.clone());
        self.on_all(|control| async move { control.put(object, None).await.map(drop) })
    }

    /// Gives an order to every server that takes orders.
    pub fn on_all<F: Future<Output = Result<()>>>(&self, order: impl Fn(Control) -> F) -> Result<()> {
        let mut servers = self.servers.iter().filter(|server| server.takes_orders);
        servers.try_for_each(|server| self.runtime.block_on(order(server.control.clone())))
    }

    /// Gives an order to server `i`.
    pub fn on<T, F: Future<Output = Result<T>>>(&self, i: u8, order: impl FnOnce(Control) -> F) -> Result<T> {
        self.runtime.block_on(order(self.server(i)?.control.clone()))
    }

    /// Gives an order to each of these servers, to all at once.
    pub fn on_each<F>(&self, numbers: &[u8], order: impl Fn(u8, Control) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let orders = numbers.iter().map(|i| Ok(order(*i, self.server(*i)?.control.clone())));
        let orders: Vec<F> = orders.collect::<Result<_>>()?;
        self.runtime.block_on(async {
            let carried_out = orders.into_iter().collect::<JoinSet<_>>().join_all().await;
            carried_out.into_iter().collect()
        })
    }

    /// What server `i` saw, oldest first.
    pub fn access_log(&self, i: u8) -> Result<Vec<Entry>> {
        access_log::read(&self.server(i)?.access_log)
    }

    /// Stops server `i` from running: its sockets stay open and nothing answers. It misses every later order.
    pub fn pause(&mut self, i: u8) -> Result<()> {
        self.signal(i, Signal::STOP)
    }

    /// Lets server `i` miss what is stored from now on, as one whose watch cache lags behind.
    pub fn lag(&mut self, i: u8) -> Result<()> {
        self.server_mut(i)?.takes_orders = false;
        Ok(())
    }

    /// Ends that: it learns all at once what was stored meanwhile, and its versions are those of the others.
    pub fn catch_up(&mut self, i: u8) -> Result<()> {
        let own = self.server(i)?.control.clone();
        let stored: Vec<Value> = self.stored().values().cloned().collect();
        let others = self.servers.iter().filter(|server| server.takes_orders);
        let others: Vec<Control> = others.map(|server| server.control.clone()).collect();
        self.runtime.block_on(async {
            for object in &stored {
                own.put(object, None).await?;
            }
            let mut version = own.stats().await?.resource_version + 1;
            for other in others {
                version = version.max(other.stats().await?.resource_version);
            }
            own.bump(Some(version)).await
        })?;
        self.server_mut(i)?.takes_orders = true;
        Ok(())
    }

    /// Those of the servers that take orders.
    pub fn listening(&self, numbers: &[u8]) -> Vec<u8> {
        let listens = |i: &u8| self.server(*i).is_ok_and(|server| server.takes_orders);
        numbers.iter().copied().filter(listens).collect()
    }

    /// Kills these servers with SIGKILL and waits until they are gone: until then their sockets are open. None answers any
    /// more when the first one dies.
    pub fn kill(&mut self, numbers: &[u8]) -> Result<()> {
        numbers.iter().try_for_each(|i| self.signal(*i, Signal::STOP))?;
        numbers.iter().try_for_each(|i| self.server_mut(*i)?.process.kill().map(drop))
    }

    /// Lets a paused server run on. It has missed what was stored meanwhile.
    pub fn resume(&mut self, i: u8) -> Result<()> {
        self.signal(i, Signal::CONT)?;
        self.server_mut(i)?.takes_orders = true;
        Ok(())
    }

    /// Stops server `i` as an operator does, with SIGTERM.
    pub fn stop(&mut self, i: u8) -> Result<()> {
        self.signal(i, Signal::TERM)
    }

    /// Whether the process of server `i` has ended.
    pub fn has_ended(&mut self, i: u8) -> Result<bool> {
        Ok(self.server_mut(i)?.process.exited()?.is_some())
    }

    /// Starts server `i` again after its end, with everything that was stored, and waits until it answers. One that was
    /// stopped, and lives on for its watches, is killed first.
    pub fn restart(&mut self, lab: &Lab, authority: &Authority, i: u8) -> Result<()> {
        let old = self.server_mut(i)?;
        old.process.kill()?;
        *old = server(lab, authority, i)?;
        let control = old.control.clone();
        self.runtime.block_on(control.wait_ready(START_LIMIT))?;
        let objects: Vec<Value> = self.stored().values().cloned().collect();
        self.runtime.block_on(async {
            for object in &objects {
                control.put(object, None).await?;
            }
            // A client that comes from another server asks for a version that this one must know.
            control.bump(Some(RESTARTED_AT)).await.map(drop)
        })
    }

    /// Makes every version before the present one too old for server `i`, as a kube-apiserver has it after a start. Not done
    /// with each start: simulated servers share no store, and a client that lists here anew would be ahead of all others.
    pub fn forget_history(&mut self, i: u8) -> Result<()> {
        let control = self.server_mut(i)?.control.clone();
        self.runtime.block_on(control.drop_history()).map(drop)
    }

    fn stored(&self) -> MutexGuard<'_, BTreeMap<(String, String), Value>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&mut self, i: u8, signal: Signal) -> Result<()> {
        let server = self.server_mut(i)?;
        server.takes_orders = false;
        server.process.signal(signal)
    }

    fn server_mut(&mut self, i: u8) -> Result<&mut Server> {
        let server = usize::from(i).checked_sub(1).and_then(|index| self.servers.get_mut(index));
        server.with_context(|| format!("there is no apiserver {i}"))
    }

    fn server(&self, i: u8) -> Result<&Server> {
        let server = usize::from(i).checked_sub(1).and_then(|index| self.servers.get(index));
        server.with_context(|| format!("there is no apiserver {i}"))
    }
}

/// The ports that the Service has.
pub fn service_ports() -> [Port; 2] {
    [Port::new("https", 443), Port::new("echo", ECHO_SERVICE_PORT)]
}

/// The ports that every endpoint has.
pub fn endpoint_ports() -> [Port; 2] {
    [Port::new("https", API_PORT), Port::new("echo", ECHO_PORT)]
}

fn server(lab: &Lab, authority: &Authority, i: u8) -> Result<Server> {
    let own = lab.apiserver_addresses(i);
    let vips = lab.families().iter().map(|family| addresses::vip(*family));
    let names: Vec<IpAddr> = own.iter().copied().chain(vips).collect();
    let files = authority.server(&format!("apiserver-{i}"), &names)?;
    let file = |end: &str| lab.dir().join(format!("apiserver-{i}.{end}"));
    let (control, access_log) = (file("sock"), file("access"));
    let mut command = lab.apiserver(i).command(command::program("sim-apiserver")?);
    command.args(["--name", &format!("apiserver-{i}")]);
    command.args(TOKENS.iter().flat_map(|token| ["--token", token]));
    if lab.options().client_certificates {
        command.arg("--client-ca").arg(authority.certificate());
    }
    command.args(["--shutdown-delay", SHUTDOWN_DELAY_MS]);
    for address in own {
        command.arg("--listen").arg(SocketAddr::new(address, API_PORT).to_string());
        command.arg("--echo").arg(SocketAddr::new(address, ECHO_PORT).to_string());
    }
    command.arg("--cert").arg(&files.certificate).arg("--key").arg(&files.key);
    command.arg("--control").arg(&control).arg("--access-log").arg(&access_log);
    let process = Spawned::start(&format!("apiserver-{i}"), command, lab.dir())?;
    Ok(Server { control: Control::new(control), access_log, process, takes_orders: true })
}
