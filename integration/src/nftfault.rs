//! Faults of nf_tables in one daemon: a library that stands between it and its netlink socket, and the file that says
//! which fault there is. `integration/faults/nftfault.c` says what each one does.
//! In: a folder of the test, and a [`Fault`] whenever the test wants. Out: options that load the library into a daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::daemon::DaemonOptions;

const SOURCE: &str = include_str!("../faults/nftfault.c");

/// What nf_tables does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every request is refused for want of CAP_NET_ADMIN.
    NotPermitted,
    /// The kernel has no NAT: a batch with such a chain or rule is refused with ENOENT.
    NoChainType,
    /// The kernel has no nf_tables: batches are refused with EOPNOTSUPP.
    NoSubsystem,
    /// The kernel has no owners that a table outlives: a batch with such a table is refused with EOPNOTSUPP.
    NoOwner,
    /// Batches are refused with ENOMEM.
    Failing,
    /// Batches wait for as long as the fault lasts.
    Hanging,
    /// No socket of netfilter's netlink family can be opened; those that are open work on.
    NoSocket,
    /// Nobody may listen to changes of nf_tables.
    Deaf,
    /// Each table is listed as a flowtable, too, as on a kernel that has some.
    Flowtables,
}

impl Fault {
    /// Those that refuse what the daemon sends, at once.
    pub const REFUSALS: [Self; 4] = [Self::NotPermitted, Self::NoChainType, Self::NoSubsystem, Self::Failing];

    /// The word of the control file.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotPermitted => "eperm",
            Self::NoChainType => "nochain",
            Self::NoSubsystem => "nosupport",
            Self::NoOwner => "noowner",
            Self::Failing => "fail",
            Self::Hanging => "hang",
            Self::NoSocket => "refuse-open",
            Self::Deaf => "deaf",
            Self::Flowtables => "flowtable",
        }
    }

    /// What the operating system calls the error.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::NotPermitted | Self::Deaf => Some("Operation not permitted"),
            Self::NoChainType => Some("No such file or directory"),
            Self::NoSubsystem => Some("Operation not supported"),
            Self::Failing => Some("Cannot allocate memory"),
            Self::NoOwner | Self::Hanging | Self::Flowtables => None,
            Self::NoSocket => Some("Protocol not supported"),
        }
    }
}

/// The library and its control file. No fault stands at first.
#[derive(Debug)]
pub struct NftFault {
    library: PathBuf,
    control: PathBuf,
}

impl NftFault {
    /// Builds the library in a folder.
    pub fn build(folder: &Path) -> Result<Self> {
        let (library, control) = (folder.join("nftfault.so"), folder.join("nftfault"));
        let mut gcc = Command::new("gcc");
        gcc.args(["-x", "c", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
        gcc.arg(&library).arg("-");
        command::run(gcc, SOURCE)
            .context("build the library of faults (Debian packages gcc, libc6-dev, linux-libc-dev)")?;
        Ok(Self { library, control })
    }

    /// The environment of a program that the faults are to concern.
    pub fn environment(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.display().to_string();
        [("LD_PRELOAD".to_owned(), text(&self.library)), ("NFTFAULT".to_owned(), text(&self.control))]
    }

    /// These options, with the library in the daemon.
    #[must_use]
    pub fn in_daemon(&self, mut options: DaemonOptions) -> DaemonOptions {
        options.environment.extend(self.environment());
        options
    }

    /// Lets a fault begin. It holds from the next transaction on.
    pub fn set(&self, fault: Fault) -> Result<()> {
        self.write(fault.word())
    }

    /// Ends it.
    pub fn clear(&self) -> Result<()> {
        self.write("")
    }

    /// What met a fault so far, oldest first: the fault's word, and `request`, `commit` or `socket`.
    pub fn met(&self) -> Vec<String> {
        let log = fs::read_to_string(self.control.with_extension("met")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Renamed into place: whoever reads it while it is written must not see an empty file.
    fn write(&self, word: &str) -> Result<()> {
        let new = self.control.with_extension("new");
        fs::write(&new, word).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &self.control).with_context(|| format!("write {}", self.control.display()))
    }
}
