//! What a running daemon itself says of its work: whatever it takes for a problem is none of less weight here. Pure.

use std::path::Path;

use serde_json::Value;

use super::finding::{Check, Finding, Group};
use crate::status::Status;

const SELF_TEST: Check =
    Check { id: "self-test", group: Group::Apivip, title: "the daemon's own connections to the virtual IP" };
const PROBLEMS: Check =
    Check { id: "daemon-problems", group: Group::Apivip, title: "what the daemon's status complains of" };

/// All findings; none without a daemon that answers. `status`: the document of its admin interface.
pub fn running(status: Option<&Value>, run_dir: &Path) -> Vec<Finding> {
    let Some(status) = status else { return Vec::new() };
    let ask = format!("apivip status --run-dir {}", run_dir.display());
    let Ok(status) = serde_json::from_value::<Status>(status.clone()) else {
        return vec![PROBLEMS.unknown("its status cannot be read; is it of another version?", ask)];
    };
    let mut all: Vec<Finding> = status
        .selftests
        .iter()
        .map(|test| {
            let seen = test.explanation.as_deref().unwrap_or_default();
            let finding = match (test.ready, test.is_ours()) {
                (false, _) => SELF_TEST
                    .fail(test.result(), format!("{ask} says since when, and which apiservers are up")),
                (true, false) => SELF_TEST.fail(
                    format!("{}; {seen}", test.result()),
                    format!(
                        "{ask}: take the virtual IP out of what is named, or leave it to that and stop apivip"
                    ),
                ),
                (true, true) if test.failing.is_some() => {
                    SELF_TEST.warning(test.result(), format!("{ask} tells whether the next one fails, too"))
                }
                (true, true) => SELF_TEST.ok(test.result()),
            };
            finding.about(test.vip)
        })
        .collect();
    let told = |problem: &str| {
        problem == status.summary || status.selftests.iter().any(|test| problem.contains(&test.result()))
    };
    let problems: Vec<Finding> = status
        .problems
        .iter()
        .filter(|problem| !told(&problem.what))
        .map(|problem| PROBLEMS.warning(problem.what.as_str(), format!("{ask}; {}", problem.todo)))
        .collect();
    if problems.is_empty() {
        all.push(PROBLEMS.ok("none besides what stands above"));
    }
    all.extend(problems);
    all
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;
    use crate::status::sample;

    fn verdicts(status: &Status) -> Vec<(&'static str, Verdict)> {
        let value = serde_json::to_value(status).unwrap();
        let found = running(Some(&value), Path::new("/run/apivip"));
        found.into_iter().map(|finding| (finding.id, finding.verdict)).collect()
    }

    #[test]
    fn a_connection_that_the_daemon_cannot_make_fails_the_check() {
        let mut status = sample();
        (status.problems, status.selftests) = (Vec::new(), vec![test(true, None, Some("rules"))]);
        let good = [("self-test", Verdict::Ok), ("daemon-problems", Verdict::Ok)];
        assert_eq!(verdicts(&status), good);
        for bad in [test(false, Some("timeout"), None), test(true, None, Some("neighbour-dnat"))] {
            status.selftests = vec![bad];
            status.problems = Vec::new();
            assert_eq!(verdicts(&status)[0], ("self-test", Verdict::Fail));
        }
        status.selftests = vec![test(true, Some("timeout"), Some("rules"))];
        assert_eq!(verdicts(&status)[0], ("self-test", Verdict::Warning));
    }

    #[test]
    fn what_the_status_complains_of_is_a_warning_and_told_once() {
        let mut status = sample();
        status.selftests = vec![test(false, Some("timeout"), None)];
        let problem = |what: String| crate::status::Problem { what, todo: "mend it".to_owned() };
        let repeated = format!("a connection of this node to it {}", status.selftests[0].result());
        status.problems = vec![problem("192.0.2.11:6443 is gone".to_owned()), problem(repeated)];
        let expected = [("self-test", Verdict::Fail), ("daemon-problems", Verdict::Warning)];
        assert_eq!(verdicts(&status), expected);
    }

    #[test]
    fn a_status_that_cannot_be_read_is_unknown_and_none_is_nothing() {
        let other = serde_json::json!({"pid": 1});
        let found = running(Some(&other), Path::new("/run/apivip"));
        assert_eq!(found[0].verdict, Verdict::Unknown);
        assert!(running(None, Path::new("/run/apivip")).is_empty());
    }

    fn test(ready: bool, failing: Option<&str>, by: Option<&str>) -> crate::status::SelfTestStatus {
        crate::status::SelfTestStatus {
            vip: "10.96.0.1:443".parse().unwrap(),
            ready,
            failing: failing.map(str::to_owned),
            failures: u32::from(failing.is_some()) * 2,
            took_us: failing.is_none().then_some(500),
            seconds_ago: 1,
            answered_seconds_ago: None,
            answered_by: by.map(str::to_owned),
            explanation: by.map(str::to_owned),
            backend: None,
            others: None,
            others_blocked: None,
        }
    }
}
