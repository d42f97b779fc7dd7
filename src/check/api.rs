//! Verdicts on the access to the API: credentials, apiservers, permissions, clocks. Pure.

use std::net::SocketAddr;
use std::time::Duration;

use super::finding::{Check, Finding, Group};
use super::node::published;
use super::reading::reading;
use crate::kube::review::AccessReview;
use crate::model::types::ServiceKey;
use crate::status::duration;
use crate::transport::readyz::Inspection;
use crate::transport::{Lifetime, Warning};

/// What was found out.
#[derive(Clone, Debug, Default)]
pub struct Api {
    /// Where the credentials are from, and what an operator should know of them; or why there are none.
    pub access: Option<Result<(String, Vec<Warning>), String>>,
    /// The file that `--kubeconfig` names.
    pub kubeconfig: Option<String>,
    /// From when to when credentials are good.
    pub lifetimes: Vec<(&'static str, Lifetime)>,
    /// Names that stand for no address, and why.
    pub unresolved: Vec<(String, String)>,
    /// Each apiserver that is known.
    pub examined: Vec<Inspection>,
    /// The name that certificates must carry.
    pub name: String,
    /// Who was asked, and what it said; or why nobody was.
    pub audience: Option<Result<(SocketAddr, AccessReview), String>>,
    /// The Service.
    pub service: ServiceKey,
    /// Seconds since 1970.
    pub now: i64,
}

/// Where kubeconfigs are.
const KUBECONFIGS: &str = "ls -l /etc/apivip/kubeconfig /etc/kubernetes/*.conf: the one that apivip run has is what --kubeconfig takes";

pub(super) const fn api(id: &'static str, title: &'static str) -> Check {
    Check { id, group: Group::Api, title }
}

const ACCESS: Check = api("api-access", "access to the API is configured");
const CA: Check = api("ca-expiry", "the cluster's CA");
const CLIENT: Check = api("client-certificate-expiry", "the client certificate");
const TOKEN: Check = api("token-expiry", "the token");
const NAMES: Check = api("apiserver-name", "names of apiservers resolve");
const KNOWN: Check = api("apiservers", "apiservers that are known");
const TCP: Check = api("apiserver-tcp", "an apiserver accepts connections");
const TLS: Check = api("apiserver-tls", "its certificate is verified");
const CERTIFICATE: Check = api("apiserver-certificate-expiry", "its certificate");
const READY: Check = api("apiserver-readyz", "it is ready");
const CLOCK: Check = api("clock", "this node's clock and an apiserver's");

/// A server's clock has whole seconds, and answers take their time.
const SKEW: i64 = 5;
/// Tokens and certificates that were just made are refused.
const BAD_SKEW: i64 = 60;
/// Who renews in time does so long before the last tenth, or the last days, of a lifetime.
const RENEWAL: i64 = 14 * 86_400;
/// For a token that says its end only: kubelets renew theirs at the latest at a fifth of an hour before.
const TOKEN_RENEWAL: i64 = 300;

/// All findings.
pub fn findings(seen: &Api) -> Vec<Finding> {
    let mut all = vec![access(seen)];
    all.extend(lifetimes(seen));
    all.extend(seen.unresolved.iter().map(|(name, why)| {
        let mend =
            format!("getent ahosts {name}: correct the name, or name the address, or mend the name server");
        NAMES.fail(why.as_str(), mend).about(name)
    }));
    if seen.examined.is_empty() {
        all.push(KNOWN.unknown(
            "none is known: no kubeconfig, seed, saved state or running daemon names one",
            published(&seen.service),
        ));
    } else {
        let reached = seen.examined.iter().filter(|examined| examined.connected.is_ok()).count();
        let text = format!("{reached} of {} can be connected to", seen.examined.len());
        all.push(match reached {
            0 => {
                let reach = reach(seen.examined[0].address);
                KNOWN.fail(text, format!("{reach}: correct --seed, the kubeconfig's server, or the network"))
            }
            _ => KNOWN.ok(text),
        });
    }
    all.extend(seen.examined.iter().flat_map(|examined| apiserver(examined, seen)));
    all.push(clock(seen));
    all.extend(reading(seen));
    all
}

fn access(seen: &Api) -> Finding {
    match &seen.access {
        None => ACCESS.unknown("no kubeconfig is given, and this is no Pod", KUBECONFIGS),
        Some(Err(error)) => {
            let look = match &seen.kubeconfig {
                Some(_) => format!("{} config view", kubectl(seen)),
                None => "ls -l /var/run/secrets/kubernetes.io/serviceaccount".to_owned(),
            };
            let mend =
                format!("{look}, and correct what the line names: apivip run refuses to start with it");
            ACCESS.fail(error.as_str(), mend)
        }
        Some(Ok((source, warnings))) if warnings.is_empty() => ACCESS.ok(source.as_str()),
        Some(Ok((source, warnings))) => {
            let texts: Vec<String> = warnings.iter().map(Warning::to_string).collect();
            let said = format!("{source}; {}", texts.join("; "));
            match warnings.iter().any(|warning| matches!(warning, Warning::Date(_))) {
                true => {
                    ACCESS.warning(said, "timedatectl: is the node's clock right? Then renew what expired")
                }
                false => {
                    ACCESS.warning(said, format!("{} config view, and remove what is ignored", kubectl(seen)))
                }
            }
        }
    }
}

fn lifetimes(seen: &Api) -> Vec<Finding> {
    if !matches!(seen.access, Some(Ok(_))) {
        return Vec::new();
    }
    let of =
        |wanted: &str| seen.lifetimes.iter().find(|(name, _)| *name == wanted).map(|(_, lifetime)| *lifetime);
    let mut all = vec![match of("ca") {
        Some(found) => ages(
            &CA,
            found,
            seen.now,
            "kubeadm certs check-expiration: renew the CA, and give every node both until all certificates are new",
        ),
        None => CA.unknown("its end cannot be read", show_ca(seen)),
    }];
    let client = of("client_certificate").map(|found| {
        ages(&CLIENT, found, seen.now, "kubeadm certs renew all, or renew it as the tool that made it says")
    });
    let token = of("token").map(|found| {
        ages(&TOKEN, found, seen.now, "journalctl -u kubelet: see why the token is not renewed")
    });
    all.extend(client);
    all.extend(token);
    all
}

/// What `kubectl` has to be called with to be who the daemon is; in a Pod it is, by the service account.
pub(super) fn kubectl(seen: &Api) -> String {
    seen.kubeconfig
        .as_ref()
        .map_or_else(|| "kubectl".to_owned(), |file| format!("kubectl --kubeconfig {file}"))
}

fn show_ca(seen: &Api) -> String {
    let show = "openssl x509 -noout -enddate";
    match &seen.kubeconfig {
        None => format!("{show} -in /var/run/secrets/kubernetes.io/serviceaccount/ca.crt"),
        Some(_) => format!(
            "{} config view --raw --minify --flatten -o jsonpath='{{.clusters[0].cluster.certificate-authority-data}}' | base64 -d | {show}",
            kubectl(seen)
        ),
    }
}

fn ages(check: &Check, lifetime: Lifetime, now: i64, mend: &str) -> Finding {
    let left = lifetime.end - now;
    if left < 0 {
        let ago = duration(left.unsigned_abs());
        return check.fail(format!("expired {ago} ago"), format!("{mend}; or correct this node's clock"));
    }
    if let Some(begin) = lifetime.begin.filter(|begin| *begin > now) {
        let ahead = duration((begin - now).unsigned_abs());
        return check.fail(
            format!("not valid for another {ahead}"),
            "chronyc makestep, here or where it was made: correct the clock that is wrong",
        );
    }
    let soon = lifetime.begin.map_or(TOKEN_RENEWAL, |begin| ((lifetime.end - begin) / 10).min(RENEWAL));
    let text = format!("good for another {}", duration(left.unsigned_abs()));
    if left < soon { check.warning(text, mend) } else { check.ok(text) }
}

fn apiserver(examined: &Inspection, seen: &Api) -> Vec<Finding> {
    let address = examined.address;
    let took = match &examined.connected {
        Err(error) => {
            let mend = format!(
                "{}: see whether it runs, and whether routes and firewalls let this node reach it",
                reach(address)
            );
            return vec![TCP.fail(error.as_str(), mend).about(address)];
        }
        Ok(took) => *took,
    };
    let mut all = vec![TCP.ok(format!("round trip {}", milliseconds(took))).about(address)];
    let why = "without the cluster's CA nothing can be verified";
    match &examined.secured {
        None => {
            all.push(TLS.unknown(why, KUBECONFIGS).about(address));
        }
        Some(Err(error)) => {
            let mend = format!(
                "openssl s_client -connect {address} </dev/null | openssl x509 -noout -text: renew its certificate with that name, correct certificate-authority, tls-server-name or --probe-server-name, or the clock"
            );
            all.push(TLS.fail(error.as_str(), mend).about(address));
        }
        Some(Ok(lifetime)) => {
            all.push(TLS.ok(format!("signed by the cluster's CA for {}", seen.name)).about(address));
            all.extend(lifetime.map(|found| {
                ages(
                    &CERTIFICATE,
                    found,
                    seen.now,
                    "kubeadm certs renew apiserver, there, and restart the apiserver",
                )
                .about(address)
            }));
        }
    }
    let verbose = format!("{} --server https://{address} get --raw '/readyz?verbose'", kubectl(seen));
    all.extend(examined.answered.as_ref().map(|answered| {
        match answered {
            Err(error) => READY.fail(error.as_str(), format!("{verbose}: see whether it hangs")),
            Ok(ready) => match ready.status {
                200 => READY.ok("answers 200"),
                401 | 403 => {
                    READY.ok(format!("answers {} to anonymous requests, which counts as ready", ready.status))
                }
                500.. => {
                    READY.warning(format!("answers {}: it is alive and not ready", ready.status), verbose)
                }
                other => READY.fail(
                    format!("answers {other}, which no apiserver does"),
                    format!("{}: see what listens there", reach(address)),
                ),
            },
        }
        .about(address)
    }));
    all
}

/// Where several answered, the one that is farthest off.
fn clock(seen: &Api) -> Finding {
    let skews = seen.examined.iter().filter_map(|examined| {
        let ready = examined.answered.as_ref()?.as_ref().ok()?;
        Some((ready.clock_ahead?, examined.address))
    });
    let Some((skew, address)) = skews.max_by_key(|(skew, _)| skew.abs()) else {
        return CLOCK.unknown("no apiserver told its time", "chronyc tracking, or timedatectl");
    };
    let text = format!(
        "{address} is {} {}",
        duration(skew.unsigned_abs()),
        if skew > 0 { "ahead" } else { "behind" }
    );
    let mend = "chronyc makestep, on both: synchronise the clocks";
    if skew.abs() <= SKEW {
        CLOCK.ok(format!("no apiserver is off by more than {SKEW} s"))
    } else if skew.abs() <= BAD_SKEW {
        CLOCK.warning(text, mend)
    } else {
        CLOCK.fail(format!("{text}: certificates and tokens are judged by it"), mend)
    }
}

fn reach(address: SocketAddr) -> String {
    format!("curl -vk https://{address}/readyz")
}

fn milliseconds(took: Duration) -> String {
    format!("{:.2} ms", took.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests;
