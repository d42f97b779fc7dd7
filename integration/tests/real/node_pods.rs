//! Pods on a real node: one that reaches the API by what every Pod is given, and apivip itself as docs/install has it, as a
//! DaemonSet that is rolled out under connections, and as a static Pod.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;
use integration::admin::{self, Answer};
use integration::clients::{Clients, Mix};
use integration::lab::{Lab, addresses};
use integration::real::ADMIN_TOKEN;
use integration::real::node::cluster::{self, Cluster, PATIENCE, condition};
use integration::real::node::{MANIFESTS, NAME, asking, install};
use serde_json::Value;

/// New connections go on for so long after a new Pod is ready.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// Rollouts of a forwarder, of which one must be in time.
const TRIES: u32 = 4;

/// Watches, and idle connections, of each place's clients.
const KEPT: usize = 6;

/// New connections, watches and idle ones through the virtual IP, from a Pod's place and from the node.
struct Witnesses(Vec<Clients>);

impl Witnesses {
    /// `kept` is the number of watches, and of connections that are idle after a request.
    fn start(cluster: &Cluster<'_>, lab: &Lab, name: &str, kept: usize) -> Result<Self> {
        let mix = Mix { idle: kept, watch: kept, upload: 0, download: 0, ..Mix::default() };
        let vip = [(lab.vips()[0], 443).into()];
        let start = |from, place| {
            Clients::start(from, lab.dir(), &format!("{name}-{place}"), &cluster.plane, &vip, &mix)
        };
        Ok(Self(vec![start(lab.pod(1), "pod")?, start(lab.node(), "node")?]))
    }

    fn finish_clean(mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(Clients::stop)?;
        for clients in self.0 {
            let timeline = clients.finish()?;
            let failed: Vec<_> = timeline.connections.iter().filter(|c| c.failed()).collect();
            let count = timeline.connections.len();
            println!(
                "{count} connections, {} failed, the longest took {} ms",
                failed.len(),
                timeline.longest_ms(0)
            );
            ensure!(
                failed.is_empty(),
                "{} of {count} connections failed: {:#?}",
                failed.len(),
                &failed[..failed.len().min(5)]
            );
        }
        Ok(())
    }
}

/// What the daemon that is replaced does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replaced {
    /// It has rules in the kernel, which stay: nothing may fail however long it takes until the new one works.
    Programs,
    /// It forwards, and its listeners wait for the new one as long as that one waits for the lock, which is 3 s. A kubelet on a busy
    /// machine takes longer to end the old one; the new one is started again then, and nobody serves meanwhile.
    Forwards,
}

/// A rollout by `change`, under connections of which none may fail. Says whether it was judged.
fn roll_out(
    cluster: &mut Cluster<'_>,
    lab: &Lab,
    name: &str,
    replaced: Replaced,
    change: &[&str],
) -> Result<bool> {
    let before = install::pod(cluster)?["metadata"]["uid"].clone();
    // A forwarder that ends resets what it carries once its grace is over.
    let kept = if replaced == Replaced::Programs { KEPT } else { 0 };
    let witnesses = Witnesses::start(cluster, lab, name, kept)?;
    cluster.kubectl(change)?;
    cluster.wait(&format!("the rollout {name}"), install::SET, install::rolled_out)?;
    let after = install::pod(cluster)?;
    ensure!(after["metadata"]["uid"] != before, "{name}: no Pod was replaced");
    thread::sleep(AFTERWARDS);
    let restarts = install::restarts(&after);
    println!("{name}: the new container was started {} times", 1 + restarts);
    let clean = witnesses.finish_clean().with_context(|| name.to_owned());
    if replaced == Replaced::Forwards && restarts > 0 {
        return Ok(false);
    }
    clean.map(|()| true)
}

