//! What this node's files say of its kubelet: its command line, its configuration, the node's name.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::files;
use super::processes::command_lines;
use crate::audit::flags::Flags;
use crate::audit::kubelet::configuration::{Configuration, Known, Lack, merge};
use crate::transport::text::errno_text;

/// kubeadm's place for it, and most others'.
const USUAL: &str = "/var/lib/kubelet/config.yaml";
/// Of a folder of drop-ins, in files.
const MOST_FILES: usize = 64;

/// What was found.
pub(super) struct Found {
    pub configuration: Known,
    /// Of the command line, if it was seen.
    pub flags: Flags,
    /// The Node object's name.
    pub name: String,
}

/// Looks. `file` and `name` are what the operator said.
pub(super) fn find(proc: &Path, file: Option<&Path>, name: Option<String>) -> Found {
    let line = command_line(proc);
    let flags = line.as_ref().map(|line| Flags::read(line)).unwrap_or_default();
    let name = name
        .or_else(|| flags.get("hostname-override").map(str::to_owned))
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .unwrap_or_default();
    let configuration = match line {
        Ok(_) => started(&flags, file).map_or_else(Known::Nothing, Known::All),
        Err(lack) => {
            let usual = file.unwrap_or(Path::new(USUAL));
            match read(usual, None) {
                Ok(configuration) => Known::Files(configuration, lack),
                Err(_) if file.is_none() => Known::Nothing(lack),
                Err(other) => Known::Nothing(other),
            }
        }
    };
    Found { configuration, flags, name: name.trim().to_lowercase() }
}

/// That of the one kubelet.
fn command_line(proc: &Path) -> Result<Vec<String>, Lack> {
    let shown = proc.display();
    let mut found = command_lines(proc, "kubelet").map_err(|error| Lack {
        why: format!("{shown}: {}", errno_text(&error)),
        needed: "the host's /proc: --host-proc DIR".to_owned(),
    })?;
    match (found.pop(), found.len()) {
        (Some(process), 0) => Ok(process.line),
        (None, _) => Err(Lack {
            why: format!("the kubelet's command line is not in {shown}"),
            needed: "hostPID: true in a Pod, or the host's /proc mounted and named by --host-proc; or credentials that may get \
                     nodes/configz or nodes/proxy, to whom the kubelet tells it (also where it is part of another program, \
                     as in k3s)"
                .to_owned(),
        }),
        (Some(_), more) => Err(Lack {
            why: format!("{} kubelets are in {shown}", more + 1),
            needed: "the /proc of one node: --host-proc DIR".to_owned(),
        }),
    }
}

/// The configuration of a kubelet with these flags.
fn started(flags: &Flags, file: Option<&Path>) -> Result<Configuration, Lack> {
    let Some(named) = flags.get("config") else { return Ok(Configuration::by_flags_alone().with(flags)) };
    let mut set = read(file.unwrap_or(Path::new(named)), flags.get("config-dir").map(Path::new))?.with(flags);
    set.source.push_str(" and its command line");
    Ok(set)
}

/// Reads a file, and those of a folder above it.
fn read(file: &Path, folder: Option<&Path>) -> Result<Configuration, Lack> {
    let mut value = parsed(file)?;
    let mut source = file.display().to_string();
    if let Some(folder) = folder {
        for above in drop_ins(folder).map_err(|error| lack(folder, &errno_text(&error)))? {
            merge(&mut value, parsed(&above)?);
        }
        source = format!("{source}, {}", folder.display());
    }
    Configuration::read(&value, source).map_err(|error| lack(file, &error))
}

/// The kubelet takes those whose names end so, in the order of their names.
fn drop_ins(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "conf") {
            all.push(path);
        }
    }
    all.sort();
    if all.len() > MOST_FILES {
        return Err(io::Error::other(format!("more than {MOST_FILES} files")));
    }
    Ok(all)
}

fn parsed(path: &Path) -> Result<Value, Lack> {
    files::read(path).map_err(|why| lack(path, &why))
}

fn lack(path: &Path, why: &str) -> Lack {
    let path = path.display();
    Lack {
        why: format!("{path}: {why}"),
        needed: format!("{path} readable; in a Pod mounted, and elsewhere named by --kubelet-config"),
    }
}

#[cfg(test)]
mod tests;
