//! Probes one address of the API, and asks one apiserver about rights, Services and Pods.
//!
//! In: an address, the cluster's CA and this node's credentials. Out: what the verdicts are made from. Nothing is asked of an
//! address whose certificate is not verified, and no more than two dozen requests of any.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::audit::apiserver::TlsProbe;
use crate::audit::apiserver::{AccessProbe, Answered, PlainResponse, paths};
use crate::audit::apiserver::{Identity, NONEXISTENT_PATH};
use crate::audit::certificate::ServedCertificate;
use crate::audit::certificate::untrusted_client;
use crate::audit::client_hello::{BROKEN, OLD, STATIC, TLS_1_1, TLS_1_2};
use crate::audit::control_plane::{AccessReview, ReviewResult, ServiceSummary, Subject};
use crate::audit::http::{HttpError, HttpErrorKind, HttpRequest, HttpResponse, Server, get, request, status};
use crate::audit::{tls, token};
use crate::transport::ResolvedCredentials;

/// All questions to one address, beyond handshakes.
const LIMIT: Duration = Duration::from_secs(15);
/// Where an API without TLS is looked for, besides the port of HTTPS.
const PLAIN_PORTS: [u16; 2] = [8080, 8001];

/// How addresses are verified, and this node's credentials.
pub(super) struct ProbeContext<'a> {
    /// The name that certificates are verified by.
    pub name: &'a str,
    /// The cluster's CA, in DER.
    pub roots: &'a [Vec<u8>],
    /// TLS settings without a client certificate, or why there are none.
    pub trust: Result<ClientConfig, String>,
    /// The node's own, or why there are none.
    pub credentials: Result<&'a ResolvedCredentials, String>,
    /// Seconds since 1970.
    pub now: i64,
}

/// What the address shows in TLS.
pub(super) async fn probe_tls(address: SocketAddr, context: &ProbeContext<'_>) -> TlsProbe {
    let offer = |version, suites| tls::offer(address, context.name, version, suites);
    let (certificates, old, broken, fixed) = tokio::join!(
        tls::certificates(address, context.name),
        offer(TLS_1_1, OLD),
        offer(TLS_1_2, BROKEN),
        offer(TLS_1_2, STATIC),
    );
    let shown = certificates.and_then(|chain| ServedCertificate::read(&chain, context.roots, context.now));
    TlsProbe { address, shown, old, broken, fixed }
}

/// The name by which the address can be verified.
pub(super) fn verifiable(
    probe: &TlsProbe,
    context: &ProbeContext<'_>,
) -> Result<ServerName<'static>, String> {
    let shown = probe.shown.as_ref().map_err(Clone::clone)?;
    shown
        .trusted
        .as_ref()
        .map_err(|_| "its certificate is not verified, so the audit sends no request".to_owned())?;
    if !(shown.begin..=shown.end).contains(&context.now) {
        return Err("its certificate is not valid now, so the audit sends no request".to_owned());
    }
    let ip = probe.address.ip().to_string();
    let name = [context.name, &ip].into_iter().find(|name| shown.is_for(name));
    let name = name
        .ok_or_else(|| "its certificate has no name to verify, so the audit sends no request".to_owned())?;
    ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())
}

/// Which requests the address accepts; `virtual_ip`: its other ports are not the apiserver's, and are not probed.
pub(super) async fn probe_access(
    probe: &TlsProbe,
    context: &ProbeContext<'_>,
    virtual_ip: bool,
) -> AccessProbe {
    let plain_ports = plain_ports(probe.address, virtual_ip);
    let access = async {
        let name = verifiable(probe, context)?;
        let trust = context.trust.clone()?;
        let asked = probe_verified(probe.address, name, trust, context);
        let late = || format!("it did not answer all requests within {:.0} s", LIMIT.as_secs_f32());
        timeout(LIMIT, asked).await.map_err(|_| late())?
    };
    let (plain_ports, access) = tokio::join!(plain_ports, access);
    let none = |error: String| AccessProbe {
        address: probe.address,
        open: paths().map(|path| (path, Err(error.clone()))).collect(),
        untrusted_certificate: Err(error.clone()),
        damaged_token: Err(error.clone()),
        own_credentials: context.credentials.is_ok().then(|| Err(error.clone())),
        basic_auth: Err(error),
        plain_ports: Vec::new(),
    };
    AccessProbe { plain_ports, ..access.unwrap_or_else(none) }
}

