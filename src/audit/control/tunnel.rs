//! Verdicts on the tunnels that may carry what an apiserver sends to nodes. Pure.

use super::{Control, NEED_FLAGS, NO_FLAGS, by_flags};
use crate::audit::catalogue::proxy::{KONNECTIVITY, SSH};
use crate::audit::finding::Finding;
use crate::audit::started::{EGRESS_FLAG, Egress, Started};
use crate::columns::few;

pub(super) fn findings(seen: &Control) -> [Finding; 2] {
    [konnectivity(seen), ssh(seen)]
}

fn ssh(seen: &Control) -> Finding {
    by_flags(&SSH, seen, |flags| match flags.get("ssh-user").or(flags.get("ssh-keyfile")) {
        Some(value) => Err(format!("it has SSH tunnels ({value})")),
        None => Ok("no --ssh-user".to_owned()),
    })
}

fn konnectivity(seen: &Control) -> Finding {
    let untold = |one: &&Started| one.egress_file().is_none();
    if let Some(one) = seen.started.iter().find(untold) {
        return KONNECTIVITY.fail(format!(
            "{}: no --{EGRESS_FLAG}: its connections to nodes, Pods and Services leave in no tunnel",
            one.place
        ));
    }
    let direct = seen.started.iter().find_map(|one| match &one.egress {
        Ok(Egress::Direct(why)) => Some(format!("{}: {why}", selector(one))),
        _ => None,
    });
    if let Some(direct) = direct {
        return KONNECTIVITY.fail(direct);
    }
    let agents = match &seen.agents {
        Some(Ok(agents)) => agents,
        Some(Err(error)) => {
            return KONNECTIVITY
                .unknown(error.as_str(), "the right to list Pods in kube-system, or --host-proc");
        }
        None => {
            return KONNECTIVITY
                .unknown("no apiserver could be asked", "give --kubeconfig FILE as for apivip run");
        }
    };
    let found = if agents.is_empty() {
        "no konnectivity agent is seen".to_owned()
    } else {
        format!("agents: {}", few(agents))
    };
    let Some(first) = seen.started.first() else {
        return KONNECTIVITY.unknown(format!("{found}; {NO_FLAGS}"), NEED_FLAGS);
    };
    if agents.is_empty() {
        return KONNECTIVITY.fail(format!("{}, and {found}", selector(first)));
    }
    let unread = seen.started.iter().find_map(|one| Some((one, one.egress.as_ref().err()?)));
    match (unread, &first.egress) {
        (Some((one, why)), _) => KONNECTIVITY.unknown(
            format!("{}, which is not read: {why}; {found}", selector(one)),
            "the audit on each node of the control plane, as root: there the file can be read",
        ),
        (None, Ok(Egress::Tunnel(protocol))) => {
            seen.complete(&KONNECTIVITY, format!("{}: {protocol}; {found}", selector(first)))
        }
        (None, _) => KONNECTIVITY.unknown(found, NEED_FLAGS),
    }
}

fn selector(one: &Started) -> String {
    format!("{}: --{EGRESS_FLAG}={}", one.place, one.egress_file().unwrap_or_default())
}
