//! `apivip-audit` and what a control plane says of itself: flags, rights, Services, Pods.

use std::fs;

use anyhow::{Context, Result, ensure};
use integration::audit::audit;
use integration::check::Checked;
use integration::sim::odd_api::Options;
use serde_json::{Value, json};

use super::stage::Stage;

/// Of an apiserver as it should be.
const FLAGS: [&str; 4] = [
    "kube-apiserver",
    "--authorization-mode=Node,RBAC",
    "--kubelet-certificate-authority=/ca",
    "--egress-selector-config-file=/etc/kubernetes/egress.yaml",
];

fn pod(name: &str, label: &str, value: &str, command: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "labels": {label: value}},
        "status": {"phase": "Running"},
        "spec": {"containers": [{"name": value, "command": command}]},
    })
}

fn agent() -> Value {
    pod("konnectivity-agent-a", "k8s-app", "konnectivity-agent", &["/proxy-agent"])
}

#[test]
fn what_the_control_plane_says_of_itself_is_judged() -> Result<()> {
    let stage = Stage::start()?;
    let good = || stage.good();
    let service = |name: &str, port: u16| json!({"metadata": {"namespace": "a", "name": name}, "spec": {"ports": [{"port": port}]}});
    let apiserver = |flags: &[&str]| pod("kube-apiserver-a", "component", "kube-apiserver", flags);

    let checked = stage.of(Options {
        services: Some(vec![service("web", 443)]),
        pods: Some(vec![apiserver(&FLAGS), agent()]),
        ..good()?
    })?;
    for id in [
        "authorization-mode",
        "kubelet-verified",
        "static-tokens",
        "proxy-nodes",
        "proxy-pods",
        "proxy-services",
        "proxy-https-services",
        "tunnel-ssh",
    ] {
        checked.expect(id, "pass", &[])?;
    }
    let unread = ["Pod kube-system/konnectivity-agent-a", "/egress.yaml, which cannot be read"];
    checked.expect("tunnel-konnectivity", "unknown", &unread)?;

    // Rights granted to everyone, and a control plane that is told nothing.
    let bare = ["kube-apiserver", "--token-auth-file=/tokens", "--ssh-user=core"];
    let checked = stage.of(Options {
        reviews: |who, what| {
            (who != "apivip" || what == "nodes/proxy", "RBAC: allowed by ClusterRoleBinding \"x\"")
        },
        services: Some(vec![service("web", 80), service("other", 443)]),
        pods: Some(vec![apiserver(&bare)]),
        ..good()?
    })?;
    for id in ["authorization-mode", "kubelet-verified", "static-tokens", "tunnel-konnectivity", "tunnel-ssh"]
    {
        checked.expect(id, "fail", &["Pod kube-system/kube-apiserver-a"])?;
    }
    checked.expect(
        "proxy-nodes",
        "fail",
        &["system:anonymous", "system:authenticated", "these credentials", "RBAC:"],
    )?;
    checked.expect(
        "proxy-https-services",
        "fail",
        &["1 of 2 Services have no HTTPS port: a/web; Services with an HTTPS port: a/other"],
    )?;

    // What the rights do not reach is unknown.
    let checked = stage.of(Options { services: None, pods: None, reviewers: false, ..good()? })?;
    for id in [
        "kubelet-verified",
        "static-tokens",
        "proxy-https-services",
        "tunnel-konnectivity",
        "tunnel-ssh",
        "redirect-claims",
    ] {
        checked.expect(id, "unknown", &[])?;
    }
    let proxies = checked.with_verdicts(&["unknown"]).into_iter().filter(|id| id.starts_with("proxy-nodes"));
    ensure!(proxies.count() == 3, "{:#}", checked.report);

    // Everything is allowed, and nobody says by what.
    let checked = stage.of(Options { reviews: |_, _| (true, ""), ..good()? })?;
    checked.expect(
        "authorization-mode",
        "fail",
        &["all authenticated users are allowed even a verb and resource that do not exist"],
    )?;

    // A static Pod of this node tells as well.
    fs::write(stage.lab.dir().join("kube-apiserver.yaml"), apiserver(&FLAGS).to_string())?;
    let checked = stage.of(Options { pods: None, ..good()? })?;
    checked.expect("kubelet-verified", "pass", &["kube-apiserver.yaml", "/ca"])
}