async fn probe_verified(
    address: SocketAddr,
    name: ServerName<'static>,
    trust: ClientConfig,
    context: &ProbeContext<'_>,
) -> Answered<AccessProbe> {
    let with = |config: ClientConfig| Server { address, tls: Some((Arc::new(config), name.clone())) };
    let anonymous = with(trust.clone());
    // A server that does not answer this request gets no others.
    let anonymous_identity =
        Identity::of(&get(&anonymous, NONEXISTENT_PATH).await.map_err(|error| error.text)?);
    let mut open = Vec::new();
    for path in paths() {
        let asked = status(&anonymous, path).await.map_err(|error| error.text);
        let is_last = asked.is_err();
        open.push((path, asked));
        if is_last {
            break;
        }
    }
    // Where requests without credentials are allowed everything, such an answer does not tell how credentials are judged.
    let identity = |answer: &HttpResponse| match Identity::of(answer) {
        Identity::Allowed if anonymous_identity == Identity::Allowed => Identity::Unclear(answer.status),
        identity => identity,
    };
    let untrusted_certificate = match untrusted_client(&trust) {
        Ok(config) => match get(&with(config), NONEXISTENT_PATH).await {
            Ok(answer) => Ok(identity(&answer)),
            // What differs from the request that was answered is the certificate: the handshake refused it.
            Err(HttpError { reason: HttpErrorKind::Tls, .. }) => Ok(Identity::Nobody),
            Err(error) => Err(error.text),
        },
        Err(error) => Err(error),
    };
    let token = context.credentials.as_ref().ok().and_then(|credentials| credentials.token());
    let damaged = token.map_or_else(token::made_up, token::damaged);
    let damaged_token =
        get_with(&anonymous, &format!("Bearer {damaged}")).await.map(|answer| identity(&answer));
    let basic_auth = get_with(&anonymous, "Basic YXBpdmlwLWF1ZGl0OmFwaXZpcC1hdWRpdA==").await.map(|answer| {
        let asks = answer.headers.get_all(WWW_AUTHENTICATE).iter();
        let asks = asks.filter_map(|value| value.to_str().ok()).any(|value| value.starts_with("Basic"));
        let identity = identity(&answer);
        asks || (matches!(identity, Identity::User(_) | Identity::Allowed) && identity != anonymous_identity)
    });
    let own_credentials = match &context.credentials {
        Err(_) => None,
        Ok(credentials) => {
            let wanted = HttpRequest {
                path: NONEXISTENT_PATH,
                authorization: credentials.authorization.as_ref(),
                ..HttpRequest::default()
            };
            let answer = request(&with(credentials.tls.clone()), wanted).await;
            Some(answer.map(|answer| identity(&answer)).map_err(|error| error.text))
        }
    };
    Ok(AccessProbe {
        address,
        open,
        untrusted_certificate,
        damaged_token,
        own_credentials,
        basic_auth,
        plain_ports: Vec::new(),
    })
}

async fn get_with(server: &Server, authorization: &str) -> Answered<HttpResponse> {
    let mut value = HeaderValue::from_str(authorization).map_err(|error| error.to_string())?;
    value.set_sensitive(true);
    let wanted =
        HttpRequest { path: NONEXISTENT_PATH, authorization: Some(&value), ..HttpRequest::default() };
    request(server, wanted).await.map_err(|error| error.text)
}

async fn plain_ports(address: SocketAddr, virtual_ip: bool) -> Vec<(u16, Result<PlainResponse, HttpError>)> {
    let mut ports = vec![address.port()];
    if !virtual_ip {
        ports.extend(PLAIN_PORTS.into_iter().filter(|port| *port != address.port()));
    }
    let asked = ports.into_iter().map(|port| async move {
        let server = Server { address: SocketAddr::new(address.ip(), port), tls: None };
        let answer = get(&server, "/version").await;
        (
            port,
            answer.map(|answer| {
                if is_api(&answer) { PlainResponse::Api } else { PlainResponse::Other(answer.status) }
            }),
        )
    });
    futures_util::future::join_all(asked).await
}

/// An apiserver says its version, or refuses with a `Status`.
fn is_api(answer: &HttpResponse) -> bool {
    let body = answer.json();
    body["gitVersion"].is_string() || body["kind"] == "Status"
}

const SELF: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const OTHERS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
/// Of Services, each with this many: 5,000 in all.
const PAGES: usize = 10;
const PAGE: usize = 500;

/// One apiserver, and the credentials that it is asked with.
pub(super) struct ApiClient<'a> {
    server: Server,
    credentials: &'a ResolvedCredentials,
}

impl<'a> ApiClient<'a> {
    pub(super) fn new(mut server: Server, credentials: &'a ResolvedCredentials) -> Self {
        if let Some((config, _)) = &mut server.tls {
            *config = Arc::new(credentials.tls.clone());
        }
        Self { server, credentials }
    }