#[test]
fn a_daemon_set_serves_pods_and_is_rolled_out_under_connections() -> Result<()> {
    let lab = cluster::lab(2)?;
    let mut cluster = Cluster::start(&lab)?;
    install::import(&cluster, lab.dir())?;
    install::apply(&mut cluster)?;
    wait_until_synced(&lab)?;

    let log = asking::asks(&mut cluster, lab.dir())?;
    ensure!(log.contains("service/kubernetes") && log.contains("\"clusterIP\":"), "the Pod wrote {log}");

    let sources = cluster.plane.real()?.audit_source_ips(1, "system:serviceaccount:default:default")?;
    let others = cluster.plane.real()?.audit_source_ips(2, "system:serviceaccount:default:default")?;
    let sources: BTreeSet<_> = sources.into_iter().chain(others).collect();
    let own = pod_address(&mut cluster, "asking")?;
    ensure!(sources == [own.clone()].into(), "the apiservers saw {sources:?}, and the Pod is {own}");

    for kind in ["Readiness", "Liveness"] {
        wait_for_probes(&lab, kind)?;
    }

    let restart = ["rollout", "restart", "daemonset/apivip", "-n", "kube-system"];
    roll_out(&mut cluster, &lab, "one-unavailable", Replaced::Programs, &restart)?;
    let surge = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":0}}}}"#;
    cluster.kubectl(&["patch", "daemonset/apivip", "-n", "kube-system", "--patch", surge])?;
    roll_out(&mut cluster, &lab, "one-more", Replaced::Programs, &restart)?;

    let forward =
        r#"[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--mode=forwarder"}]"#;
    let patch = ["patch", "daemonset/apivip", "-n", "kube-system", "--type", "json", "--patch", forward];
    roll_out(&mut cluster, &lab, "to-the-forwarder", Replaced::Programs, &patch)?;
    let mut tries = (1..=TRIES)
        .map(|i| roll_out(&mut cluster, &lab, &format!("forwarder-{i}"), Replaced::Forwards, &restart));
    let judged = tries.find(|judged| !matches!(judged, Ok(false))).transpose()?;
    ensure!(judged.is_some(), "no new daemon was in time for the listeners of the old one");
    let rules = r#"[{"op":"remove","path":"/spec/template/spec/containers/0/args/3"}]"#;
    let patch = ["patch", "daemonset/apivip", "-n", "kube-system", "--type", "json", "--patch", rules];
    roll_out(&mut cluster, &lab, "back-to-nftables", Replaced::Forwards, &patch)?;

    let witnesses = Witnesses::start(&cluster, &lab, "static", KEPT)?;
    cluster.kubectl(&["delete", "daemonset/apivip", "-n", "kube-system"])?;
    start_static_pod(&mut cluster, &lab)?;
    witnesses.finish_clean().context("from a DaemonSet to a static Pod")
}

fn pod_address(cluster: &mut Cluster<'_>, name: &str) -> Result<String> {
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let pod = cluster.plane.real()?.client(1).get(&path)?;
    Ok(pod["status"]["podIP"].as_str().context("the Pod has no address")?.to_owned())
}

/// Waits until the kubelet's own metrics count a probe of this kind that apivip has answered well, and fails on one that it has
/// not. Until it serves, readiness may fail.
fn wait_for_probes(lab: &Lab, kind: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let authorization = format!("Authorization: Bearer {ADMIN_TOKEN}");
        let url = format!("https://{}:10250/metrics/probes", addresses::node(Family::V4));
        let curl = ["-sS", "--fail", "--insecure", "--noproxy", "*", "-m", "20", "-H", &authorization, &url];
        let metrics = lab.node().run("curl", &curl)?;
        let count = |result: &str| {
            let labels = [format!("probe_type=\"{kind}\""), format!("result=\"{result}\"")];
            metrics.lines().any(|line| {
                line.starts_with("prober_probe_total{container=\"apivip\"")
                    && labels.iter().all(|label| line.contains(label))
            })
        };
        ensure!(kind == "Readiness" || !count("failed"), "a probe failed:\n{metrics}");
        if count("successful") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no {kind} probe was answered:\n{metrics}");
        thread::sleep(Duration::from_millis(500));
    }
}

fn start_static_pod(cluster: &mut Cluster<'_>, lab: &Lab) -> Result<()> {
    let gone = |list: &Value| list["items"].as_array().is_some_and(Vec::is_empty);
    cluster.wait("the end of the DaemonSet's Pod", install::PODS, gone)?;
    let folder = cluster.node.path("/etc/apivip");
    fs::create_dir(&folder).context("make the folder of the kubeconfig")?;
    let kubeconfig = cluster.plane.real()?.kubeconfig(1)?;
    fs::copy(kubeconfig, folder.join("kubeconfig")).context("copy the kubeconfig")?;
    // The kubelet reads what appears: whole, or not at all.
    let written = lab.dir().join("static-pod.yaml");
    fs::write(&written, install::manifest("static-pod.yaml")?).context("write the manifest")?;
    fs::copy(&written, cluster.node.path(MANIFESTS).join("apivip.yaml")).context("copy the manifest")?;
    let path = format!("/api/v1/namespaces/kube-system/pods/apivip-{NAME}");
    let pod =
        cluster.wait("a static Pod that is ready", &path, |pod| condition(pod, "Ready") == Some("True"))?;
    ensure!(install::restarts(&pod) == 0, "the container was started more than once");
    wait_until_synced(lab)
}

/// Waits until the daemon, whichever Pod it runs in, has read the API with the credentials that the Pod was given.
fn wait_until_synced(lab: &Lab) -> Result<()> {
    let synced = |answer: &Answer| answer.body.lines().any(|line| line == "apivip_api_synced 1");
    admin::wait_for(lab.node(), "/metrics", "a daemon that reads the API", PATIENCE, synced).map(drop)
}
