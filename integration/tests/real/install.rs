//! What docs/install says to operators, tried on a real apiserver: it takes the manifests, and the daemon lives on what they
//! allow.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::command;
use integration::control_plane::{ControlPlane, Variant};
use integration::daemon::{Daemon, DaemonOptions};
use integration::kubeconfig::{Authority, Kubeconfig, User};
use integration::lab::{Lab, LabOptions};
use integration::real::{ADMIN_TOKEN, PORT, cached};
use integration::refusal::apivip;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// The first time, helm is built.
const RENDERING: Duration = Duration::from_secs(1200);

fn install(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install").join(name)
}

fn kubeconfig(plane: &mut ControlPlane<'_>, lab: &Lab, name: &str, token: &str) -> Result<PathBuf> {
    let path = lab.dir().join(name);
    let authority = Authority::Inline(plane.real()?.authority().pem().to_owned());
    let server = format!("https://192.0.2.11:{PORT}");
    Kubeconfig::new(server, authority, User::Token(token.to_owned())).write(&path)?;
    Ok(path)
}

#[test]
fn the_apiserver_takes_the_manifests_and_the_daemon_needs_no_more() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Real)?;
    let admin = kubeconfig(&mut plane, &lab, "admin.yaml", ADMIN_TOKEN)?;
    let apply = |more: &[&str]| -> Result<String> {
        let mut apply: Command = lab.node().command(cached("kubectl")?);
        apply
            .arg("--kubeconfig")
            .arg(&admin)
            .args(["apply", "--server-side", "--force-conflicts"])
            .args(more);
        for name in ["rbac.yaml", "daemonset.yaml"] {
            apply.arg("-f").arg(install(name));
        }
        command::run(apply, "")
    };
    let rehearsed = apply(&["--dry-run=server"])?;
    for object in ["role", "rolebinding", "serviceaccount/apivip", "daemonset.apps/apivip"] {
        ensure!(rehearsed.contains(object), "{object} is not in\n{rehearsed}");
    }
    apply(&[])?;

    let path = "/api/v1/namespaces/kube-system/serviceaccounts/apivip/token";
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": [] } });
    let answer: Value = plane.real()?.client(1).post(path, &request)?;
    let token = answer["status"]["token"].as_str().context("the apiserver gave no token")?.to_owned();

    let set = read("daemonset.yaml")?;
    let line =
        set.lines().find_map(|line| line.trim().strip_prefix("add: [")).context("no capabilities added")?;
    let names = line.trim_end_matches(']').split(',').map(|name| format!("+{}", name.trim().to_lowercase()));
    let bounds = format!("-all,{}", names.collect::<Vec<_>>().join(","));
    let mut options = DaemonOptions::kubeconfig(kubeconfig(&mut plane, &lab, "pod.yaml", &token)?);
    options.wrapper =
        ["setpriv", "--no-new-privs", "--bounding-set", &bounds].iter().map(ToString::to_string).collect();
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    let synced = |status: &Value| status["api"]["state"] == "synced" && status["phase"] == "programmed";
    daemon.wait_for_status("the API read with these permissions", PATIENCE, synced)?;
    plane.kill(2)?;
    let down = |status: &Value| {
        let backends = status["frontends"][0]["backends"].as_array().cloned().unwrap_or_default();
        backends.iter().any(|b| b["address"] == "192.0.2.12:6443" && b["used"] == false)
    };
    daemon.wait_for_status("a dead apiserver out of the way", PATIENCE, down)?;
    let user = "system:serviceaccount:kube-system:apivip";
    let refused = plane.real()?.audit_log(1)?.into_iter().filter(|event| {
        event["user"]["username"] == user && event["responseStatus"]["code"].as_u64() == Some(403)
    });
    let refused: Vec<Value> = refused.collect();
    ensure!(refused.is_empty(), "the daemon asked for what it may not have: {refused:#?}");
    Ok(())
}

/// What `kubectl apply -k`, `helm install` and `apivip manifest` would send, of which the apiserver checks every field and stores
/// none.
#[test]
fn the_apiserver_takes_kustomizations_chart_and_printed_manifests() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut plane = ControlPlane::serving(&lab, Variant::Real)?;
    let admin = kubeconfig(&mut plane, &lab, "admin.yaml", ADMIN_TOKEN)?;
    let kubectl = |words: &[&str], stdin: &str| -> Result<String> {
        let mut kubectl: Command = lab.node().command(cached("kubectl")?);
        kubectl.arg("--kubeconfig").arg(&admin).args(words);
        command::run(kubectl, stdin)
    };
    // A Pod needs it, and the controller that makes it does not run here.
    kubectl(&["create", "serviceaccount", "default", "-n", "kube-system"], "")?;
    let folder = lab.dir().join("rendered");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/check-manifests");
    let mut render = Command::new(script);
    render.arg("--render").arg(&folder);
    let rendered = command::finish(render, "", RENDERING)?;
    ensure!(rendered.status.success(), "{rendered:?}");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&folder).context("read what was rendered")? {
        let path = entry.context("read what was rendered")?.path();
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        all.push((path.display().to_string(), text));
    }
    ensure!(all.len() == 8, "{} files were rendered", all.len());
    let own =
        ["--image", "registry.example.com/apivip:1", "--seed", "[2001:db8::11]:6443", "--drain-grace", "1m"];
    for words in [vec!["rbac"], [&["daemonset"], &own[..]].concat(), [&["static-pod"], &own[..]].concat()] {
        let printed = command::run(apivip(&[vec!["manifest"], words.clone()].concat())?, "")?;
        all.push((words.join(" "), printed));
    }
    for (name, text) in all {
        let taken = kubectl(&["apply", "--dry-run=server", "-f", "-"], &text);
        let taken = taken.with_context(|| name.clone())?;
        let objects = text.lines().filter(|line| line.starts_with("kind: ")).count();
        // The control plane has the Role already: that one is configured, or unchanged.
        let accepted = taken.lines().filter(|line| line.ends_with("(server dry run)")).count();
        ensure!(accepted == objects && objects > 0, "{name}: {taken}");
    }
    Ok(())
}

fn read(name: &str) -> Result<String> {
    std::fs::read_to_string(install(name)).with_context(|| format!("read {name}"))
}
