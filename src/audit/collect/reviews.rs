//! What one apiserver says of rights, Services and Pods, asked with the node's credentials.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::audit::ask::{Question, Server, ask};
use crate::audit::control::{Review, Reviewed, Served, Subject};
use crate::transport::ResolvedCredentials;

const SELF: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const OTHERS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// Of Services, each with this many: 5,000 in all.
const PAGES: usize = 10;
const PAGE: usize = 500;

/// One apiserver, and as whom it is asked.
pub(super) struct Api<'a> {
    server: Server,
    credentials: &'a ResolvedCredentials,
}

impl<'a> Api<'a> {
    pub(super) fn new(mut server: Server, credentials: &'a ResolvedCredentials) -> Self {
        if let Some((config, _)) = &mut server.tls {
            *config = Arc::new(credentials.tls.clone());
        }
        Self { server, credentials }
    }

    /// What is at `path`; or what a review is answered with.
    async fn ask(&self, path: &str, review: Option<&Value>) -> Result<Value, String> {
        let review = review.map(Value::to_string);
        let question = Question {
            path,
            authorization: self.credentials.authorization.as_ref(),
            review: review.as_deref(),
            status_only: false,
        };
        let answer = ask(&self.server, question).await.map_err(|unanswered| unanswered.text)?;
        let body = answer.json();
        match answer.status {
            200 | 201 if answer.cut => Err("the answer is longer than 4 MiB".to_owned()),
            200 | 201 => Ok(body),
            401 => Err("the apiserver does not know these credentials".to_owned()),
            403 => Err(body["message"].as_str().unwrap_or("forbidden").chars().take(300).collect()),
            other => Err(format!("the apiserver answers {other}")),
        }
    }

    async fn review(&self, path: &str, spec: Value) -> Reviewed {
        let kind = if path == SELF { "SelfSubjectAccessReview" } else { "SubjectAccessReview" };
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
        let answer = self.ask(path, Some(&review)).await?;
        let status = &answer["status"];
        match status["allowed"].as_bool() {
            Some(allowed) => Ok(Review {
                allowed,
                reason: status["reason"].as_str().unwrap_or_default().chars().take(300).collect(),
            }),
            None => Err("the answer to an access review does not say".to_owned()),
        }
    }

    /// Whether the caller may do something that does not exist.
    pub(super) async fn nonsense(&self) -> Reviewed {
        self.review(SELF, json!({"resourceAttributes": nonsense()})).await
    }

    /// Whether everybody with credentials may.
    pub(super) async fn nonsense_of_everybody(&self) -> Reviewed {
        let (user, groups) = EVERYBODY;
        let spec = json!({"resourceAttributes": nonsense(), "user": user, "groups": groups});
        self.review(OTHERS, spec).await
    }

    /// Rights to the three proxies: `get` and `create` are what most requests are.
    pub(super) async fn proxies(&self) -> Vec<(&'static str, Subject, Reviewed)> {
        let mut all = Vec::new();
        for subject in Subject::ALL {
            for resource in ["nodes", "pods", "services"] {
                for verb in ["get", "create"] {
                    let what = json!({"verb": verb, "resource": resource, "subresource": "proxy"});
                    let review = match who(subject) {
                        None => self.review(SELF, json!({"resourceAttributes": what})).await,
                        Some((user, groups)) => {
                            let spec = json!({"resourceAttributes": what, "user": user, "groups": groups});
                            self.review(OTHERS, spec).await
                        }
                    };
                    let refused = review.is_err();
                    all.push((resource, subject, review));
                    // Who may not ask about a subject may not with another verb either.
                    if refused {
                        break;
                    }
                }
            }
        }
        all
    }

    /// What is at `path`.
    pub(super) async fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(path, None).await
    }

    /// All Services.
    pub(super) async fn services(&self) -> Result<Vec<Served>, String> {
        let mut all = Vec::new();
        let mut next = String::new();
        for _ in 0..PAGES {
            let list = self.ask(&format!("/api/v1/services?limit={PAGE}{next}"), None).await?;
            all.extend(list["items"].as_array().into_iter().flatten().map(served));
            match list["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                // It is a base64 of the URL alphabet, which needs no escapes.
                Some(token) => next = format!("&continue={token}"),
                None => return Ok(all),
            }
        }
        Err(format!("there are more than {} Services", PAGES * PAGE))
    }

    /// Pods of `kube-system` with this label.
    pub(super) async fn pods(&self, key: &str, value: &str) -> Result<Vec<Value>, String> {
        let path = format!("/api/v1/namespaces/kube-system/pods?labelSelector={key}%3D{value}&limit=100");
        let list = self.ask(&path, None).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

/// No review came of any.
pub(super) fn none(why: &str) -> Vec<(&'static str, Subject, Reviewed)> {
    let each = ["nodes", "pods", "services"].into_iter();
    each.flat_map(|what| Subject::ALL.map(|whom| (what, whom, Err(why.to_owned())))).collect()
}

const EVERYBODY: (&str, &[&str]) = ("apivip-audit-nobody", &["system:authenticated"]);

/// Something that does not exist, and that no rule but one for everything allows.
fn nonsense() -> Value {
    json!({"verb": "apivip-audit", "group": "apivip-audit.invalid", "resource": "nothings"})
}

/// As an apiserver would know them; the caller asks for itself.
fn who(subject: Subject) -> Option<(&'static str, &'static [&'static str])> {
    match subject {
        Subject::Anonymous => Some(("system:anonymous", &["system:unauthenticated"])),
        Subject::Authenticated => Some(EVERYBODY),
        Subject::ServiceAccounts => Some((
            "system:serviceaccount:apivip-audit:nobody",
            &["system:serviceaccounts", "system:serviceaccounts:apivip-audit", "system:authenticated"],
        )),
        Subject::Caller => None,
    }
}

/// What matters of a Service.
fn served(service: &Value) -> Served {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &service["metadata"];
    let is_https = |port: &Value| {
        let name = text(&port["name"]);
        name == "https"
            || name.starts_with("https-")
            || port["port"] == 443
            || text(&port["appProtocol"]).eq_ignore_ascii_case("https")
    };
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let external = service["spec"]["externalIPs"].as_array().into_iter().flatten();
    Served {
        name: format!("{}/{}", text(&meta["namespace"]), text(&meta["name"])),
        https: service["spec"]["ports"].as_array().into_iter().flatten().any(is_https),
        claims: external
            .map(text)
            .chain(ingress.map(|entry| text(&entry["ip"])))
            .filter(|ip| !ip.is_empty())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_ports_and_claims() {
        let with = |port: Value, spec: Value| {
            let mut service = json!({"metadata": {"namespace": "a", "name": "b"}, "spec": spec});
            service["spec"]["ports"] = json!([port]);
            service
        };
        for (port, https) in [
            (json!({"port": 443}), true),
            (json!({"port": 8443, "name": "https-metrics"}), true),
            (json!({"port": 8443, "appProtocol": "HTTPS"}), true),
            (json!({"port": 80, "name": "http"}), false),
        ] {
            assert_eq!(served(&with(port.clone(), json!({}))).https, https, "{port}");
        }
        let mut claiming = with(json!({"port": 80}), json!({"externalIPs": ["10.96.0.1"]}));
        claiming["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "x"}, {"ip": "192.0.2.9"}]}});
        assert_eq!(served(&claiming).claims, ["10.96.0.1", "192.0.2.9"]);
        assert_eq!(served(&Value::Null).name, "/");
    }
}
