//! Checks of the access to the API: credentials, apiservers, clocks, what is published, permissions. Pure.
//!
//! In: [`ApiState`]. Out: a finding for each credential, apiserver and permission.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::node::endpoints_command;
use super::report::{Check, Finding, Group};
use crate::columns::few;
use crate::kube::review::{AccessReview, Permission, ReviewError};
use crate::model::snapshot::{ServiceStatus, Snapshot};
use crate::model::types::ServiceKey;
use crate::status::duration;
use crate::transport::readyz::Inspection;
use crate::transport::{Validity, Warning};

/// What was observed of the API.
#[derive(Clone, Debug, Default)]
pub struct ApiState {
    /// The source of the credentials and warnings about them; or why there are none.
    pub access: Option<Result<(String, Vec<Warning>), String>>,
    /// The file that `--kubeconfig` names.
    pub kubeconfig: Option<String>,
    /// From when to when credentials are good.
    pub validities: Vec<(&'static str, Validity)>,
    /// Names that stand for no address, and why.
    pub unresolved: Vec<(String, String)>,
    /// Each apiserver that is known.
    pub examined: Vec<Inspection>,
    /// The name that certificates must carry.
    pub name: String,
    /// The apiserver that was asked about Service and permissions, and its answers; or why none was asked.
    pub audience: Option<Result<(SocketAddr, AccessReview), String>>,
    /// The Service.
    pub service: ServiceKey,
    /// Seconds since 1970.
    pub now: i64,
}

/// Where kubeconfigs are.
const KUBECONFIGS: &str =
    "ls -l /etc/apivip/kubeconfig /etc/kubernetes/*.conf: set --kubeconfig to the file that apivip run uses";

const fn api(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Api, title }
}

const ACCESS: Check = api("api-access", "credentials for the API");
const CA: Check = api("ca-expiry", "expiry of the cluster CA");
const CLIENT: Check = api("client-certificate-expiry", "expiry of the client certificate");
const TOKEN: Check = api("token-expiry", "expiry of the token");
const NAMES: Check = api("apiserver-name", "resolution of API server names");
const KNOWN: Check = api("apiservers", "known API servers");
const TCP: Check = api("apiserver-tcp", "TCP connection to the API server");
const TLS: Check = api("apiserver-tls", "certificate verification of the API server");
const CERTIFICATE: Check = api("apiserver-certificate-expiry", "expiry of the API server certificate");
const READY: Check = api("apiserver-readyz", "readiness of the API server");
const CLOCK: Check = api("clock", "clock difference between this node and the API servers");

/// A server's clock has whole seconds, and answers take their time.
const SKEW: i64 = 5;
/// Tokens and certificates that were just made are refused.
const BAD_SKEW: i64 = 60;
/// Who renews in time does so long before the last tenth, or the last days, of its validity.
const RENEWAL: i64 = 14 * 86_400;
/// For a token that says its end only: kubelets renew theirs at the latest at a fifth of an hour before.
const TOKEN_RENEWAL: i64 = 300;

/// All findings.
pub fn findings(observed: &ApiState) -> Vec<Finding> {
    let mut all = vec![access(observed)];
    all.extend(validities(observed));
    all.extend(observed.unresolved.iter().map(|(name, why)| {
        let fix = format!(
            "getent ahosts {name}: correct the name, use the address instead, or fix the name server"
        );
        NAMES.fail(why.as_str(), fix).about(name)
    }));
    if observed.examined.is_empty() {
        all.push(KNOWN.unknown(
            "unknown: no kubeconfig, seed, saved state or running daemon names an API server",
            endpoints_command(&observed.service),
        ));
    } else {
        let reached = observed.examined.iter().filter(|examined| examined.connected.is_ok()).count();
        let text = format!("{reached} of {} accept connections", observed.examined.len());
        all.push(match reached {
            0 => {
                let reach = reach(observed.examined[0].address);
                KNOWN.fail(
                    text,
                    format!("{reach}: correct --seed, the server of the kubeconfig, or the network"),
                )
            }
            _ => KNOWN.ok(text),
        });
    }
    all.extend(observed.examined.iter().flat_map(|examined| apiserver(examined, observed)));
    all.push(clock(observed));
    all.extend(published_findings(observed));
    all
}

fn access(observed: &ApiState) -> Finding {
    match &observed.access {
        None => ACCESS.unknown("not running in a Pod, and --kubeconfig is not set", KUBECONFIGS),
        Some(Err(error)) => {
            let show = match &observed.kubeconfig {
                Some(_) => format!("{} config view", kubectl(observed)),
                None => "ls -l /var/run/secrets/kubernetes.io/serviceaccount".to_owned(),
            };
            let fix = format!("{show}, and correct the reported error: apivip run does not start with it");
            ACCESS.fail(error.as_str(), fix)
        }
        Some(Ok((source, warnings))) if warnings.is_empty() => ACCESS.ok(source.as_str()),
        Some(Ok((source, warnings))) => {
            let texts: Vec<String> = warnings.iter().map(Warning::to_string).collect();
            let said = format!("{source}; {}", texts.join("; "));
            match warnings.iter().any(|warning| matches!(warning, Warning::Date(_))) {
                true => {
                    ACCESS.warning(said, "timedatectl: check the clock of the node, then renew what expired")
                }
                false => ACCESS.warning(
                    said,
                    format!("{} config view, and remove the ignored fields", kubectl(observed)),
                ),
            }
        }
    }
}

