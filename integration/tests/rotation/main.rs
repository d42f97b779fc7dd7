//! A Pod's token of the shortest life, from its first use until after its end: a kubelet renews it in its file, and the daemon goes
//! on with the new one. It takes a quarter of an hour, and is a program of its own: `scripts/test real` runs it.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::lab::addresses;
use integration::real::node::cluster::{self, Cluster};
use integration::real::node::install;

const USER: &str = "system:serviceaccount:kube-system:apivip";

/// What an apiserver calls a token by.
const IDENTITY: &str = "authentication.kubernetes.io/credential-id";

/// The shortest life that an apiserver gives a token. A kubelet renews it after four fifths of that.
const LIFE: Duration = Duration::from_secs(600);

/// Longest until the new token is used and the old one is not good any more: a watch lives for up to five minutes, whatever
/// becomes of its token.
const LIMIT: Duration = Duration::from_secs(1800);

/// What the kubelet gives every Pod, with another life of the token.
const SHORT: &str = r#"[
    {"op": "add", "path": "/spec/template/spec/automountServiceAccountToken", "value": false},
    {"op": "add", "path": "/spec/template/spec/volumes/-", "value": {"name": "account", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}
    ]}}},
    {"op": "add", "path": "/spec/template/spec/containers/0/volumeMounts/-", "value":
        {"name": "account", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}}
]"#;

#[test]
fn a_daemon_in_a_pod_outlives_its_token() -> Result<()> {
    let lab = cluster::lab(2)?;
    let mut cluster = Cluster::start(&lab)?;
    install::import(&cluster, lab.dir())?;
    install::apply(&mut cluster)?;
    let old = tokens(&mut cluster)?;
    cluster.kubectl(&[
        "patch",
        "daemonset/apivip",
        "-n",
        "kube-system",
        "--type",
        "json",
        "--patch",
        SHORT,
    ])?;
    cluster.wait("the rollout with a short token", install::SET, install::rolled_out)?;
    let begin = Instant::now();
    loop {
        let used: Vec<_> = tokens(&mut cluster)?.difference(&old).cloned().collect();
        if used.len() > 1 && begin.elapsed() > LIFE {
            println!("{} tokens used in {:?}", used.len(), begin.elapsed());
            break;
        }
        ensure!(begin.elapsed() < LIMIT, "the daemon used these tokens only: {used:?}");
        thread::sleep(Duration::from_secs(5));
    }
    let node = addresses::node(Family::V4).to_string();
    for i in 1..=2 {
        let log = cluster.plane.real()?.audit_log(i)?;
        let of_node = log.iter().filter(|event| event["sourceIPs"][0] == node);
        let refused = of_node.filter(|event| event["responseStatus"]["code"] == 401);
        ensure!(refused.count() == 0, "apiserver {i} refused a token");
    }
    let pod = install::pod(&mut cluster)?;
    ensure!(install::restarts(&pod) == 0, "the daemon was started again");
    ensure!(cluster::condition(&pod, "Ready") == Some("True"), "the daemon is not ready: {}", pod["status"]);
    Ok(())
}

/// Those that the daemon has shown to an apiserver.
fn tokens(cluster: &mut Cluster<'_>) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for i in 1..=2 {
        let log = cluster.plane.real()?.audit_log(i)?;
        let ours = log.iter().filter(|event| event["user"]["username"] == USER);
        found.extend(ours.filter_map(|event| Some(event["user"]["extra"][IDENTITY][0].as_str()?.to_owned())));
    }
    Ok(found)
}
