//! `apivip-audit` and real kube-apiservers: what they do by default, and with rights granted to everyone.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::audit::{self, audit, proc};
use integration::check::Checked;
use integration::command;
use integration::control_plane::Variant;
use integration::daemon::Daemon;
use integration::kubeconfig::{Authority, Kubeconfig, User};
use integration::lab::{Lab, LabOptions};
use integration::real::{ADMIN_TOKEN, PORT, cached};
use integration::scenario::Scenario;
use serde_json::json;

/// Apiservers take changed roles in within moments.
const LIMIT: Duration = Duration::from_secs(60);
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";

#[test]
fn a_real_control_plane_is_judged_by_what_it_does() -> Result<()> {
    let lab = Lab::start(LabOptions::default())?;
    let mut scenario = Scenario::start(&lab, Variant::Real, &[1, 2, 3])?;
    let options = scenario.options.clone().arg("--selftest-interval=1s");
    let mut daemon = Daemon::start(lab.node(), lab.dir(), &options)?;
    daemon.wait_for_status("a test", LIMIT, |status| status["selftests"][0]["answered_by"] == "rules")?;
    // The folder that stands for the host's /proc shows the first kube-apiserver, and no other test's.
    let pid = scenario.plane.real()?.apiserver_pid(1)?;
    let process = proc(&lab)?.join("100");
    fs::create_dir_all(&process)?;
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let (_, flags) = line.split_once('\0').context("its command line has no flags")?;
    // Its file is named by its release here.
    fs::write(process.join("cmdline"), format!("/usr/local/bin/kube-apiserver\0{flags}"))?;

    let least = scenario.plane.kubeconfig()?.display().to_string();
    let checked = audit(&lab, &["--kubeconfig", &least])?;
    println!("it took {:?}", checked.took);
    for id in [
        "apiserver-certificate-issuer",
        "apiserver-certificate-names",
        "apiserver-certificate-expiry",
        "apiserver-tls-version",
        "apiserver-tls-ciphers",
        "trusted-cas",
        "foreign-client-certificate",
        "anonymous-discovery",
        "anonymous-objects",
        "basic-auth",
        "plain-http",
        "credentials",
        "damaged-token",
        "authorization-mode",
        "redirect-answer",
    ] {
        checked.expect(id, "pass", &[])?;
    }
    for at in ["10.96.0.1:443", "192.0.2.11:6443", "192.0.2.12:6443", "192.0.2.13:6443"] {
        checked.expect("apiserver-certificate-names", "pass", &[at])?;
        checked.expect("credentials", "pass", &[at, "authenticated as apivip"])?;
        checked.expect("anonymous-discovery", "pass", &[at, "/version"])?;
    }
    // What this control plane is started with, and what is true by default.
    checked.expect("static-tokens", "fail", &["--token-auth-file"])?;
    checked.expect("kubelet-verified", "fail", &["no --kubelet-certificate-authority"])?;
    checked.expect("tunnel-konnectivity", "fail", &["no --egress-selector-config-file"])?;
    // One of three apiservers tells nothing of the others.
    checked.expect("tunnel-ssh", "unknown", &["no --ssh-user", "other API servers cannot be read"])?;
    // With the daemon's own rights these are not to be known.
    for id in ["redirect-claims", "proxy-https-services"] {
        checked.expect(id, "unknown", &["cannot list resource"])?;
    }
    ensure!(proxies(&checked, "proxy-nodes", "pass") == ["these credentials"], "{:#}", checked.report);

    let mut text = audit::command(&lab)?;
    text.args(["--kubeconfig", &least]);
    println!("{}", command::finish(text, "", audit::LIMIT)?.stdout);

    let admin = administrator(&mut scenario, &lab)?;
    let run = || audit(&lab, &["--kubeconfig", &admin.display().to_string()]);
    let checked = run()?;
    checked.expect("authorization-mode", "pass", &["other users are not"])?;
    checked.expect("redirect-claims", "pass", &["none of 1 Services"])?;
    checked.expect("proxy-https-services", "pass", &["default/kubernetes"])?;
    for id in ["proxy-nodes", "proxy-pods", "proxy-services"] {
        ensure!(proxies(&checked, id, "pass").len() == 3, "{id} in {:#}", checked.report);
        ensure!(proxies(&checked, id, "fail") == ["these credentials"], "{id} in {:#}", checked.report);
    }

    let client = scenario.plane.real()?.client(1);
    let meta = json!({"name": "everybody"});
    let rules = json!([
        {"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["list"]},
    ]);
    client.post(ROLES, &json!({"metadata": meta, "rules": rules}))?;
    let group = |name: &str| json!({"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"});
    client.post(
        BINDINGS,
        &json!({
            "metadata": meta,
            "roleRef": {"kind": "ClusterRole", "name": "everybody", "apiGroup": "rbac.authorization.k8s.io"},
            "subjects": [group("system:authenticated"), group("system:unauthenticated")],
        }),
    )?;
    let deadline = Instant::now() + LIMIT;
    let checked = loop {
        let checked = run()?;
        let open = checked.with_verdicts(&["fail"]);
        // Each apiserver, and the virtual IP, which leads to one of them.
        if open.iter().filter(|id| id.starts_with("anonymous-objects")).count() == 4 {
            break checked;
        }
        ensure!(Instant::now() < deadline, "{open:?}\n{:#}", checked.report);
    };
    checked.expect("anonymous-objects", "fail", &["/api/v1/nodes, /api/v1/pods"])?;
    ensure!(proxies(&checked, "proxy-nodes", "fail").len() == 4, "{:#}", checked.report);
    checked.expect("proxy-nodes", "fail", &["RBAC: allowed by ClusterRoleBinding \"everybody\""])
}

/// docs/install/rbac-audit.yaml beside rbac.yaml, with the token of a Pod.
#[test]
fn the_least_role_of_the_manual_answers_everything() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let mut scenario = Scenario::start(&lab, Variant::Real, &[1])?;
    let _daemon = scenario.daemon()?;
    let mut apply = lab.node().command(cached("kubectl")?);
    apply.arg("--kubeconfig").arg(administrator(&mut scenario, &lab)?).args(["apply", "--server-side"]);
    for name in ["rbac.yaml", "rbac-audit.yaml"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/install");
        apply.arg("-f").arg(folder.join(name));
    }
    command::run(apply, "")?;
    let client = scenario.plane.real()?.client(1);
    let system = "/api/v1/namespaces/kube-system";
    let pod = |name: &str, label: &str, command: &[&str]| {
        let container = json!({"name": "main", "image": "example.invalid/none", "command": command});
        json!({
            "metadata": {"name": name, "labels": {"component": label}},
            "spec": {"serviceAccountName": "apivip-audit", "containers": [container]},
        })
    };
    let flags = ["kube-apiserver", "--authorization-mode=RBAC", "--kubelet-certificate-authority=/ca.crt"];
    client.post(&format!("{system}/pods"), &pod("kube-apiserver-a", "kube-apiserver", &flags))?;
    let own = client.post(&format!("{system}/pods"), &pod("apivip-audit", "audit", &["apivip-audit"]))?;
    let bound =
        json!({"kind": "Pod", "apiVersion": "v1", "name": "apivip-audit", "uid": own["metadata"]["uid"]});
    let spec = json!({"audiences": [], "expirationSeconds": 3600, "boundObjectRef": bound});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
    let answer = client.post(&format!("{system}/serviceaccounts/apivip-audit/token"), &request)?;
    let token = answer["status"]["token"].as_str().context("the apiserver gave no token")?;
    let kubeconfig = written(&mut scenario, &lab, "audit.yaml", token)?.display().to_string();

    let deadline = Instant::now() + LIMIT;
    let checked = loop {
        let checked = audit(&lab, &["--kubeconfig", &kubeconfig])?;
        if checked.expect("redirect-claims", "pass", &[]).is_ok() {
            break checked;
        }
        ensure!(Instant::now() < deadline, "{:#}", checked.report);
    };
    for id in [
        "credentials",
        "damaged-token",
        "static-tokens",
        "token-lifetime",
        "token-audience",
        "token-binding",
        "authorization-mode",
        "kubelet-verified",
        "proxy-nodes",
        "proxy-pods",
        "proxy-services",
        "proxy-https-services",
        "tunnel-ssh",
    ] {
        checked.expect(id, "pass", &[])?;
    }
    checked.expect("token-binding", "pass", &["to Pod apivip-audit"])?;
    checked.expect(
        "credentials",
        "pass",
        &["authenticated as system:serviceaccount:kube-system:apivip-audit"],
    )?;
    checked.expect("tunnel-konnectivity", "fail", &["Pod kube-system/kube-apiserver-a"])
}

fn administrator(scenario: &mut Scenario<'_>, lab: &Lab) -> Result<PathBuf> {
    written(scenario, lab, "admin.yaml", ADMIN_TOKEN)
}

fn written(scenario: &mut Scenario<'_>, lab: &Lab, name: &str, token: &str) -> Result<PathBuf> {
    let path = lab.dir().join(name);
    let authority = Authority::Inline(scenario.plane.real()?.authority().pem().to_owned());
    let user = User::Token(token.to_owned());
    Kubeconfig::new(format!("https://192.0.2.11:{PORT}"), authority, user).write(&path)?;
    Ok(path)
}

/// For whom a check of the proxy comes to this.
fn proxies(checked: &Checked, id: &str, verdict: &str) -> Vec<String> {
    let found = checked.findings().filter(|f| f["id"] == id && f["verdict"] == verdict);
    found.map(|finding| finding["subject"].as_str().unwrap_or_default().to_owned()).collect()
}
