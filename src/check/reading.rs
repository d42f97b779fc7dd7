//! Verdicts on what an apiserver publishes and allows. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::api::{Api, api, kubectl};
use super::finding::{Check, Finding};
use crate::columns::few;
use crate::kube::review::{Permission, ReviewError};
use crate::model::snapshot::{ServiceStatus, Snapshot};
use crate::model::types::ServiceKey;

const READ: Check = api("api-read", "the Service and its endpoints can be read");
const PERMISSION: Check = api("permission", "the daemon may do what it does");

/// What was read, and each permission that matters.
pub(super) fn reading(seen: &Api) -> Vec<Finding> {
    let ServiceKey { namespace, .. } = &seen.service;
    let kubectl = kubectl(seen);
    let list = format!("{kubectl} get service,endpointslice -n {namespace}");
    let (address, audience) = match &seen.audience {
        Some(Ok(answered)) => answered,
        Some(Err(error)) => return vec![READ.fail(error.as_str(), list)],
        None => {
            let why = "no apiserver with a verified certificate could be asked";
            let allowed = format!("{kubectl} auth can-i --list -n {namespace}");
            return vec![READ.unknown(why, list), PERMISSION.unknown(why, allowed)];
        }
    };
    let mut all = vec![match &audience.snapshot {
        Ok(snapshot) => published(snapshot, *address, &seen.service),
        Err(error) => READ.fail(error.as_str(), list),
    }];
    all.extend(audience.permissions.iter().map(|asked| permission(asked, namespace, &kubectl)));
    all
}

fn published(snapshot: &Snapshot, from: SocketAddr, service: &ServiceKey) -> Finding {
    let ServiceKey { namespace, name } = service;
    let mend = format!("kubectl get service,endpointslice -n {namespace}; is --service {service} right?");
    let empty: Vec<String> =
        snapshot.frontends.iter().filter(|f| f.backends.is_empty()).map(|f| f.vip.to_string()).collect();
    match snapshot.service {
        ServiceStatus::Missing => return READ.fail("the Service does not exist", mend),
        ServiceStatus::Headless => return READ.fail("the Service has no ClusterIP", mend),
        ServiceStatus::Unusable => {
            return READ.fail("the Service has no usable ClusterIP and TCP port", mend);
        }
        ServiceStatus::Found => {}
    }
    if !empty.is_empty() {
        return READ.warning(format!("no endpoint is published for {}", few(&empty)), mend);
    }
    let rejected: Vec<String> = snapshot.rejected.iter().map(ToString::to_string).collect();
    if !rejected.is_empty() {
        return READ.warning(format!("addresses are left out: {}", few(&rejected)), format!("kubectl get endpointslice -n {namespace} -l kubernetes.io/service-name={name} -o yaml, and correct the addresses"));
    }
    let vips: Vec<String> = snapshot.frontends.iter().map(|f| f.vip.to_string()).collect();
    // Each counts once, whatever the number of its ports.
    let apiservers: BTreeSet<IpAddr> = snapshot.backends().iter().map(SocketAddr::ip).collect();
    READ.ok(format!("from {from}: {} with {} apiservers", few(&vips), apiservers.len()))
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
            PERMISSION.fail("the apiserver does not accept the credentials (401)", format!("{kubectl} get --raw /api: check {what}"))
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
