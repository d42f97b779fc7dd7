//! The proxies, each on the node of the same lab in front of the same server.
//! In: which one, and the folder with the packages of the others. Out: where clients dial, and the process that forwards.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use apivip::model::types::Family;
use clap::ValueEnum;
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::lab::{Lab, addresses};
use integration::process::Spawned;
use integration::scenario::Scenario;
use integration::streams::{self, Servers};

const LIMIT: Duration = Duration::from_secs(20);

/// The program between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// `apivip run --mode forwarder`.
    Apivip,
    /// `mode tcp`, one thread.
    Haproxy,
    /// The stream module, one worker.
    Nginx,
}

impl Proxy {
    pub const ALL: [Self; 3] = [Self::Apivip, Self::Haproxy, Self::Nginx];

    pub fn title(self) -> &'static str {
        match self {
            Self::Apivip => "apivip",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// A running proxy, or none.
pub struct Arm<'lab> {
    pub title: &'static str,
    pub target: SocketAddr,
    running: Option<Running<'lab>>,
}

enum Running<'lab> {
    Foreign(Spawned),
    /// Its control plane ends after it.
    Apivip {
        daemon: Daemon,
        _scenario: Box<Scenario<'lab>>,
    },
}

impl<'lab> Arm<'lab> {
    /// No program in between.
    pub fn direct(lab: &Lab) -> Self {
        Self { title: "direct", target: server(lab), running: None }
    }

    /// Starts a proxy.
    pub fn start(proxy: Proxy, lab: &'lab Lab, servers: &Servers, packages: &Path) -> Result<Self> {
        let (target, running) = match proxy {
            Proxy::Apivip => apivip(lab, servers)?,
            Proxy::Haproxy => haproxy(lab, packages)?,
            Proxy::Nginx => nginx(lab, packages)?,
        };
        Ok(Self { title: proxy.title(), target, running: Some(running) })
    }

    /// The process that forwards, if there is one.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| match running {
            Running::Foreign(process) => process.pid(),
            Running::Apivip { daemon, .. } => daemon.pid(),
        })
    }
}

fn server(lab: &Lab) -> SocketAddr {
    SocketAddr::new(lab.apiserver_address(1, Family::V4), streams::PORT)
}

fn on_node(port: u16) -> SocketAddr {
    SocketAddr::new(addresses::node(Family::V4), port)
}

fn apivip<'lab>(lab: &'lab Lab, servers: &Servers) -> Result<(SocketAddr, Running<'lab>)> {
    let mut scenario = Scenario::start(lab, Variant::Simulated, &[1])?;
    servers.publish(&scenario.plane, &[1])?;
    scenario.options = scenario.options.arg("--mode").arg("forwarder");
    let mut daemon = Daemon::spawn(lab.node(), lab.dir(), &scenario.options)?;
    daemon.wait_for_dataplane("forwarder", LIMIT)?;
    let target = SocketAddr::new(lab.vips()[0], streams::SERVICE_PORT);
    Ok((target, Running::Apivip { daemon, _scenario: Box::new(scenario) }))
}

/// As its manual has it for plain TCP: data is spliced where it pays.
fn haproxy<'lab>(lab: &Lab, packages: &Path) -> Result<(SocketAddr, Running<'lab>)> {
    let (target, config) = (on_node(9101), lab.dir().join("haproxy.cfg"));
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4000\n\
         defaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen bench\n  bind {target} backlog 4096\n  server one {}\n",
        server(lab)
    );
    fs::write(&config, text).context("write haproxy's configuration")?;
    let arguments = ["-db".into(), "-f".into(), config.into_os_string()];
    foreign(lab, packages, "haproxy", &arguments, target)
}

fn nginx<'lab>(lab: &Lab, packages: &Path) -> Result<(SocketAddr, Running<'lab>)> {
    let (target, folder) = (on_node(9102), lab.dir());
    let config = folder.join("nginx.conf");
    let text = format!(
        "load_module {}/usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off;\nuser root;\nworker_processes 1;\nworker_rlimit_nofile 16000;\npid {dir}/nginx.pid;\n\
         error_log {dir}/nginx.error;\nevents {{ worker_connections 8000; }}\n\
         stream {{ server {{ listen {target} backlog=4096; proxy_pass {}; proxy_timeout 1h; proxy_half_close on; }} }}\n",
        packages.display(),
        server(lab),
        dir = folder.display()
    );
    fs::write(&config, text).context("write nginx's configuration")?;
    // It looks for its compiled-in error log before it reads the configuration.
    let arguments = ["-e".into(), folder.join("nginx.error").into(), "-c".into(), config.into_os_string()];
    foreign(lab, packages, "nginx", &arguments, target)
}

fn foreign<'lab>(
    lab: &Lab,
    packages: &Path,
    name: &str,
    arguments: &[std::ffi::OsString],
    target: SocketAddr,
) -> Result<(SocketAddr, Running<'lab>)> {
    let mut command = lab.node().command(packages.join("usr/sbin").join(name));
    command.args(arguments);
    command.env("LD_LIBRARY_PATH", packages.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH)));
    let mut process = Spawned::start(name, command, lab.dir())?;
    let port = format!("sport = :{}", target.port());
    process.wait_until("a listening socket", LIMIT, |_| {
        Ok((!lab.node().run("ss", &["-Hltn", &port])?.trim().is_empty()).then_some(()))
    })?;
    Ok((target, Running::Foreign(process)))
}
