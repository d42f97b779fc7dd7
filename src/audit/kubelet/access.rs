//! Verdicts on whom a kubelet lets in. Pure.

use super::configuration::Configuration;
use super::{Asked, READ_ONLY_PORT, Seen};
use crate::audit::ask::Reason;
use crate::audit::catalogue::kubelet::{ANONYMOUS, AUTHORIZATION, READ_ONLY};
use crate::audit::finding::{Finding, Severity};

const ALWAYS_ALLOW: &str = "AlwaysAllow";
const FORBIDDEN: u16 = 403;
const UNAUTHORIZED: u16 = 401;

fn is_success(asked: &Asked) -> bool {
    asked.as_ref().is_ok_and(|status| (200..300).contains(status))
}

fn said(asked: &Asked) -> String {
    match asked {
        Ok(status) => status.to_string(),
        Err(unanswered) => unanswered.text.clone(),
    }
}

fn asked(path: &str, asked: &Asked) -> String {
    format!("GET {path} without credentials: {}", said(asked))
}

pub(super) fn anonymous(seen: &Seen) -> Finding {
    let all = &seen.anonymous;
    if let Some((path, answer)) = all.iter().find(|(_, answer)| is_success(answer)) {
        return ANONYMOUS.fail(asked(path, answer));
    }
    if let Some((path, answer)) = all.iter().find(|(_, answer)| *answer == Ok(FORBIDDEN)) {
        let text =
            format!("{}: it lets everybody in, and authorization alone refuses them", asked(path, answer));
        return ANONYMOUS.fail(text).of(Severity::Low);
    }
    let odd = all.iter().find(|(_, answer)| *answer != Ok(UNAUTHORIZED));
    let Some((path, answer)) = odd else {
        return ANONYMOUS.pass("requests without credentials: 401");
    };
    let seen_so = asked(path, answer);
    match seen.configuration.all() {
        Ok(set) if !set.anonymous => {
            ANONYMOUS.pass(format!("authentication.anonymous.enabled is false, by {}; {seen_so}", set.source))
        }
        Ok(set) => {
            let severity = if set.mode == ALWAYS_ALLOW { Severity::High } else { Severity::Low };
            let text = format!("authentication.anonymous.enabled is true, by {}; {seen_so}", set.source);
            ANONYMOUS.fail(text).of(severity)
        }
        Err(lack) => {
            let said = |set: &Configuration| format!("authentication.anonymous.enabled: {}", set.anonymous);
            ANONYMOUS.unknown(format!("{seen_so}; {}", seen.configuration.why(said)), lack.needed.as_str())
        }
    }
}

/// The configuration decides. Otherwise a refusal of somebody whom it knows shows that there is an authorizer.
pub(super) fn authorization(seen: &Seen) -> Finding {
    match seen.configuration.all() {
        Ok(set) if set.mode == ALWAYS_ALLOW => {
            return AUTHORIZATION.fail(format!("authorization.mode is AlwaysAllow, by {}", set.source));
        }
        Ok(set) if set.mode == "Webhook" => {
            let tokens =
                if set.webhook { "" } else { "; it takes no tokens (authentication.webhook.enabled: false)" };
            return AUTHORIZATION.pass(format!("authorization.mode is Webhook, by {}{tokens}", set.source));
        }
        _ => {}
    }
    if let Some((path, answer)) = seen.anonymous.iter().find(|(_, answer)| *answer == Ok(FORBIDDEN)) {
        return AUTHORIZATION.pass(format!("{}: somebody decides", asked(path, answer)));
    }
    let with = "GET /pods with this node's credentials";
    let behaviour = match &seen.credentialed {
        Ok(Ok(FORBIDDEN)) => return AUTHORIZATION.pass(format!("{with}: 403: somebody decides")),
        Ok(Ok(UNAUTHORIZED)) => {
            format!("{with}: 401: it does not know them, as with authentication.webhook.enabled: false")
        }
        Ok(answer) if is_success(answer) => {
            format!("{with}: {}, which they may be allowed to", said(answer))
        }
        Ok(answer) => format!("{with}: {}", said(answer)),
        Err(why) => format!("it was not asked with credentials: {why}"),
    };
    match seen.configuration.all() {
        Ok(set) => AUTHORIZATION.unknown(
            format!("authorization.mode is {}, by {}; {behaviour}", set.mode, set.source),
            "see what that mode does",
        ),
        Err(lack) => {
            let said = |set: &Configuration| format!("authorization.mode: {}", set.mode);
            let why = format!("{}; {behaviour}", seen.configuration.why(said));
            AUTHORIZATION.unknown(why, lack.needed.as_str())
        }
    }
}

pub(super) fn read_only(seen: &Seen) -> Finding {
    let all = &seen.read_only;
    let list = |wanted: &dyn Fn(&Asked) -> bool| {
        let at = all.iter().filter(|(_, answer)| wanted(answer)).map(|(address, _)| address.to_string());
        at.collect::<Vec<_>>().join(", ")
    };
    let open = list(&is_success);
    if !open.is_empty() {
        return READ_ONLY.fail(format!("it answers everybody over plain HTTP at {open}"));
    }
    let set = seen.configuration.all();
    if let Ok(set) = set
        && set.read_only_port != 0
    {
        let port = set.read_only_port;
        let text = format!("readOnlyPort is {port}, by {}, though it did not answer there", set.source);
        return READ_ONLY.fail(text).of(Severity::Medium);
    }
    let is_refused =
        |answer: &Asked| answer.as_ref().is_err_and(|unanswered| unanswered.reason == Reason::Refused);
    let odd = all.iter().find(|(_, answer)| !is_refused(answer));
    match (odd, set) {
        (None, _) if all.is_empty() => {
            READ_ONLY.unknown("it was not asked", format!("curl http://ADDRESS:{READ_ONLY_PORT}/healthz"))
        }
        // That of a Pod with a network of its own is closed too.
        (None, Err(lack)) if seen.nobody() => READ_ONLY.unknown(
            format!(
                "nothing listens at {}, but no kubelet listens on {} either",
                list(&is_refused),
                seen.address
            ),
            lack.needed.as_str(),
        ),
        (None, _) => READ_ONLY.pass(format!("nothing listens at {}", list(&is_refused))),
        (Some((address, answer)), Ok(set)) => {
            READ_ONLY.pass(format!("readOnlyPort is 0, by {}; {address} said: {}", set.source, said(answer)))
        }
        (Some((address, answer)), Err(lack)) => {
            let port = |set: &Configuration| format!("readOnlyPort: {}", set.read_only_port);
            let why = format!("{address}: {}; {}", said(answer), seen.configuration.why(port));
            READ_ONLY.unknown(why, lack.needed.as_str())
        }
    }
}
