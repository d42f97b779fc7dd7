//! A real systemd as the first process of a lab's node, with a unit of the daemon.
//! In: a lab and the unit's text. Out: a [`Systemd`] that is asked by `systemctl` and `journalctl`, whose daemon
//! answers like any other. Dropping it ends all of it.
//!
//! The namespaces of mounts, processes, names and cgroups are its own, and so is every folder that something is written to:
//! of the machine, systemd sees the programs, and nothing that it could change.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command;
use crate::container::child;
use crate::daemon::ask_status;
use crate::lab::Lab;
use crate::process::Spawned;

/// The name of the unit.
pub const UNIT: &str = "apivip.service";

/// A start of systemd itself takes 0.3 s.
const LIMIT: Duration = Duration::from_secs(60);
/// What a failure shows of the journal.
const TAIL_LINES: usize = 60;

/// How the stage is set. `$0` is a folder with the units, `$1` the daemon's program, `$2` the cgroup's
/// name. A tmpfs hides what it is mounted on, so what is copied from the machine comes first.
const STAGE: &str = r#"
mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mkdir /run/cgroup /run/units
mount -t cgroup2 none /run/cgroup
mkdir "/run/cgroup/$2"
echo $$ >"/run/cgroup/$2/cgroup.procs"
umount /run/cgroup
for unit in sysinit.target basic.target sockets.target shutdown.target umount.target network-online.target \
    systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
    cp "/lib/systemd/system/$unit" /run/units/
done
cp -r "$0/units/." /run/units/
mount -t tmpfs -o mode=755 etc /mnt
cp -a /etc/. /mnt/
mkdir /mnt/apivip
echo 0123456789abcdef0123456789abcdef >/mnt/new-id
mv -f /mnt/new-id /mnt/machine-id
mount --move /mnt /etc
mount -t tmpfs -o mode=755 bin /usr/local/bin
touch /usr/local/bin/apivip
mount --bind "$1" /usr/local/bin/apivip
mount -t tmpfs -o mode=755 dev /mnt
mkdir /mnt/net /mnt/shm
for device in null zero full random urandom tty ptmx net/tun; do
    touch "/mnt/$device"
    mount --bind "/dev/$device" "/mnt/$device"
done
ln -s null /mnt/kmsg
mount --move /mnt /dev
for folder in /var/lib /var/log /var/tmp /tmp; do mount -t tmpfs -o mode=1777 own "$folder"; done
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
exec unshare --cgroup sh -e -c '
    mount -t cgroup2 none /sys/fs/cgroup
    exec env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=lab SYSTEMD_UNIT_PATH=/run/units \
        /lib/systemd/systemd --system --unit=lab.target --show-status=no'
"#;

const TARGET: &str = "[Unit]\nRequires=systemd-journald.service\nWants=apivip.service\n";

/// A running systemd.
#[derive(Debug)]
pub struct Systemd<'lab> {
    lab: &'lab Lab,
    first: u32,
    cgroup: String,
    unshare: Option<Spawned>,
}

impl<'lab> Systemd<'lab> {
    /// Starts it on the lab's node with this unit and this drop-in, and does not wait for the daemon. `/etc/apivip` is there,
    /// and empty.
    pub fn start(lab: &'lab Lab, unit: &str, drop_in: &str) -> Result<Self> {
        let folder = lab.dir().join("systemd");
        let units = folder.join("units");
        fs::create_dir_all(units.join(format!("{UNIT}.d"))).context("make the folder of the units")?;
        for (name, text) in [(UNIT, unit), ("lab.target", TARGET), (&format!("{UNIT}.d/lab.conf"), drop_in)] {
            fs::write(units.join(name), text).with_context(|| format!("write {name}"))?;
        }
        let cgroup = format!("{}-systemd", lab.node().name());
        let mut command = lab.node().command("unshare");
        command.args(["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-e", "-c", STAGE]).arg(&folder).arg(command::program("apivip")?).arg(&cgroup);
        let mut unshare = Spawned::start("systemd", command, lab.dir())?;
        let first = child(&mut unshare)?;
        let mut systemd = Self { lab, first, cgroup, unshare: Some(unshare) };
        systemd.wait_until("systemd", |systemd| {
            let name = fs::read_to_string(format!("/proc/{first}/comm")).unwrap_or_default();
            Ok((name.trim() == "systemd" && systemd.run("systemctl show --property Version").is_ok())
                .then_some(()))
        })?;
        Ok(systemd)
    }

    /// A program inside, as root's shell there would start it.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--pid", "--net", "--uts", "--ipc"]);
        command.args(["--cgroup", "--wd=/"]).args(words.split(' '));
        command
    }

    /// Runs it to its end, and returns what it printed. Fails when the program does.
    pub fn run(&self, words: &str) -> Result<String> {
        command::run(self.command(words), "")
    }

    /// Properties of the daemon's unit, by name.
    pub fn shows(&self, name: &str) -> Result<String> {
        let value = self.run(&format!("systemctl show --value --property {name} {UNIT}"))?;
        Ok(value.trim_end().to_owned())
    }

    /// What the journal has of the unit, one object for each line.
    pub fn journal(&self) -> Result<Vec<Value>> {
        let text = self.run(&format!("journalctl --quiet --output json --unit {UNIT}"))?;
        text.lines().map(|line| serde_json::from_str(line).context("read the journal")).collect()
    }

    /// The same as text.
    pub fn journal_text(&self) -> String {
        let text = self.run("journalctl --quiet --no-pager");
        text.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// The path, seen from outside, of one inside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.first))
    }

    /// The id of the daemon outside, while one runs.
    pub fn daemon(&self) -> Result<Option<u32>> {
        let path = self.path(&format!("/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs"));
        let listed = fs::read_to_string(path).unwrap_or_default();
        let ids: Vec<&str> = listed.lines().collect();
        ensure!(ids.len() < 2, "the unit has more than one process: {ids:?}");
        ids.first().map(|id| id.parse().context("read the daemon's id")).transpose()
    }

    /// What the daemon says of itself.
    pub fn status(&self) -> Result<Value> {
        ask_status(&command::program("apivip")?, &self.path("/run/apivip"))
    }

    /// Waits until the status is as `wanted` says; `what` names that in an error.
    pub fn wait_for_status(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait_until(what, |systemd| Ok(systemd.status().ok().filter(|status| wanted(status))))
    }

    /// Asks `question` until it answers `Some`.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        mut question: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(answer) = question(self)? {
                return Ok(answer);
            }
            if let Some(unshare) = &mut self.unshare
                && let Some(status) = unshare.exited()?
            {
                bail!("systemd ended with {status} before {what}\n{}", unshare.tail());
            }
            if Instant::now() >= deadline {
                let journal = self.journal_text();
                let lines: Vec<&str> = journal.lines().collect();
                let last = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
                bail!("no sign of {what}; the journal's last lines are\n{last}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Systemd<'_> {
    fn drop(&mut self) {
        // With the first process of their namespace all others end.
        self.unshare = None;
        let script = format!(
            "mkdir {0} && mount -t cgroup2 none {0} && for i in $(seq 500); do [ -d {0}/{1} ] || exit 0
             find {0}/{1} -depth -type d -exec rmdir {{}} + 2>/dev/null || sleep 0.02; done; [ ! -d {0}/{1} ]",
            self.lab.dir().join("cgroups").display(),
            self.cgroup
        );
        if let Err(error) = self.lab.node().run("sh", &["-c", &script]) {
            eprintln!("remove the cgroups of systemd: {error:#}");
        }
    }
}
