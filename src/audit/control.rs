//! Verdicts on how the control plane is set: what its flags and access reviews tell. Pure.

use super::catalogue::kubelet::VERIFIED;
use super::catalogue::proxy::{HTTPS, NODES, PODS, SERVICES};
use super::catalogue::requests::AUTHORIZATION;
use super::finding::{Check, Finding, Severity};
use super::flags::Flags;
use super::started::Started;
use crate::columns::few;

/// What an access review said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Who allowed it, in the authorizer's words; often empty.
    pub reason: String,
}

/// A review, or why there is none.
pub type Reviewed = Result<Review, String>;

/// Whom reviews are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Requests without credentials.
    Anonymous,
    /// Whoever has credentials.
    Authenticated,
    /// Every service account.
    ServiceAccounts,
    /// The credentials of this audit.
    Caller,
}

impl Subject {
    /// Each.
    pub const ALL: [Self; 4] = [Self::Anonymous, Self::Authenticated, Self::ServiceAccounts, Self::Caller];

    /// As evidence names it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Anonymous => "system:anonymous",
            Self::Authenticated => "system:authenticated",
            Self::ServiceAccounts => "system:serviceaccounts",
            Self::Caller => "these credentials",
        }
    }
}

/// A Service that the proxy may lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// NAMESPACE/NAME.
    pub name: String,
    /// One of its ports is for HTTPS.
    pub https: bool,
    /// Addresses of others that it claims: `externalIPs`, and those of a load balancer.
    pub claims: Vec<String>,
}

/// What was found out about the control plane.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// What each kube-apiserver that can be seen was started with.
    pub started: Vec<Started>,
    /// What a tool that starts them all was told to start them with.
    pub told: Option<Started>,
    /// Those are all apiservers, by sources that no Pod can forge: what is true of them is true of the control plane.
    pub all_flags: bool,
    /// Whether the caller may do something that does not exist.
    pub nonsense: Option<Reviewed>,
    /// Whether everybody with credentials may.
    pub everybody: Option<Reviewed>,
    /// Rights to the proxy of `nodes`, `pods` and `services`.
    pub proxies: Vec<(&'static str, Subject, Reviewed)>,
    /// All Services, or why they cannot be listed.
    pub services: Option<Result<Vec<Served>, String>>,
    /// Traces of a konnectivity agent, each with where it was found; or why nothing is known.
    pub agents: Option<Result<Vec<String>, String>>,
}

/// What would let the flags be known.
pub(super) const NEED_FLAGS: &str = "on a node of the control plane --apiserver-manifest or --host-proc; elsewhere the right to list Pods in \
     kube-system, where kube-apiserver runs as a static Pod, or to get the ConfigMap kubeadm-config there";
/// Why nothing is known of them.
pub(super) const NO_FLAGS: &str = "no kube-apiserver's flags can be read";

impl Control {
    /// Adds what this host tells, which is the nearest and comes first. One mirror Pod with the flags of what was seen
    /// here, file and all, is no other apiserver; and what was told counts only where nothing is seen.
    pub fn add_local(&mut self, found: Vec<Started>) {
        let mirror = |one: &Started| found.iter().any(|here| here.flags == one.flags);
        if let Some(at) = self.started.iter().position(mirror) {
            self.started.remove(at);
        }
        self.started.splice(0..0, found);
        if let (true, Some(told)) = (self.started.is_empty(), self.told.take()) {
            self.started.push(told);
            self.all_flags = true;
        }
    }

    /// A pass by the flags, if they are those of all apiservers.
    pub fn complete(&self, check: &Check, evidence: String) -> Finding {
        if self.all_flags {
            return check.pass(evidence);
        }
        check.unknown(format!("{evidence}; the flags of other apiservers cannot be read"), NEED_FLAGS)
    }
}

/// All findings.
pub fn findings(seen: &Control) -> Vec<Finding> {
    let mut all = vec![authorization(seen), verified(seen)];
    all.extend(proxies(seen));
    all.push(https(seen));
    all.extend(tunnel::findings(seen));
    all
}

