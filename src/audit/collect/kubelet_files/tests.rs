use std::fs;

use tempfile::TempDir;

use super::*;

/// A `/proc` with these processes, and a folder for files beside it.
fn node(lines: &[&[&str]]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let proc = folder.path().join("proc");
    for (line, pid) in lines.iter().zip(100..) {
        let process = proc.join(format!("{pid}"));
        fs::create_dir_all(&process).unwrap();
        let words: String = line.iter().flat_map(|word| [word, "\0"]).collect();
        fs::write(process.join("cmdline"), words).unwrap();
    }
    fs::create_dir_all(&proc).unwrap();
    (folder, proc)
}

fn why(known: &Known) -> String {
    known.why(|set| set.mode.clone())
}

#[test]
fn the_command_line_leads_to_the_files_and_wins() {
    let (folder, _) = node(&[]);
    let file = folder.path().join("config.yaml");
    let drop_ins = folder.path().join("conf.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(&file, "kind: KubeletConfiguration\nserverTLSBootstrap: true\nreadOnlyPort: 10255\n").unwrap();
    fs::write(drop_ins.join("10.conf"), "readOnlyPort: 10256\nauthorization: {mode: AlwaysAllow}\n").unwrap();
    fs::write(drop_ins.join("20.conf"), "authorization: {mode: Webhook}\n").unwrap();
    fs::write(drop_ins.join("30.yaml"), "not looked at").unwrap();
    let (config, folder_flag) =
        (format!("--config={}", file.display()), format!("--config-dir={}", drop_ins.display()));
    let line =
        ["/usr/bin/kubelet", &config, &folder_flag, "--anonymous-auth=true", "--hostname-override=Node-7"];
    let (_kept, proc) = node(&[&["/sbin/init"], &line]);
    let found = find(&proc, None, None);
    let set = found.configuration.all().unwrap();
    assert!(set.anonymous && set.bootstrap);
    assert_eq!((set.mode.as_str(), set.read_only_port), ("Webhook", 10_256));
    assert!(set.source.ends_with("conf.d and its command line"), "{}", set.source);
    assert_eq!(found.name, "node-7");

    // A container has the file elsewhere.
    let (_kept, proc) = node(&[&["kubelet", "--config", "/nowhere/config.yaml"]]);
    assert!(why(&find(&proc, None, None).configuration).starts_with("/nowhere/config.yaml: no such file"));
    assert!(find(&proc, Some(&file), None).configuration.all().unwrap().bootstrap);
}

#[test]
fn without_a_file_flags_say_all() {
    let (_kept, proc) = node(&[&["kubelet", "--authorization-mode=Webhook"]]);
    let found = find(&proc, None, Some("Given".to_owned()));
    let set = found.configuration.all().unwrap();
    assert!(set.anonymous && set.mode == "Webhook" && set.source == "its command line");
    assert_eq!(found.name, "given");
}

#[test]
fn what_is_not_seen_is_said() {
    let (folder, proc) = node(&[]);
    let file = folder.path().join("config.yaml");
    assert!(why(&find(&proc, Some(&file), None).configuration).contains("config.yaml: no such file"));
    fs::write(&file, "authorization: {mode: AlwaysAllow}\n").unwrap();
    let found = find(&proc, Some(&file), None);
    assert!(found.configuration.all().is_err());
    let text = why(&found.configuration);
    assert!(
        text.contains("config.yaml says AlwaysAllow, but the kubelet's command line is not in"),
        "{text}"
    );
    for (bad, words) in
        [("a: [", "config.yaml: "), ("[]", "no KubeletConfiguration"), ("readOnlyPort: x", "no port")]
    {
        fs::write(&file, bad).unwrap();
        let text = why(&find(&proc, Some(&file), None).configuration);
        assert!(text.contains(words) && !text.contains('\n'), "{text}");
    }
    fs::write(&file, " ".repeat(2 << 20)).unwrap();
    assert!(why(&find(&proc, Some(&file), None).configuration).contains("larger than 1 MiB"));
    let (_kept, two) = node(&[&["kubelet"], &["/opt/kubelet", "--v=2"]]);
    assert!(why(&find(&two, None, None).configuration).contains("2 kubelets"));
    let nowhere = folder.path().join("none");
    assert!(why(&find(&nowhere, None, None).configuration).contains("none: no such file"));
}
