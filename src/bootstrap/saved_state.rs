//! The last good state on disk: one file, versioned and checksummed, replaced as a whole.
//!
//! In: a [`LastKnownGood`] to save, and every change of it. Out: the one that was saved before, or why there is none.
//! Whatever is wrong with the file or its folder never stops the daemon: the caller says so once and goes on.
//!
//! The file is a line `apivip state VERSION sha256 HEX` and, below it, JSON that the checksum covers.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::model::sources::LastKnownGood;
use crate::model::types::ServiceKey;
use crate::process::clock::unix_now;

/// Until a write that failed is tried again: a full disk does not recover within seconds.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Name of the file in the state folder.
pub const STATE_FILE: &str = "state";
/// Name of the file while it is written.
pub const NEW_FILE: &str = "state.new";

/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;

/// More than the largest state that is ever written: 32 virtual IPs with 64 apiservers each.
const MAX_BYTES: u64 = 1 << 20;

/// Why there is no last good state, or why it could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is there and cannot be read.
    #[error("read the last good state {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not as it was written.
    #[error("the last good state {} is damaged: {problem}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// Another release wrote it.
    #[error("the last good state {} has version {version}; this apivip supports only version {VERSION}", .path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Another `--service`.
    #[error("the last good state {} belongs to the Service {service}", .path.display())]
    OtherService {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        service: String,
    },
    /// It cannot be written.
    #[error("save the last good state: {step} {}: {source}", .path.display())]
    Unwritable {
        /// What failed.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The file of one Service.
#[derive(Clone, Debug)]
pub struct StateFile {
    folder: PathBuf,
    service: ServiceKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    service: String,
    /// Seconds since 1970.
    written: u64,
    state: LastKnownGood,
}

impl StateFile {
    /// Nothing is opened yet.
    pub fn new(folder: &Path, service: &ServiceKey) -> Self {
        Self { folder: folder.to_owned(), service: service.clone() }
    }

    /// What was kept, or `None` if there is no file.
    ///
    /// # Errors
    /// Why what is there cannot be used.
    pub fn load(&self) -> Result<Option<LastKnownGood>, StateError> {
        let path = self.folder.join(STATE_FILE);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Unreadable { path, source }),
        }
        let document = decode(&bytes).map_err(|invalid| match invalid {
            Invalid::Damaged(problem) => StateError::Damaged { path: path.clone(), problem },
            Invalid::Version(version) => StateError::OtherVersion { path: path.clone(), version },
        })?;
        if document.service != self.service.to_string() {
            return Err(StateError::OtherService { path, service: document.service });
        }
        Ok(Some(document.state))
    }

    /// Keeps `state`, as of `now` in seconds since 1970. After a power cut there is the old file or the new one.
    ///
    /// # Errors
    /// The step that failed. The old file stands then.
    pub fn save(&self, state: &LastKnownGood, now: u64) -> Result<(), StateError> {
        let document = Document { service: self.service.to_string(), written: now, state: state.clone() };
        let (new, path) = (self.folder.join(NEW_FILE), self.folder.join(STATE_FILE));
        let failed = |step, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Unwritable { step, path, source }
        };
        let bytes = encode(&document).map_err(failed("encode", &path))?;
        let missing: Vec<&Path> = self.folder.ancestors().take_while(|folder| !folder.exists()).collect();
        let mut folder = DirBuilder::new();
        folder.recursive(true).mode(0o755).create(&self.folder).map_err(failed("make", &self.folder))?;
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
        if let Err(source) = written {
            // A half-written file would only take space that is short as it is.
            let _ = fs::remove_file(&new);
            return Err(failed("write", &new)(source));
        }
        fs::rename(&new, &path).map_err(failed("replace", &path))?;
        // A name is safe once its folder is, and that of a new folder once the one above it is.
        for made in [path.as_path()].into_iter().chain(missing) {
            let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(above).and_then(|above| above.sync_all()).map_err(failed("sync", above))?;
        }
        Ok(())
    }
}

/// Removes the state from a folder, and the folder if nothing else is in it. Returns what was removed.
///
/// # Errors
/// A file that is there and stays.
pub fn remove(folder: &Path) -> Result<Vec<PathBuf>, StateError> {
    let mut removed = Vec::new();
    for path in [folder.join(STATE_FILE), folder.join(NEW_FILE)] {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(StateError::Unwritable { step: "remove", path, source }),
        }
    }
    if !removed.is_empty() && fs::remove_dir(folder).is_ok() {
        removed.push(folder.to_owned());
    }
    Ok(removed)
}

enum Invalid {
    Damaged(&'static str),
    Version(u32),
}

fn encode(document: &Document) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(document)?;
    let mut bytes = format!("apivip state {VERSION} sha256 {}\n", checksum(&body)).into_bytes();
    bytes.extend(body);
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Document, Invalid> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Invalid::Damaged("it is larger than the maximum size"));
    }
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(Invalid::Damaged("it is truncated"))?;
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head = std::str::from_utf8(head).unwrap_or_default();
    let rest = head.strip_prefix("apivip state ").ok_or(Invalid::Damaged("it does not begin as expected"))?;
    let (version, rest) = rest.split_once(' ').ok_or(Invalid::Damaged("its first line is truncated"))?;
    match version.parse() {
        Ok(VERSION) => {}
        Ok(version) => return Err(Invalid::Version(version)),
        Err(_) => return Err(Invalid::Damaged("its version is not a number")),
    }
    if rest != format!("sha256 {}", checksum(body)) {
        return Err(Invalid::Damaged("its checksum is wrong"));
    }
    serde_json::from_slice(body).map_err(|_| Invalid::Damaged("it has unexpected content"))
}

fn checksum(body: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest(&SHA256, body).as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Writes whatever comes through `good` and differs from `saved`, which is in the file already, until `good` closes
/// and its last value was seen to. A failure is logged when it begins and when it changes.
pub async fn save_changes(
    file: StateFile,
    mut saved: Option<LastKnownGood>,
    mut good: watch::Receiver<LastKnownGood>,
) {
    let mut failure: Option<String> = None;
    good.mark_changed();
    loop {
        let changed = good.changed();
        let open = match &failure {
            // Once in a while without a change, too.
            Some(_) => timeout(RETRY_INTERVAL, changed).await.unwrap_or(Ok(())),
            None => changed.await,
        };
        if open.is_err() {
            return;
        }
        let latest = good.borrow_and_update().clone();
        if latest.frontends.is_empty() || saved.as_ref() == Some(&latest) {
            failure = None;
            continue;
        }
        match write_blocking(&file, latest.clone()).await {
            Ok(()) => {
                if failure.take().is_some() {
                    tracing::info!(event = %"saved_state_write_recovered", "State is saved again");
                }
                saved = Some(latest);
            }
            Err(error) => {
                if failure.as_ref() != Some(&error) {
                    tracing::warn!(
                        event = %"saved_state_write_failed", error,
                        "Failed to save state, next start uses the earlier state"
                    );
                }
                failure = Some(error);
            }
        }
    }
}

/// On a thread of its own: a disk can take seconds.
async fn write_blocking(file: &StateFile, state: LastKnownGood) -> Result<(), String> {
    let file = file.clone();
    let written = tokio::task::spawn_blocking(move || file.save(&state, unix_now()));
    match written.await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
