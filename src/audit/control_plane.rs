//! Verdicts on how the control plane is set: its flags, access reviews, Services and tunnels. Pure.
//!
//! In: [`ControlPlane`]. Out: a finding for each check.

use super::catalogue::AuditCheck;
use super::catalogue::kubelet::VERIFIED;
use super::catalogue::proxy::{HTTPS, KONNECTIVITY, NODES, PODS, SERVICES, SSH};
use super::catalogue::requests::AUTHORIZATION;
use super::flags::Flags;
use super::flags::{ApiserverFlags, EGRESS_FLAG, Egress};
use crate::check::report::{Finding, Severity};
use crate::columns::few;

/// What an access review said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessReview {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Who allowed it, in the authorizer's words; often empty.
    pub reason: String,
}

/// A review, or why there is none.
pub type ReviewResult = Result<AccessReview, String>;

/// The subjects of access reviews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Requests without credentials.
    Anonymous,
    /// Every authenticated user.
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

/// A Service that the apiserver's proxy may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSummary {
    /// NAMESPACE/NAME.
    pub name: String,
    /// One of its ports is for HTTPS.
    pub https: bool,
    /// Addresses that it claims: `externalIPs`, and those of a load balancer.
    pub claims: Vec<String>,
}

/// What was found out about the control plane.
#[derive(Clone, Debug, Default)]
pub struct ControlPlane {
    /// The flags of each kube-apiserver that can be observed.
    pub apiservers: Vec<ApiserverFlags>,
    /// The flags that kubeadm's ClusterConfiguration gives to all of them.
    pub kubeadm: Option<ApiserverFlags>,
    /// Those are all apiservers, by sources that no Pod can forge: what is true of them is true of the control plane.
    pub all_flags: bool,
    /// Whether the caller may do something that does not exist.
    pub nonexistent: Option<ReviewResult>,
    /// Whether everybody with credentials may.
    pub everybody: Option<ReviewResult>,
    /// Rights to the proxy of `nodes`, `pods` and `services`.
    pub proxies: Vec<(&'static str, Subject, ReviewResult)>,
    /// All Services, or why they cannot be listed.
    pub services: Option<Result<Vec<ServiceSummary>, String>>,
    /// Traces of a konnectivity agent, each with where it was found; or why nothing is known.
    pub agents: Option<Result<Vec<String>, String>>,
}

/// What would let the flags be known.
pub(super) const NEED_FLAGS: &str = "on a control plane node, --apiserver-manifest or --host-proc; elsewhere permission to list Pods in \
     kube-system, where kube-apiserver runs as a static Pod, or to get the ConfigMap kubeadm-config there";
/// Why nothing is known of them.
pub(super) const NO_FLAGS: &str = "the flags of kube-apiserver cannot be read";

impl ControlPlane {
    /// Adds the apiservers of this host, which come first. A mirror Pod with the same flags is the same apiserver. kubeadm's
    /// configuration counts only where no apiserver can be observed.
    pub fn add_local(&mut self, found: Vec<ApiserverFlags>) {
        let mirror = |one: &ApiserverFlags| found.iter().any(|here| here.flags == one.flags);
        if let Some(at) = self.apiservers.iter().position(mirror) {
            self.apiservers.remove(at);
        }
        self.apiservers.splice(0..0, found);
        if let (true, Some(kubeadm)) = (self.apiservers.is_empty(), self.kubeadm.take()) {
            self.apiservers.push(kubeadm);
            self.all_flags = true;
        }
    }