fn authorization(seen: &Control) -> Finding {
    let modes = seen.started.iter().map(|one| (&one.place, one.flags.get("authorization-mode")));
    for (place, mode) in modes.clone() {
        match mode {
            None if seen.started.iter().all(|one| one.flags.get("authorization-config").is_none()) => {
                return AUTHORIZATION
                    .fail(format!("{place}: no --authorization-mode, which means AlwaysAllow"));
            }
            Some(mode) if mode.split(',').any(|mode| mode == "AlwaysAllow") => {
                return AUTHORIZATION.fail(format!("{place}: --authorization-mode={mode}"));
            }
            _ => {}
        }
    }
    match &seen.nonsense {
        Some(Ok(review)) if !review.allowed => {
            AUTHORIZATION.pass("these credentials may not do a thing that does not exist")
        }
        Some(Ok(review)) if review.reason.starts_with("RBAC:") => AUTHORIZATION.pass(format!(
            "RBAC allows these credentials everything ({})",
            review.reason
        )),
        // So it is for the group system:masters too, whatever the mode.
        Some(Ok(_)) => match (&seen.everybody, modes.clone().find_map(|(place, mode)| Some((place, mode?)))) {
            (Some(Ok(everybody)), _) if everybody.allowed && everybody.reason.is_empty() => AUTHORIZATION
                .fail("everybody with credentials may do even what does not exist, and no rule of RBAC says so"),
            (Some(Ok(everybody)), _) if everybody.allowed => AUTHORIZATION
                .fail(format!("everybody with credentials may do everything ({})", everybody.reason)),
            (Some(Ok(_)), _) => {
                AUTHORIZATION.pass("these credentials are allowed everything, and others are not")
            }
            (_, Some((place, mode))) if seen.all_flags => {
                AUTHORIZATION.pass(format!("{place}: --authorization-mode={mode}"))
            }
            _ => AUTHORIZATION.unknown(
                "these credentials are allowed even what does not exist, as administrators are in every mode",
                "the right to create subjectaccessreviews.authorization.k8s.io, or the credentials of the daemon",
            ),
        },
        Some(Err(error)) => AUTHORIZATION.unknown(error.as_str(), "a client certificate or token that the apiserver accepts"),
        None => AUTHORIZATION.unknown("no apiserver could be asked", "give --kubeconfig FILE as for apivip run"),
    }
}

fn verified(seen: &Control) -> Finding {
    by_flags(&VERIFIED, seen, |flags| match flags.get("kubelet-certificate-authority") {
        Some(file) => Ok(format!("--kubelet-certificate-authority={file}")),
        None => Err("no --kubelet-certificate-authority".to_owned()),
    })
}

/// One apiserver that fails is a failure.
fn by_flags(check: &Check, seen: &Control, judge: impl Fn(&Flags) -> Result<String, String>) -> Finding {
    let Some(first) = seen.started.first() else { return check.unknown(NO_FLAGS, NEED_FLAGS) };
    let bad = seen.started.iter().find_map(|one| Some((&one.place, judge(&one.flags).err()?)));
    match (bad, judge(&first.flags)) {
        (Some((place, why)), _) => check.fail(format!("{place}: {why}")),
        (None, Ok(text) | Err(text)) => seen.complete(check, format!("{}: {text}", first.place)),
    }
}

fn proxies(seen: &Control) -> Vec<Finding> {
    let mut all = Vec::new();
    for (check, resource) in [(&NODES, "nodes"), (&PODS, "pods"), (&SERVICES, "services")] {
        let of = |subject: Subject| {
            seen.proxies.iter().filter(move |(what, whom, _)| *what == resource && *whom == subject)
        };
        for subject in Subject::ALL {
            let reviews: Vec<&Reviewed> = of(subject).map(|(_, _, review)| review).collect();
            all.push(proxy(check, resource, subject, &reviews));
        }
    }
    all
}

fn proxy(check: &Check, resource: &str, subject: Subject, reviews: &[&Reviewed]) -> Finding {
    let finding = match reviews.iter().find(|review| review.as_ref().is_ok_and(|review| review.allowed)) {
        Some(Ok(review)) => {
            let reason = if review.reason.is_empty() { "" } else { ": " };
            let found = check.fail(format!("allowed{reason}{}", review.reason));
            match subject {
                // An administrator may; a daemon need not.
                Subject::Caller => found.of(Severity::Low).mended_by(format!(
                    "run daemons with the Role of docs/install/rbac.yaml, which has no {resource}/proxy"
                )),
                _ => found,
            }
        }
        _ => match reviews.iter().find_map(|review| review.as_ref().err()) {
            Some(error) => check.unknown(
                error.as_str(),
                "the right to create subjectaccessreviews.authorization.k8s.io (see docs/audit.md)",
            ),
            None if reviews.is_empty() => {
                check.unknown("no apiserver could be asked", "give --kubeconfig FILE as for apivip run")
            }
            None => check.pass(
                "denied (get, create) for the cluster; bindings in single namespaces are not looked for",
            ),
        },
    };
    finding.about(subject.label())
}

fn https(seen: &Control) -> Finding {
    let services = match &seen.services {
        Some(Ok(services)) => services,
        Some(Err(error)) => {
            return HTTPS.unknown(error.as_str(), "the right to list services of all namespaces");
        }
        None => {
            return HTTPS.unknown("no apiserver could be asked", "give --kubeconfig FILE as for apivip run");
        }
    };
    let with: Vec<&str> = services.iter().filter(|s| s.https).map(|s| s.name.as_str()).collect();
    let without: Vec<&str> = services.iter().filter(|s| !s.https).map(|s| s.name.as_str()).collect();
    if without.is_empty() {
        return HTTPS.pass(format!("all {} Services: {}", with.len(), few(&with)));
    }
    HTTPS.fail(format!(
        "{} of {} Services have none: {}; those that have one: {}",
        without.len(),
        services.len(),
        few(&without),
        if with.is_empty() { "none".to_owned() } else { few(&with) }
    ))
}

#[cfg(test)]
mod tests;
mod tunnel;
