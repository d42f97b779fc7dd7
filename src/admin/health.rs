//! Health checks, answered in the format of kube-apiserver. Pure.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::model::report::{Phase, Report};
use crate::selftest::{SelfTestResults, TIMEOUT};

/// One check, and why it failed, if it did.
pub(super) type HealthCheck = (&'static str, Result<(), String>);

/// The query of a health check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HealthQuery<'a> {
    verbose: bool,
    exclude: Vec<&'a str>,
}

impl<'a> HealthQuery<'a> {
    pub fn new(text: Option<&'a str>) -> Self {
        let mut query = Self::default();
        for part in text.unwrap_or_default().split('&') {
            match part.split_once('=').unwrap_or((part, "")) {
                ("verbose", _) => query.verbose = true,
                ("exclude", name) if !name.is_empty() => query.exclude.push(name),
                _ => {}
            }
        }
        query
    }

    /// Whether all is well, and the text that says so.
    pub fn answer(&self, endpoint: &str, checks: &[HealthCheck]) -> (bool, String) {
        let mut text = String::new();
        let mut passed = true;
        for (name, outcome) in checks {
            let _ = match outcome {
                _ if self.exclude.contains(name) => writeln!(text, "[+]{name} excluded: ok"),
                Ok(()) => writeln!(text, "[+]{name} ok"),
                Err(reason) => {
                    passed = false;
                    writeln!(text, "[-]{name} failed: {reason}")
                }
            };
        }
        let unknown = self.exclude.iter().filter(|name| checks.iter().all(|(known, _)| known != *name));
        if unknown.count() > 0 {
            text += "warn: a check that is to be excluded does not exist\n";
        }
        if passed && !self.verbose {
            return (true, "ok\n".to_owned());
        }
        let verdict = if passed { "passed" } else { "failed" };
        let _ = writeln!(text, "{endpoint} check {verdict}");
        (passed, text)
    }
}

/// The rules, or the forwarder, are in place.
pub(super) fn dataplane(report: &Report) -> Result<(), String> {
    match report.phase {
        Phase::Programmed | Phase::Unrouted | Phase::Forwarding => Ok(()),
        Phase::Starting => Err("no state is known yet that can be programmed".to_owned()),
        Phase::Waiting => Err("the API publishes nothing that can be programmed".to_owned()),
        Phase::Failed => Err(format!(
            "the kernel rejected the rules: {}",
            report.last_error.as_deref().unwrap_or("no reason given")
        )),
    }
}

/// Every virtual IP answers a connection of this host.
pub(super) fn selftest(results: &SelfTestResults, interval: Duration, now: Instant) -> Result<(), String> {
    if results.is_empty() {
        return Err("no virtual IP has been tested yet".to_owned());
    }
    // Two rounds may be missed, each with as many tests as there are virtual IPs.
    let rounds = u32::try_from(results.len()).unwrap_or(u32::MAX);
    let stale = interval.saturating_add(TIMEOUT.saturating_mul(rounds)).saturating_mul(3);
    for (vip, latest) in results {
        let age = now.saturating_duration_since(latest.at);
        if age > stale {
            return Err(format!("{vip}: the latest test is {} s old", age.as_secs()));
        }
        if !latest.is_ready() {
            let reason = latest.outcome.err().map_or("", |failure| failure.label());
            let seen = latest.by.map(|by| format!("; {}", by.sentence())).unwrap_or_default();
            return Err(format!("{vip}: {reason}, {} in a row{seen}", latest.failures));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::FailReason;
    use crate::selftest::{Component, ForwardedTraffic, SelfTestFailure, SelfTestResult};

    const CHECKS: [&str; 2] = ["reconciler", "selftest"];

    fn answer_to(query: &str, outcomes: [Result<(), String>; 2]) -> (bool, String) {
        let checks: Vec<HealthCheck> = CHECKS.into_iter().zip(outcomes).collect();
        HealthQuery::new(Some(query)).answer("readyz", &checks)
    }

    #[test]
    fn health_checks_have_the_format_of_kube_apiserver() {
        let bad = || Err("timeout".to_owned());
        assert_eq!(answer_to("", [Ok(()), Ok(())]), (true, "ok\n".to_owned()));
        let (passed, text) = answer_to("verbose", [Ok(()), Ok(())]);
        assert!(passed);
        assert_eq!(text, "[+]reconciler ok\n[+]selftest ok\nreadyz check passed\n");
        let (passed, text) = answer_to("", [Ok(()), bad()]);
        assert!(!passed);
        assert_eq!(text, "[+]reconciler ok\n[-]selftest failed: timeout\nreadyz check failed\n");
        let (passed, text) = answer_to("verbose&exclude=selftest", [Ok(()), bad()]);
        assert!(passed);
        assert_eq!(text, "[+]reconciler ok\n[+]selftest excluded: ok\nreadyz check passed\n");
        let (passed, text) = answer_to("verbose=1&exclude=nobody&exclude=", [Ok(()), bad()]);
        assert!(!passed && text.contains("warn: a check"), "{text}");
    }

    #[test]
    fn stale_or_failed_self_test_is_not_ready() {
        let now = Instant::now();
        let interval = Duration::from_secs(5);
        let latest = |failures, answered: bool| SelfTestResult {
            at: now,
            outcome: if failures == 0 {
                Ok(Duration::ZERO)
            } else {
                Err(SelfTestFailure::Failed(FailReason::Timeout))
            },
            by: Some(Component::LocalListener),
            backend: None,
            failures,
            answered: answered.then_some(now),
            pod_traffic: ForwardedTraffic::Unknown,
        };
        let of = |latest, now| selftest(&[("10.96.0.1:443".parse().unwrap(), latest)].into(), interval, now);
        assert!(selftest(&SelfTestResults::new(), interval, now).is_err());
        assert_eq!(of(latest(0, true), now), Ok(()));
        assert_eq!(of(latest(1, true), now), Ok(()));
        let reason = of(latest(2, true), now).unwrap_err();
        assert!(reason.starts_with("10.96.0.1:443: timeout, 2 in a row; a program"), "{reason}");
        assert!(of(latest(1, false), now).is_err());
        assert!(of(latest(0, true), now + Duration::from_secs(27)).is_ok());
        assert!(of(latest(0, true), now + Duration::from_secs(28)).unwrap_err().contains("28 s old"));
    }
}