fn validities(observed: &ApiState) -> Vec<Finding> {
    if !matches!(observed.access, Some(Ok(_))) {
        return Vec::new();
    }
    let of = |wanted: &str| {
        observed.validities.iter().find(|(name, _)| *name == wanted).map(|(_, validity)| *validity)
    };
    let mut all = vec![match of("ca") {
        Some(found) => ages(
            &CA,
            found,
            observed.now,
            "kubeadm certs check-expiration: renew the CA, and distribute the old and the new CA to every node until all certificates are renewed",
        ),
        None => CA.unknown("cannot read its expiry", show_ca(observed)),
    }];
    let client = of("client_certificate").map(|found| {
        ages(
            &CLIENT,
            found,
            observed.now,
            "kubeadm certs renew all, or renew it with the tool that created it",
        )
    });
    let token = of("token").map(|found| {
        ages(&TOKEN, found, observed.now, "journalctl -u kubelet: find out why the token is not renewed")
    });
    all.extend(client);
    all.extend(token);
    all
}

/// What `kubectl` has to be called with to be who the daemon is; in a Pod it is, by the service account.
fn kubectl(observed: &ApiState) -> String {
    observed
        .kubeconfig
        .as_ref()
        .map_or_else(|| "kubectl".to_owned(), |file| format!("kubectl --kubeconfig {file}"))
}

fn show_ca(observed: &ApiState) -> String {
    let show = "openssl x509 -noout -enddate";
    match &observed.kubeconfig {
        None => format!("{show} -in /var/run/secrets/kubernetes.io/serviceaccount/ca.crt"),
        Some(_) => format!(
            "{} config view --raw --minify --flatten -o jsonpath='{{.clusters[0].cluster.certificate-authority-data}}' | base64 -d | {show}",
            kubectl(observed)
        ),
    }
}

fn ages(check: &Check, validity: Validity, now: i64, fix: &str) -> Finding {
    let left = validity.end - now;
    if left < 0 {
        let ago = duration(left.unsigned_abs());
        return check.fail(format!("expired {ago} ago"), format!("{fix}; or correct the clock of this node"));
    }
    if let Some(begin) = validity.begin.filter(|begin| *begin > now) {
        let ahead = duration((begin - now).unsigned_abs());
        return check.fail(
            format!("not valid yet, for another {ahead}"),
            "chronyc makestep, on this node or where it was issued: correct the clock that is wrong",
        );
    }
    let soon = validity.begin.map_or(TOKEN_RENEWAL, |begin| ((validity.end - begin) / 10).min(RENEWAL));
    let text = format!("valid for another {}", duration(left.unsigned_abs()));
    if left < soon { check.warning(text, fix) } else { check.ok(text) }
}

fn apiserver(examined: &Inspection, observed: &ApiState) -> Vec<Finding> {
    let address = examined.address;
    let took = match &examined.connected {
        Err(error) => {
            let fix = format!(
                "{}: check that it runs, and that routes and firewalls allow this node to reach it",
                reach(address)
            );
            return vec![TCP.fail(error.as_str(), fix).about(address)];
        }
        Ok(took) => *took,
    };
    let mut all = vec![TCP.ok(format!("round trip {}", milliseconds(took))).about(address)];
    let why = "certificates cannot be verified without the CA of the cluster";
    match &examined.secured {
        None => {
            all.push(TLS.unknown(why, KUBECONFIGS).about(address));
        }
        Some(Err(error)) => {
            let fix = format!(
                "openssl s_client -connect {address} </dev/null | openssl x509 -noout -text: renew its certificate with that name, correct certificate-authority, tls-server-name or --probe-server-name, or the clock"
            );
            all.push(TLS.fail(error.as_str(), fix).about(address));
        }
        Some(Ok(validity)) => {
            all.push(TLS.ok(format!("signed by the cluster CA for {}", observed.name)).about(address));
            all.extend(validity.map(|found| {
                ages(
                    &CERTIFICATE,
                    found,
                    observed.now,
                    "kubeadm certs renew apiserver, on its node, and restart the API server",
                )
                .about(address)
            }));
        }
    }
    let verbose = format!("{} --server https://{address} get --raw '/readyz?verbose'", kubectl(observed));
    all.extend(examined.answered.as_ref().map(|answered| {
        match answered {
            Err(error) => READY.fail(error.as_str(), format!("{verbose}: check whether it hangs")),
            Ok(ready) => match ready.status {
                200 => READY.ok("answers 200"),
                401 | 403 => {
                    READY.ok(format!("answers {} to anonymous requests, which counts as ready", ready.status))
                }
                500.. => {
                    READY.warning(format!("answers {}: it is alive and not ready", ready.status), verbose)
                }
                other => READY.fail(
                    format!("answers {other}, so it is not an API server"),
                    format!("{}: find out which program listens there", reach(address)),
                ),
            },
        }
        .about(address)
    }));
    all
}

