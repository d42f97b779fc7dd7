//! What is kept comes back, and nothing else ever does.

use proptest::prelude::*;

use super::*;
use crate::model::snapshot::Affinity;
use crate::model::sources::{LearnedFrom, SavedBackend, SavedFrontend};

fn service() -> ServiceKey {
    "default/kubernetes".parse().unwrap()
}

fn state(last: u8) -> LastKnownGood {
    let backend = |learnt, at| SavedBackend { address: ([192, 0, 2, last], 6443).into(), learnt, at };
    let frontend = SavedFrontend {
        vip: "[fd00:10:96::1]:443".parse().unwrap(),
        port_name: "https".into(),
        affinity: Affinity::ClientIP,
        learnt: LearnedFrom::Published,
        at: 1,
        backends: vec![
            backend(LearnedFrom::Published, 2),
            backend(LearnedFrom::Configured("a.example:6443".into()), 3),
        ],
    };
    LastKnownGood { frontends: vec![frontend] }
}

fn saved() -> (tempfile::TempDir, StateFile, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let file = StateFile::new(&folder.path().join("deep/state"), &service());
    file.save(&state(11), 5).unwrap();
    let bytes = fs::read(folder.path().join("deep/state/state")).unwrap();
    (folder, file, bytes)
}

fn rewrite(folder: &tempfile::TempDir, bytes: &[u8]) {
    fs::write(folder.path().join("deep/state/state"), bytes).unwrap();
}

#[test]
fn saved_state_is_loaded_and_the_latest_wins() {
    let (folder, file, _) = saved();
    assert_eq!(file.load().unwrap(), Some(state(11)));
    file.save(&state(12), 6).unwrap();
    assert_eq!(file.load().unwrap(), Some(state(12)));
    let names: Vec<_> = fs::read_dir(folder.path().join("deep/state")).unwrap().flatten().collect();
    assert_eq!(names.len(), 1, "a file is left over: {names:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&names[0].metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn missing_file_is_no_state_and_no_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(StateFile::new(&folder.path().join("absent"), &service()).load().unwrap().is_none());
}

#[test]
fn state_of_another_version_or_service_is_refused_by_name() {
    let (folder, file, bytes) = saved();
    let text = String::from_utf8(bytes).unwrap();
    rewrite(&folder, text.replacen("state 1 ", "state 2 ", 1).as_bytes());
    let error = file.load().unwrap_err();
    assert!(matches!(error, StateError::OtherVersion { version: 2, .. }), "{error}");
    assert!(error.to_string().contains("version 2"), "{error}");
    rewrite(&folder, text.as_bytes());
    let other = StateFile::new(&folder.path().join("deep/state"), &"kube-system/api".parse().unwrap());
    let error = other.load().unwrap_err().to_string();
    assert!(error.contains("default/kubernetes"), "{error}");
}

#[test]
fn unusable_folder_is_named_with_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    fs::write(&blocked, "").unwrap();
    let file = StateFile::new(&blocked, &service());
    assert!(file.load().is_err());
    let error = file.save(&state(11), 5).unwrap_err().to_string();
    assert!(error.contains("save the last good state: make") && error.contains("/file"), "{error}");
    assert!(remove(&blocked).unwrap().is_empty());
}

#[test]
fn full_disk_leaves_the_old_state() {
    let (folder, file, _) = saved();
    // Whatever is written to it meets ENOSPC.
    std::os::unix::fs::symlink("/dev/full", folder.path().join("deep/state/state.new")).unwrap();
    let error = file.save(&state(12), 6).unwrap_err().to_string();
    assert!(error.contains("write") && error.contains("space"), "{error}");
    assert_eq!(file.load().unwrap(), Some(state(11)));
    file.save(&state(12), 6).unwrap();
    assert_eq!(file.load().unwrap(), Some(state(12)));
}

#[test]
fn remove_takes_the_folder_unless_it_holds_other_files() {
    let (folder, file, _) = saved();
    let path = folder.path().join("deep/state");
    assert_eq!(remove(&path).unwrap(), [path.join("state"), path.clone()]);
    assert_eq!(remove(&path).unwrap(), Vec::<PathBuf>::new());
    file.save(&state(11), 5).unwrap();
    fs::write(path.join("other"), "").unwrap();
    assert_eq!(remove(&path).unwrap(), [path.join("state")]);
    assert!(path.join("other").exists());
}

proptest! {
    #[test]
    fn damaged_file_is_never_loaded(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        tail in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        let document = Document { service: service().to_string(), written: 5, state: state(11) };
        let whole = encode(&document).unwrap();
        let mut bytes = whole.clone();
        for (index, bits) in changes {
            let index = index.index(bytes.len());
            bytes[index] ^= bits;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(whole.len()));
        }
        bytes.extend(tail);
        if bytes != whole {
            prop_assert!(decode(&bytes).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_state(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes).is_err());
        let body = [b"apivip state 1 sha256 ", checksum(&bytes).as_bytes(), b"\n", &bytes].concat();
        prop_assert!(decode(&body).is_err(), "a right checksum alone is not enough");
    }
}

#[tokio::test]
async fn last_value_is_saved_when_the_sender_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = StateFile::new(folder.path(), &service());
    let (sender, good) = watch::channel(state(11));
    let keeper = save_changes(file.clone(), None, good);
    sender.send_replace(state(12));
    drop(sender);
    keeper.await;
    assert_eq!(file.load().unwrap(), Some(state(12)));
}

#[tokio::test]
async fn failed_save_does_not_delay_the_end() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("taken"), "").unwrap();
    let file = StateFile::new(&folder.path().join("taken"), &service());
    let (sender, good) = watch::channel(state(11));
    drop(sender);
    timeout(RETRY_INTERVAL / 2, save_changes(file, None, good)).await.unwrap();
}
