//! Network namespaces that clean up after themselves.
//! In: a role such as `node`. Out: a [`Namespace`] in which commands run; dropping it ends what still runs inside
//! and deletes it. Everything is done with the `ip` program, as root.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{self, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::command;

/// How the name of a lab's folder begins; the pid of its owner follows.
pub(crate) const FOLDER_PREFIX: &str = "apivip-lab-";

/// Waits for the end of this process, `$0`, and then ends what it left and deletes its namespaces and the folders of its labs
/// below `$1`.
const GUARD: &str = r#"
cat >/dev/null
for name in $(ls /run/netns | grep "^apivip-$0-"); do
    for attempt in 1 2 3 4 5; do
        pids=$(ip netns pids "$name")
        [ -n "$pids" ] || break
        kill -KILL $pids
        sleep 0.1
    done
    ip netns delete "$name"
done
rm -rf "$1-$0-"*
"#;

static NUMBER: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();
/// What the guard reads. It ends with this process, however that ends.
static GUARDED: OnceLock<ChildStdin> = OnceLock::new();

/// A network namespace named `apivip-PID-NUMBER-ROLE`.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one namespace.
    pub fn create(role: &str) -> Result<Self> {
        Self::create_all(&[role])?.pop().context("make a network namespace")
    }

    /// Makes one namespace per role, in that order. They share a number, so that one lab's namespaces are seen to
    /// belong together. The first call of a process also sees to it that all of it ends with the process, even if that is killed,
    /// and deletes what dead processes left behind nevertheless.
    pub fn create_all<S: AsRef<str>>(roles: &[S]) -> Result<Vec<Self>> {
        require_root()?;
        let mut swept = Ok(());
        SWEPT.call_once(|| swept = sweep_stale().and_then(|()| guard()));
        swept?;
        let prefix = format!("apivip-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let made: Vec<Self> =
            roles.iter().map(|role| Self { name: format!("{prefix}-{}", role.as_ref()) }).collect();
        // `made` exists before the command, so a batch that fails halfway is still cleaned up.
        ip_batch(&made.iter().map(|ns| format!("netns add {}\n", ns.name)).collect::<String>())?;
        Ok(made)
    }

    /// The name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside. `ip netns exec` replaces itself by the program, so that the child's pid is the
    /// program's own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_behind(&[], program)
    }

    /// The same, started by the words of `wrapper`, which must become the program in turn. The last lines that it says are
    /// shown where it fails: a backtrace would leave no room for the error.
    pub fn command_behind(&self, wrapper: &[String], program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(wrapper).arg(program);
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Runs a program inside to its end and returns what it printed. Fails when the program does.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments);
        command::run(command, "")
    }

    /// Calls `work` on a thread of its own inside. Sockets that it makes stay inside wherever they are used.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = fs::File::open(Path::new("/run/netns").join(&self.name))
            .with_context(|| format!("open the namespace {}", self.name))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("enter the namespace {}", self.name))?;
                work()
            });
            inside.join().map_err(|_| anyhow!("a thread inside of {} panicked", self.name))?
        })
    }

    /// Runs lines of `ip` commands (without the leading `ip`) inside, as one process.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        command::run(command, lines).with_context(|| format!("commands were:\n{lines}"))?;
        Ok(())
    }

    /// Sets one sysctl inside, named with slashes or dots, for instance `net.ipv4.ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.sysctls(&[(key, value)])
    }

    /// Sets several sysctls inside, as one process. A name with slashes may hold an interface name with dots.
    pub fn sysctls<K: AsRef<str>, V: AsRef<str>>(&self, settings: &[(K, V)]) -> Result<()> {
        // The files under /proc/sys/net show the namespace of whoever opens them.
        let script: String = settings
            .iter()
            .map(|(key, value)| {
                let key = key.as_ref();
                let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
                format!("echo '{}' > /proc/sys/{path}\n", value.as_ref())
            })
            .collect();
        self.run("sh", &["-e", "-c", &script]).context("set sysctls")?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            eprintln!("{error:#}");
        }
    }
}

/// Fails with a sentence unless this process may make namespaces.
pub fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("this test makes network namespaces and must run as root: use sudo, or scripts/test");
    }
    if let Err(error) = Command::new("ip").arg("-V").output() {
        bail!("this test needs the program `ip` (Debian package iproute2): {error}");
    }
    Ok(())
}

/// Runs lines of `ip` commands in the machine's own namespace. Only for making namespaces, and links whose both
/// ends lie in them.
pub(crate) fn ip_batch(lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]);
    command::run(command, lines).with_context(|| format!("commands were:\n{lines}"))?;
    Ok(())
}

fn guard() -> Result<()> {
    // In a session of its own: what interrupts the test from a terminal is not to end it before it has cleaned up.
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", GUARD, &process::id().to_string()]);
    command.arg(std::env::temp_dir().join(FOLDER_PREFIX.trim_end_matches('-')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().context("start a guard")?;
    let input = child.stdin.take().context("a pipe has two ends")?;
    GUARDED.set(input).map_err(|_| anyhow!("a process has one guard"))
}

/// Deletes the namespaces, and the folders of labs, that test processes left behind when they were killed together with their
/// guards.
fn sweep_stale() -> Result<()> {
    for name in names_in(Path::new("/run/netns")) {
        if owner_is_dead(&name, "apivip-") {
            delete(&name)?;
        }
    }
    let folders = std::env::temp_dir();
    for name in names_in(&folders) {
        if owner_is_dead(&name, FOLDER_PREFIX) {
            let path = folders.join(name);
            fs::remove_dir_all(&path).with_context(|| format!("delete {}", path.display()))?;
        }
    }
    Ok(())
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Whether `name` is PREFIX, the pid of a process that is gone, a dash and something.
fn owner_is_dead(name: &str, prefix: &str) -> bool {
    let pid = name.strip_prefix(prefix).and_then(|rest| rest.split_once('-'));
    let Some(pid) = pid.and_then(|(pid, _)| pid.parse::<u32>().ok()) else { return false };
    // A zombie has an entry in /proc, but no executable any more.
    fs::read_link(format!("/proc/{pid}/exe")).is_err()
}

/// Ends every process inside and deletes the namespace; one that is gone already is fine.
fn delete(name: &str) -> Result<()> {
    if !Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    let mut pids = Command::new("ip");
    pids.args(["netns", "pids", name]);
    for pid in command::run(pids, "")?.lines().filter_map(|line| line.trim().parse().ok()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let mut delete = Command::new("ip");
    delete.args(["netns", "delete", name]);
    command::run(delete, "")?;
    Ok(())
}