    /// A pass by the flags, if they are those of all apiservers.
    pub fn complete(&self, check: &AuditCheck, evidence: String) -> Finding {
        if self.all_flags {
            return check.pass(evidence);
        }
        check.unknown(format!("{evidence}; the flags of other API servers cannot be read"), NEED_FLAGS)
    }
}

/// All findings.
pub fn findings(observed: &ControlPlane) -> Vec<Finding> {
    let mut all = vec![authorization(observed), verified(observed)];
    all.extend(proxies(observed));
    all.push(https(observed));
    all.extend(tunnel_findings(observed));
    all
}

fn authorization(observed: &ControlPlane) -> Finding {
    let modes = observed.apiservers.iter().map(|one| (&one.place, one.flags.get("authorization-mode")));
    for (place, mode) in modes.clone() {
        match mode {
            None if observed.apiservers.iter().all(|one| one.flags.get("authorization-config").is_none()) => {
                return AUTHORIZATION
                    .fail(format!("{place}: no --authorization-mode, which means AlwaysAllow"));
            }
            Some(mode) if mode.split(',').any(|mode| mode == "AlwaysAllow") => {
                return AUTHORIZATION.fail(format!("{place}: --authorization-mode={mode}"));
            }
            _ => {}
        }
    }
    match &observed.nonexistent {
        Some(Ok(review)) if !review.allowed => {
            AUTHORIZATION.pass("these credentials are denied a verb and resource that do not exist")
        }
        Some(Ok(review)) if review.reason.starts_with("RBAC:") => AUTHORIZATION.pass(format!(
            "RBAC allows these credentials everything ({})",
            review.reason
        )),
        // So it is for the group system:masters too, whatever the mode.
        Some(Ok(_)) => match (&observed.everybody, modes.clone().find_map(|(place, mode)| Some((place, mode?)))) {
            (Some(Ok(everybody)), _) if everybody.allowed && everybody.reason.is_empty() => AUTHORIZATION
                .fail("all authenticated users are allowed even a verb and resource that do not exist, and no RBAC rule allows it"),
            (Some(Ok(everybody)), _) if everybody.allowed => AUTHORIZATION
                .fail(format!("RBAC allows all authenticated users everything ({})", everybody.reason)),
            (Some(Ok(_)), _) => {
                AUTHORIZATION.pass("these credentials are allowed everything, and other users are not")
            }
            (_, Some((place, mode))) if observed.all_flags => {
                AUTHORIZATION.pass(format!("{place}: --authorization-mode={mode}"))
            }
            _ => AUTHORIZATION.unknown(
                "these credentials are allowed even a verb and resource that do not exist, as administrators are in every mode",
                "permission to create subjectaccessreviews.authorization.k8s.io, or the credentials of the daemon",
            ),
        },
        Some(Err(error)) => AUTHORIZATION.unknown(error.as_str(), "a client certificate or token that the API server accepts"),
        None => AUTHORIZATION.unknown("no API server can be queried", "set --kubeconfig FILE as for apivip run"),
    }
}

fn verified(observed: &ControlPlane) -> Finding {
    by_flags(&VERIFIED, observed, |flags| match flags.get("kubelet-certificate-authority") {
        Some(file) => Ok(format!("--kubelet-certificate-authority={file}")),
        None => Err("no --kubelet-certificate-authority".to_owned()),
    })
}

/// One apiserver that fails is a failure.
fn by_flags(
    check: &AuditCheck,
    observed: &ControlPlane,
    judge: impl Fn(&Flags) -> Result<String, String>,
) -> Finding {
    let Some(first) = observed.apiservers.first() else { return check.unknown(NO_FLAGS, NEED_FLAGS) };
    let bad = observed.apiservers.iter().find_map(|one| Some((&one.place, judge(&one.flags).err()?)));
    match (bad, judge(&first.flags)) {
        (Some((place, why)), _) => check.fail(format!("{place}: {why}")),
        (None, Ok(text) | Err(text)) => observed.complete(check, format!("{}: {text}", first.place)),
    }
}

fn proxies(observed: &ControlPlane) -> Vec<Finding> {
    let mut all = Vec::new();
    for (check, resource) in [(&NODES, "nodes"), (&PODS, "pods"), (&SERVICES, "services")] {
        let of = |subject: Subject| {
            observed.proxies.iter().filter(move |(what, whom, _)| *what == resource && *whom == subject)
        };
        for subject in Subject::ALL {
            let reviews: Vec<&ReviewResult> = of(subject).map(|(_, _, review)| review).collect();
            all.push(proxy(check, resource, subject, &reviews));
        }
    }
    all
}

fn proxy(check: &AuditCheck, resource: &str, subject: Subject, reviews: &[&ReviewResult]) -> Finding {
    let finding = match reviews.iter().find(|review| review.as_ref().is_ok_and(|review| review.allowed)) {
        Some(Ok(review)) => {
            let reason = if review.reason.is_empty() { "" } else { ": " };
            let found = check.fail(format!("allowed{reason}{}", review.reason));
            match subject {
                // An administrator may; a daemon need not.
                Subject::Caller => found.with_severity(Severity::Low).with_fix(format!(
                    "run daemons with the Role of docs/install/rbac.yaml, which does not allow {resource}/proxy"
                )),
                _ => found,
            }
        }
        _ => match reviews.iter().find_map(|review| review.as_ref().err()) {
            Some(error) => check.unknown(
                error.as_str(),
                "permission to create subjectaccessreviews.authorization.k8s.io (see docs/audit.md)",
            ),
            None if reviews.is_empty() => {
                check.unknown("no API server can be queried", "set --kubeconfig FILE as for apivip run")
            }
            None => check.pass(
                "denied (get, create) for the cluster; the audit does not inspect bindings in single namespaces",
            ),
        },
    };
    finding.about(subject.label())
}

fn https(observed: &ControlPlane) -> Finding {
    let services = match &observed.services {
        Some(Ok(services)) => services,
        Some(Err(error)) => {
            return HTTPS.unknown(error.as_str(), "permission to list Services of all namespaces");
        }
        None => {
            return HTTPS.unknown("no API server can be queried", "set --kubeconfig FILE as for apivip run");
        }
    };
    let with: Vec<&str> = services.iter().filter(|s| s.https).map(|s| s.name.as_str()).collect();
    let without: Vec<&str> = services.iter().filter(|s| !s.https).map(|s| s.name.as_str()).collect();
    if without.is_empty() {
        return HTTPS.pass(format!("all {} Services: {}", with.len(), few(&with)));
    }
    HTTPS.fail(format!(
        "{} of {} Services have no HTTPS port: {}; Services with an HTTPS port: {}",
        without.len(),
        services.len(),
        few(&without),
        if with.is_empty() { "none".to_owned() } else { few(&with) }
    ))
}

fn tunnel_findings(observed: &ControlPlane) -> [Finding; 2] {
    [konnectivity(observed), ssh(observed)]
}

fn ssh(observed: &ControlPlane) -> Finding {
    by_flags(&SSH, observed, |flags| match flags.get("ssh-user").or(flags.get("ssh-keyfile")) {
        Some(value) => Err(format!("it uses SSH tunnels ({value})")),
        None => Ok("no --ssh-user".to_owned()),
    })
}

fn konnectivity(observed: &ControlPlane) -> Finding {
    let without_selector = |one: &&ApiserverFlags| one.egress_file().is_none();
    if let Some(one) = observed.apiservers.iter().find(without_selector) {
        return KONNECTIVITY.fail(format!(
            "{}: no --{EGRESS_FLAG}: its connections to nodes, Pods and Services use no tunnel",
            one.place
        ));
    }
    let direct = observed.apiservers.iter().find_map(|one| match &one.egress {
        Ok(Egress::Direct(why)) => Some(format!("{}: {why}", selector(one))),
        _ => None,
    });
    if let Some(direct) = direct {
        return KONNECTIVITY.fail(direct);
    }
    let agents = match &observed.agents {
        Some(Ok(agents)) => agents,
        Some(Err(error)) => {
            return KONNECTIVITY
                .unknown(error.as_str(), "permission to list Pods in kube-system, or --host-proc");
        }
        None => {
            return KONNECTIVITY
                .unknown("no API server can be queried", "set --kubeconfig FILE as for apivip run");
        }
    };
    let found = if agents.is_empty() {
        "no konnectivity agent was found".to_owned()
    } else {
        format!("agents: {}", few(agents))
    };
    let Some(first) = observed.apiservers.first() else {
        return KONNECTIVITY.unknown(format!("{found}; {NO_FLAGS}"), NEED_FLAGS);
    };
    if agents.is_empty() {
        return KONNECTIVITY.fail(format!("{}, and {found}", selector(first)));
    }
    let unread = observed.apiservers.iter().find_map(|one| Some((one, one.egress.as_ref().err()?)));
    match (unread, &first.egress) {
        (Some((one, why)), _) => KONNECTIVITY.unknown(
            format!("{}, which cannot be read: {why}; {found}", selector(one)),
            "an audit on each control plane node as root, where the file can be read",
        ),
        (None, Ok(Egress::Tunnel(protocol))) => {
            observed.complete(&KONNECTIVITY, format!("{}: {protocol}; {found}", selector(first)))
        }
        (None, _) => KONNECTIVITY.unknown(found, NEED_FLAGS),
    }
}

fn selector(one: &ApiserverFlags) -> String {
    format!("{}: --{EGRESS_FLAG}={}", one.place, one.egress_file().unwrap_or_default())
}

#[cfg(test)]
mod tests;