#[test]
fn a_service_that_claims_the_virtual_ip_is_named() -> Result<()> {
    let stage = Stage::start()?;
    let kubeconfig = stage.kubeconfig.display().to_string();
    let claiming = |ip: &str| -> Result<Checked> {
        let service = json!({"metadata": {"namespace": "a", "name": "thief"}, "spec": {"externalIPs": [ip]}});
        let _serving = stage.serve(Options { services: Some(vec![service]), ..stage.good()? })?;
        audit(&stage.lab, &["--kubeconfig", &kubeconfig, "--vip", "10.96.0.1:443"])
    };
    claiming("10.96.0.1")?.expect("redirect-claims", "fail", &["Service a/thief claims it"])?;
    claiming("10.96.0.2")?.expect("redirect-claims", "pass", &["none of 1 Services"])
}

/// The file is read where the host has it: the static Pod says where that is.
#[test]
fn apiserver_traffic_leaves_in_a_tunnel_if_the_egress_selector_says_so() -> Result<()> {
    let stage = Stage::start()?;
    let folder = stage.lab.dir().join("kubernetes");
    fs::create_dir(&folder).context("make a folder")?;
    let mut apiserver = pod("kube-apiserver-a", "component", "kube-apiserver", &FLAGS);
    apiserver["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "k8s", "mountPath": "/etc/kubernetes"}]);
    apiserver["spec"]["volumes"] = json!([{"name": "k8s", "hostPath": {"path": folder}}]);
    fs::write(stage.lab.dir().join("kube-apiserver.yaml"), apiserver.to_string())?;
    let _serving = stage.serve(Options { pods: Some(vec![apiserver, agent()]), ..stage.good()? })?;
    stage.audit()?.expect("tunnel-konnectivity", "unknown", &["egress.yaml: no such file"])?;
    for (selection, verdict, words) in [
        (
            "{name: cluster, connection: {proxyProtocol: GRPC}}",
            "pass",
            "GRPC; agents: Pod kube-system/konnectivity-agent-a",
        ),
        ("{name: cluster, connection: {proxyProtocol: Direct}}", "fail", "has proxyProtocol Direct"),
        ("{name: etcd, connection: {proxyProtocol: GRPC}}", "fail", "no egressSelection named cluster"),
        ("{name: cluster", "unknown", "which cannot be read"),
    ] {
        let text = format!("kind: EgressSelectorConfiguration\negressSelections:\n- {selection}\n");
        fs::write(folder.join("egress.yaml"), text)?;
        stage.audit()?.expect("tunnel-konnectivity", verdict, &[words])?;
    }
    Ok(())
}

#[test]
fn where_no_apiserver_shows_its_flags_kubeadm_tells_what_it_was_told() -> Result<()> {
    let stage = Stage::start()?;
    let told = |arguments: &str| -> Result<Checked> {
        let text = format!("kind: ClusterConfiguration\napiServer: {{extraArgs: {arguments}}}\n");
        stage.of(Options { pods: None, kubeadm: Some(text), ..stage.good()? })
    };
    let place = "ConfigMap kube-system/kubeadm-config";
    let checked = told("[{name: kubelet-certificate-authority, value: /ca}]")?;
    checked.expect("kubelet-verified", "pass", &[place, "/ca"])?;
    checked.expect("authorization-mode", "pass", &[])?;
    let checked = told("{authorization-mode: AlwaysAllow, token-auth-file: /tokens}")?;
    for id in ["kubelet-verified", "authorization-mode", "static-tokens", "tunnel-konnectivity"] {
        checked.expect(id, "fail", &[place])?;
    }
    checked.expect("tunnel-ssh", "pass", &[place])
}
