//! A small HTTPS server with an apiserver's manners at its door, which can be bad in each way that an audit must notice.
//!
//! In: a certificate, whom it lets in, what it says of rights, Services and Pods. Out: it serves in a namespace on the
//! port of an apiserver, and, if it is told to, without TLS on another one, until it is dropped. It holds no objects that
//! can be changed and knows no watches: for those there is the simulated apiserver.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::body::{AnswerBody, full};
use super::listen;
pub use super::manner::Manner;
use super::manner::{self, Serving};
use crate::netns::Namespace;
use crate::pki::KeyFiles;
use crate::tls;

/// Of a review, in bytes.
const REVIEW_BYTES: usize = 64 << 10;

/// What it is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its serving certificate.
    pub files: KeyFiles,
    /// The tokens that it knows.
    pub known: Vec<String>,
    /// Requests without credentials are served as `system:anonymous`.
    pub anonymous: bool,
    /// What `system:anonymous` may read, by the begin of the path.
    pub public: Vec<&'static str>,
    /// A client certificate of any CA makes an administrator.
    pub any_certificate: bool,
    /// A token's signature is not looked at.
    pub any_token: bool,
    /// It takes passwords, and asks for them.
    pub basic: bool,
    /// The port on which it serves without TLS.
    pub plain: Option<u16>,
    /// What an access review is answered: of the user who asks, or who is named, and the resource with its subresource.
    pub reviews: fn(&str, &str) -> (bool, &'static str),
    /// Its users may review the rights of others.
    pub reviewers: bool,
    /// All Services; none may list them if it is `None`.
    pub services: Option<Vec<Value>>,
    /// Pods of kube-system.
    pub pods: Option<Vec<Value>>,
    /// kubeadm's ClusterConfiguration, if it started this cluster.
    pub kubeadm: Option<String>,
    /// How it serves.
    pub manner: Manner,
}

impl Options {
    /// A good one.
    pub fn good(files: KeyFiles, token: &str) -> Self {
        Self {
            files,
            known: vec![token.to_owned()],
            anonymous: true,
            public: vec!["/version", "/livez", "/readyz"],
            any_certificate: false,
            any_token: false,
            basic: false,
            plain: None,
            reviews: |_, _| (false, ""),
            reviewers: true,
            services: Some(Vec::new()),
            pods: Some(Vec::new()),
            kubeadm: None,
            manner: Manner::Well,
        }
    }
}

/// A running one.
#[derive(Debug)]
pub struct OddApi {
    _serving: Serving,
}

impl OddApi {
    /// Starts one at `at` in `namespace`. It answers when this returns.
    pub fn start(namespace: &Namespace, at: SocketAddr, options: Options) -> Result<Self> {
        let runtime = manner::runtime()?;
        let acceptor = TlsAcceptor::from(tls::curious_server_config(
            &options.files.certificate,
            &options.files.key,
            tls::ALPN_H2_AND_HTTP1,
        )?);
        let bind = |ip: IpAddr, port| {
            namespace.within(|| {
                let _inside = runtime.enter();
                listen::bind(SocketAddr::new(ip, port))
            })
        };
        let secure = bind(at.ip(), at.port())?;
        let plain = options.plain.map(|port| bind(at.ip(), port)).transpose()?;
        let options = Arc::new(options);
        if let Some(plain) = plain {
            let options = Arc::clone(&options);
            runtime.spawn(listen::accept_each(plain, move |stream, _| {
                tokio::spawn(serve(stream, Arc::clone(&options), Some("system:unsecured".to_owned())));
            }));
        }
        runtime.spawn(listen::accept_each(secure, move |stream, _| {
            tokio::spawn(secured(stream, acceptor.clone(), Arc::clone(&options)));
        }));
        Ok(Self { _serving: Serving::new(runtime) })
    }
}

