//! `apivip check` and a real kube-apiserver: what its user lacks is named, no more and no less.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::check::{BAD, Checked, GOOD, check};
use integration::control_plane::{ControlPlane, Variant};
use integration::lab::{Lab, LabOptions};
use serde_json::json;

const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/apivip";

/// Apiservers take a changed Role in within moments.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn exactly_the_missing_verb_is_named() -> Result<()> {
    let lab = Lab::start(LabOptions { apiservers: 1, ..LabOptions::default() })?;
    let mut plane = ControlPlane::serving(&lab, Variant::Real)?;
    let kubeconfig = plane.kubeconfig()?.display().to_string();
    let run = || check(lab.node(), lab.dir(), &["--kubeconfig", &kubeconfig]);
    let checked = run()?;
    ensure!(checked.code == Some(GOOD), "{:#}", checked.report);
    ensure!(checked.with_verdicts(&["fail", "unknown", "warning"]).is_empty(), "{:#}", checked.report);
    checked.expect(
        "permission",
        "ok",
        &["list services", "watch services", "list endpointslices", "watch endpointslices"],
    )?;
    checked.expect("api-read", "ok", &["10.96.0.1:443", "1 API servers"])?;

    let client = plane.real()?.client(1);
    let rule = |resource: &str, verbs: &[&str]| json!({"apiGroups": ["", "discovery.k8s.io"], "resources": [resource], "verbs": verbs});
    let limited = |name: &str| json!({"apiGroups": [""], "resources": ["services"], "resourceNames": [name], "verbs": ["list", "watch"]});
    let all = ["get", "list", "watch"];
    let cases = [
        (
            vec![rule("services", &["get", "list"]), rule("endpointslices", &all)],
            vec!["permission watch services"],
        ),
        (
            vec![rule("services", &all), rule("endpointslices", &["get", "list"])],
            vec!["permission watch endpointslices.discovery.k8s.io"],
        ),
        // A Role for this one Service is enough.
        (vec![limited("kubernetes"), rule("endpointslices", &all)], vec![]),
        (
            vec![limited("other"), rule("endpointslices", &all)],
            vec!["api-read", "permission list services", "permission watch services"],
        ),
    ];
    for (rules, expected) in cases {
        client.patch(ROLE, &json!({"rules": rules}))?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let checked: Checked = run()?;
            let failed = checked.with_verdicts(&["fail"]);
            if failed == expected {
                ensure!(
                    checked.code == Some(if expected.is_empty() { GOOD } else { BAD }),
                    "{:#}",
                    checked.report
                );
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "with {rules:?}: {failed:?} instead of {expected:?}\n{:#}",
                checked.report
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(())
}
