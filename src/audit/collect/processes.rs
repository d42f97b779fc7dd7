//! Command lines of the host's processes.

use std::io;
use std::path::{Path, PathBuf};

use crate::audit::flags::is_program;

/// More than any command line of a kube-apiserver, in bytes (`getconf ARG_MAX` is two millions).
const LINE_BYTES: usize = 2 << 20;

/// A process of the host.
pub(crate) struct Process {
    /// Its folder in `/proc`.
    pub folder: PathBuf,
    /// Its command line.
    pub line: Vec<String>,
}

/// Those of `program`, from the `/proc` of the host's pid namespace.
///
/// # Errors
/// The folder cannot be read. A process that ends meanwhile is none.
pub(crate) fn command_lines(proc: &Path, program: &str) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let Ok(entry) = entry else { continue };
        let pid = entry.file_name();
        if !pid.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(bytes) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
        if bytes.len() < LINE_BYTES && is_program(&words, program) {
            found.push(Process { folder: entry.path(), line: words });
        }
    }
    Ok(found)
}