    /// What is at `path`; or what a review is answered with.
    async fn ask(&self, path: &str, review: Option<&Value>) -> Result<Value, String> {
        let review = review.map(Value::to_string);
        let wanted = HttpRequest {
            path,
            authorization: self.credentials.authorization.as_ref(),
            review: review.as_deref(),
            status_only: false,
        };
        let answer = request(&self.server, wanted).await.map_err(|error| error.text)?;
        let body = answer.json();
        match answer.status {
            200 | 201 if answer.cut => Err("the answer is longer than 4 MiB".to_owned()),
            200 | 201 => Ok(body),
            401 => Err("the API server rejects these credentials".to_owned()),
            403 => Err(body["message"].as_str().unwrap_or("forbidden").chars().take(300).collect()),
            other => Err(format!("the API server answers {other}")),
        }
    }

    async fn review(&self, path: &str, spec: Value) -> ReviewResult {
        let kind = if path == SELF { "SelfSubjectAccessReview" } else { "SubjectAccessReview" };
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
        let answer = self.ask(path, Some(&review)).await?;
        let status = &answer["status"];
        match status["allowed"].as_bool() {
            Some(allowed) => Ok(AccessReview {
                allowed,
                reason: status["reason"].as_str().unwrap_or_default().chars().take(300).collect(),
            }),
            None => Err("the answer to an access review contains no result".to_owned()),
        }
    }

    /// Whether the caller may do something that does not exist.
    pub(super) async fn nonexistent(&self) -> ReviewResult {
        self.review(SELF, json!({"resourceAttributes": nonexistent()})).await
    }

    /// Whether everybody with credentials may.
    pub(super) async fn nonexistent_for_everybody(&self) -> ReviewResult {
        let (user, groups) = ANY_AUTHENTICATED;
        let spec = json!({"resourceAttributes": nonexistent(), "user": user, "groups": groups});
        self.review(OTHERS, spec).await
    }

    /// Rights to the three proxies: `get` and `create` are what most requests are.
    pub(super) async fn proxies(&self) -> Vec<(&'static str, Subject, ReviewResult)> {
        let mut all = Vec::new();
        for subject in Subject::ALL {
            for resource in ["nodes", "pods", "services"] {
                for verb in ["get", "create"] {
                    let what = json!({"verb": verb, "resource": resource, "subresource": "proxy"});
                    let review = match user_and_groups(subject) {
                        None => self.review(SELF, json!({"resourceAttributes": what})).await,
                        Some((user, groups)) => {
                            let spec = json!({"resourceAttributes": what, "user": user, "groups": groups});
                            self.review(OTHERS, spec).await
                        }
                    };
                    let refused = review.is_err();
                    all.push((resource, subject, review));
                    // A caller that may not review this subject may not with another verb either.
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
    pub(super) async fn services(&self) -> Result<Vec<ServiceSummary>, String> {
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
        Err(format!("the cluster has more than {} Services", PAGES * PAGE))
    }

    /// Pods of `kube-system` with this label.
    pub(super) async fn pods(&self, key: &str, value: &str) -> Result<Vec<Value>, String> {
        let path = format!("/api/v1/namespaces/kube-system/pods?labelSelector={key}%3D{value}&limit=100");
        let list = self.ask(&path, None).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }
}

/// No review came of any.
pub(super) fn no_reviews(why: &str) -> Vec<(&'static str, Subject, ReviewResult)> {
    let each = ["nodes", "pods", "services"].into_iter();
    each.flat_map(|what| Subject::ALL.map(|whom| (what, whom, Err(why.to_owned())))).collect()
}

const ANY_AUTHENTICATED: (&str, &[&str]) = ("apivip-audit-nobody", &["system:authenticated"]);

/// Something that does not exist, and that no rule but one for everything allows.
fn nonexistent() -> Value {
    json!({"verb": "apivip-audit", "group": "apivip-audit.invalid", "resource": "nothings"})
}

/// User and groups of a subject; the caller uses a SelfSubjectAccessReview.
fn user_and_groups(subject: Subject) -> Option<(&'static str, &'static [&'static str])> {
    match subject {
        Subject::Anonymous => Some(("system:anonymous", &["system:unauthenticated"])),
        Subject::Authenticated => Some(ANY_AUTHENTICATED),
        Subject::ServiceAccounts => Some((
            "system:serviceaccount:apivip-audit:nobody",
            &["system:serviceaccounts", "system:serviceaccounts:apivip-audit", "system:authenticated"],
        )),
        Subject::Caller => None,
    }
}

/// What matters of a Service.
fn served(service: &Value) -> ServiceSummary {
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
    ServiceSummary {
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
    fn https_ports_and_claimed_addresses_of_a_service_are_read() {
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
