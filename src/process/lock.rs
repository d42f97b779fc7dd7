//! One daemon per node: a locked file in the run folder that holds the daemon's pid, and the sockets beside it.
//!
//! The kernel drops the lock when the process dies, however it dies.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;

/// Name of the lock file in the run folder.
pub const LOCK_FILE: &str = "lock";
/// Name of the socket in the run folder.
pub const SOCKET_FILE: &str = "apivip.sock";

/// A daemon that stops may wait two seconds for the disk to save its state; the next one waits longer.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another apivip runs on this node: pid {pid} has locked {}", .path.display())]
    Held {
        /// Its pid as it wrote it, or `unknown`.
        pid: String,
        /// The lock file.
        path: PathBuf,
    },
    /// The folder or file cannot be made or locked.
    #[error("lock {}", .path.display())]
    Unusable {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The lock, held until this value is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock in `run_dir`, which is made if it does not exist, and writes this process's pid into it. Waits for a
    /// daemon that stops.
    pub fn take(run_dir: &Path) -> Result<Self, LockError> {
        Self::take_within(run_dir, LOCK_TIMEOUT)
    }

    /// Takes the lock again after it was released. `None`: another process has it, or it cannot be locked.
    pub fn take_back(run_dir: &Path) -> Option<Self> {
        Self::take_within(run_dir, Duration::ZERO).ok()
    }

    fn take_within(run_dir: &Path, limit: Duration) -> Result<Self, LockError> {
        let path = run_dir.join(LOCK_FILE);
        let unusable = |source| LockError::Unusable { path: path.clone(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(run_dir).map_err(unusable)?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(unusable)?;
        let until = Instant::now() + limit;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(RETRY_INTERVAL),
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held { pid: holder(&mut file), path });
                }
                Err(TryLockError::Error(source)) => return Err(unusable(source)),
            }
        }
        file.set_len(0).map_err(unusable)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(unusable)?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays: removing it would let two processes lock two files of the same name.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

/// Binds a socket of the run folder that only root may use. An existing one belongs to a daemon that has ended or released the
/// lock.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    // So it has its name only with the permissions of root alone.
    let unfinished = path.with_extension("new");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished)?;
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&unfinished, path)?;
    Ok(listener)
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(32).read_to_string(&mut text));
    match text.trim().parse::<u32>() {
        Ok(pid) if read.is_ok() => pid.to_string(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_daemon_gets_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        let taken = Lock::take_within(dir.path(), Duration::ZERO);
        let Err(LockError::Held { pid, .. }) = taken else { panic!("taken twice") };
        assert_eq!(pid, std::process::id().to_string());
        thread::scope(|scope| {
            let second = scope.spawn(|| Lock::take(dir.path()));
            thread::sleep(RETRY_INTERVAL * 3);
            drop(first);
            second.join().unwrap().unwrap();
        });
    }

    #[test]
    fn released_lock_is_taken_back_unless_another_process_has_it() {
        let dir = tempfile::tempdir().unwrap();
        drop(Lock::take(dir.path()).unwrap());
        let back = Lock::take_back(dir.path()).unwrap();
        assert!(Lock::take_back(dir.path()).is_none());
        drop(back);
        let _other = Lock::take(dir.path()).unwrap();
        assert!(Lock::take_back(dir.path()).is_none());
    }

    #[tokio::test]
    async fn socket_has_mode_0600_and_replaces_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_FILE);
        let earlier = bind(&path).unwrap();
        let listener = bind(&path).unwrap();
        drop(earlier);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, [SOCKET_FILE]);
        let (_client, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        accepted.unwrap();
    }

    #[test]
    fn unusable_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Lock::take(&file).unwrap_err();
        assert!(error.to_string().contains("file/lock"), "{error}");
    }
}