/// Where several answered, the one that is farthest off.
fn clock(observed: &ApiState) -> Finding {
    let skews = observed.examined.iter().filter_map(|examined| {
        let ready = examined.answered.as_ref()?.as_ref().ok()?;
        Some((ready.clock_ahead?, examined.address))
    });
    let Some((skew, address)) = skews.max_by_key(|(skew, _)| skew.abs()) else {
        return CLOCK.unknown("no API server returned its time", "chronyc tracking, or timedatectl");
    };
    let text = format!(
        "{address} is {} {}",
        duration(skew.unsigned_abs()),
        if skew > 0 { "ahead" } else { "behind" }
    );
    let fix = "chronyc makestep, on both: synchronise the clocks";
    if skew.abs() <= SKEW {
        CLOCK.ok(format!("no API server differs by more than {SKEW} s"))
    } else if skew.abs() <= BAD_SKEW {
        CLOCK.warning(text, fix)
    } else {
        CLOCK.fail(format!("{text}: the validity of certificates and tokens depends on it"), fix)
    }
}

fn reach(address: SocketAddr) -> String {
    format!("curl -vk https://{address}/readyz")
}

fn milliseconds(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1000.0)
}

const READ: Check = api("api-read", "access to the Service and its endpoints");
const PERMISSION: Check = api("permission", "RBAC permissions of the daemon");

/// What was read, and each permission that matters.
fn published_findings(observed: &ApiState) -> Vec<Finding> {
    let ServiceKey { namespace, .. } = &observed.service;
    let kubectl = kubectl(observed);
    let list = format!("{kubectl} get service,endpointslice -n {namespace}");
    let (address, audience) = match &observed.audience {
        Some(Ok(answered)) => answered,
        Some(Err(error)) => return vec![READ.fail(error.as_str(), list)],
        None => {
            let why = "no API server with a verified certificate can be queried";
            let allowed = format!("{kubectl} auth can-i --list -n {namespace}");
            return vec![READ.unknown(why, list), PERMISSION.unknown(why, allowed)];
        }
    };
    let mut all = vec![match &audience.snapshot {
        Ok(snapshot) => published(snapshot, *address, &observed.service),
        Err(error) => READ.fail(error.as_str(), list),
    }];
    all.extend(audience.permissions.iter().map(|asked| permission(asked, namespace, &kubectl)));
    all
}

fn published(snapshot: &Snapshot, from: SocketAddr, service: &ServiceKey) -> Finding {
    let ServiceKey { namespace, name } = service;
    let fix = format!("kubectl get service,endpointslice -n {namespace}; check --service {service}");
    let empty: Vec<String> =
        snapshot.frontends.iter().filter(|f| f.backends.is_empty()).map(|f| f.vip.to_string()).collect();
    match snapshot.service {
        ServiceStatus::Missing => return READ.fail("the Service does not exist", fix),
        ServiceStatus::Headless => return READ.fail("the Service has no ClusterIP", fix),
        ServiceStatus::Unusable => {
            return READ.fail("the Service has no usable ClusterIP and TCP port", fix);
        }
        ServiceStatus::Found => {}
    }
    if !empty.is_empty() {
        return READ.warning(format!("no endpoint is published for {}", few(&empty)), fix);
    }
    let rejected: Vec<String> = snapshot.rejected.iter().map(ToString::to_string).collect();
    if !rejected.is_empty() {
        return READ.warning(format!("ignored addresses: {}", few(&rejected)), format!("kubectl get endpointslice -n {namespace} -l kubernetes.io/service-name={name} -o yaml, and correct the addresses"));
    }
    let vips: Vec<String> = snapshot.frontends.iter().map(|f| f.vip.to_string()).collect();
    // Each counts once, whatever the number of its ports.
    let apiservers: BTreeSet<IpAddr> = snapshot.backends().iter().map(SocketAddr::ip).collect();
    READ.ok(format!("from {from}: {} with {} API servers", few(&vips), apiservers.len()))
}

fn permission(asked: &Permission, namespace: &str, kubectl: &str) -> Finding {
    let about = format!("{} {}", asked.verb, asked.resource.rbac_name());
    let finding = match &asked.allowed {
        Ok(true) => PERMISSION.ok(format!("allowed in namespace {namespace}")),
        Ok(false) => PERMISSION.fail(
            format!("denied in namespace {namespace}"),
            format!(
                "kubectl apply -f docs/install/rbac.yaml, or add the verb {} on {} to the Role, and bind it to this user",
                asked.verb,
                asked.resource.rbac_name()
            ),
        ),
        Err(ReviewError::Unauthorized(what)) => {
            PERMISSION.fail("the API server rejects the credentials (401)", format!("{kubectl} get --raw /api: check {what}"))
        }
        Err(ReviewError::Unanswered(error)) => PERMISSION.unknown(
            error.as_str(),
            format!(
                "{kubectl} auth can-i {} {} -n {namespace}",
                asked.verb,
                asked.resource.rbac_name()
            ),
        ),
    };
    finding.about(about)
}

#[cfg(test)]
mod tests;