async fn secured(stream: TcpStream, acceptor: TlsAcceptor, options: Arc<Options>) {
    if options.manner.hung().await {
        return;
    }
    // A client that offers old TLS only is refused here.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certified = stream.get_ref().1.peer_certificates().is_some_and(|all| !all.is_empty());
    // An apiserver answers 401 to a certificate that it cannot verify; an empty name stands for that.
    let user = certified.then(|| if options.any_certificate { "admin" } else { "" }.to_owned());
    serve(stream, options, user).await;
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, options: Arc<Options>, user: Option<String>) {
    let service = service_fn(|request| {
        let (options, user) = (Arc::clone(&options), user.clone());
        async move { Ok::<_, Infallible>(answer(request, &options, user).await) }
    });
    // A client that is content leaves in the middle of a flood.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// For whom a request is taken; `None`: for nobody.
fn user(request: &Request<Incoming>, options: &Options, certified: Option<String>) -> Option<String> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|header| header.strip_prefix("Bearer "));
    match (certified, header) {
        (Some(user), _) => Some(user).filter(|user| !user.is_empty()),
        (None, None) => options.anonymous.then(|| "system:anonymous".to_owned()),
        (None, Some(_)) if token.is_some_and(|token| options.known.iter().any(|known| known == token)) => {
            Some("apivip".to_owned())
        }
        (None, Some(_))
            if options.any_token && token.is_some_and(|token| token.matches('.').count() == 2) =>
        {
            Some("whoever".to_owned())
        }
        (None, Some(header)) => (options.basic && header.starts_with("Basic ")).then(|| "bob".to_owned()),
    }
}

async fn answer(
    request: Request<Incoming>,
    options: &Options,
    certified: Option<String>,
) -> Response<AnswerBody> {
    let path = request.uri().path().to_owned();
    let Some(user) = user(&request, options, certified) else {
        let mut refused = status(401, "Unauthorized");
        if options.basic {
            refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"api\""));
        }
        return refused;
    };
    if let Some(flood) = options.manner.flood() {
        return Response::new(flood);
    }
    let may = match user.as_str() {
        "admin" | "system:unsecured" => true,
        "system:anonymous" => options.public.iter().any(|begin| path.starts_with(begin)),
        _ => path != "/apivip-audit",
    };
    if !may {
        return status(403, &format!("forbidden: User {user:?} cannot get path {path:?}"));
    }
    let list = |items: &Option<Vec<Value>>| match items {
        Some(items) => json(200, &json!({"kind": "List", "metadata": {}, "items": items})),
        None => status(403, &format!("User {user:?} cannot list resource")),
    };
    match path.as_str() {
        "/version" => json(200, &json!({"major": "1", "minor": "37", "gitVersion": "v1.37.2"})),
        "/livez" | "/readyz" => full(StatusCode::OK, "text/plain", "ok"),
        "/api/v1/services" => list(&options.services),
        "/api/v1/namespaces/kube-system/pods" => {
            let wanted = request.uri().query().unwrap_or_default().to_owned();
            let labelled = |pod: &&Value| {
                let labels = pod["metadata"]["labels"].as_object().into_iter().flatten();
                labels.into_iter().any(|(key, value)| {
                    wanted.contains(&format!("labelSelector={key}%3D{}", value.as_str().unwrap_or_default()))
                })
            };
            list(&options.pods.as_ref().map(|pods| pods.iter().filter(labelled).cloned().collect()))
        }
        "/api/v1/namespaces/kube-system/configmaps/kubeadm-config" => match &options.kubeadm {
            Some(text) => json(200, &json!({"kind": "ConfigMap", "data": {"ClusterConfiguration": text}})),
            None => status(404, "configmaps \"kubeadm-config\" not found"),
        },
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => review(request, options, &user).await,
        "/apis/authorization.k8s.io/v1/subjectaccessreviews" if options.reviewers => {
            review(request, options, &user).await
        }
        "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
            status(403, &format!("User {user:?} cannot create resource \"subjectaccessreviews\""))
        }
        _ if options.public.iter().any(|begin| path.starts_with(begin)) => {
            json(200, &json!({"kind": "List"}))
        }
        _ => status(404, "the server could not find the requested resource"),
    }
}

async fn review(request: Request<Incoming>, options: &Options, asker: &str) -> Response<AnswerBody> {
    let body = Limited::new(request.into_body(), REVIEW_BYTES).collect().await;
    let asked: Value =
        body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok()).unwrap_or_default();
    let what = &asked["spec"]["resourceAttributes"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let whom = asked["spec"]["groups"][0].as_str().unwrap_or(asker).to_owned();
    let resource = match text(&what["subresource"]) {
        sub if sub.is_empty() => text(&what["resource"]),
        sub => format!("{}/{sub}", text(&what["resource"])),
    };
    let (allowed, reason) = (options.reviews)(&whom, &resource);
    json(201, &json!({"kind": "Review", "status": {"allowed": allowed, "reason": reason}}))
}

fn json(code: u16, value: &Value) -> Response<AnswerBody> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    full(code, "application/json", value.to_string())
}

fn status(code: u16, message: &str) -> Response<AnswerBody> {
    super::apiserver::status::answer(code, message, Value::Null)
}
