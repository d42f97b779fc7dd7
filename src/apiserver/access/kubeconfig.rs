//! The access that a kubeconfig gives. kube parses it; what kube would let pass silently, or report without the file's
//! name, is checked here first.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::Config;
use kube::config::{AuthInfo, Cluster, Context, ExecInteractiveMode, KubeConfigOptions, Kubeconfig};
use rustls::pki_types::ServerName;
use x509_parser::time::ASN1Time;

use super::certificates::{check_ca, check_identity};
use super::token::bearer;
use super::{Access, AccessError, Expiry, Origin, Server, TLS_NAME, Token, discreet, file, identity};
use crate::apiserver::error::one_line;

/// Loads `path` with `context`, or with its current-context. What files hold is in memory afterwards, so that nobody
/// sees half of a renewal. `kept` is the token that was read before.
pub(super) async fn load(
    path: &Path,
    context: Option<&str>,
    kept: Option<&Arc<Token>>,
) -> Result<Access, AccessError> {
    let file = File { path: absolute(path)? };
    let parsed = file.parse()?;
    let (context_name, chosen) = file.context(&parsed, context)?;
    let cluster = file.cluster(&parsed, &chosen)?;
    let user_entry = format!("user {:?}", chosen.user.clone().unwrap_or_default());
    let cluster_entry = format!("cluster {:?}", chosen.cluster);
    let server = check_cluster(&cluster).map_err(|problem| file.entry(&cluster_entry, problem))?;
    let user = file.user(&parsed, &chosen)?;
    let (ca_place, ca_count) = file.check_ca_file(&cluster)?;
    check_user(&user).map_err(|problem| file.entry(&user_entry, problem))?;

    let options = KubeConfigOptions { context: Some(context_name), cluster: None, user: None };
    let mut config = Config::from_custom_kubeconfig(parsed, &options)
        .await
        .map_err(|error| file.entry("as a whole", discreet::of_kubeconfig(&error)))?;
    let ca = config.root_cert.as_deref().unwrap_or_default();
    // An unfinished certificate at the end is left out without a word.
    if ca_count.is_some_and(|count| count != ca.len()) {
        let problem = "is cut off, or being written: not every certificate in it is whole".to_owned();
        return Err(AccessError::Certificates { place: ca_place, problem });
    }
    let mut warnings = check_ca(ca, &ca_place, ASN1Time::now())?;
    if cluster.proxy_url.as_deref().is_some_and(|proxy| !proxy.is_empty()) {
        warnings.push("proxy-url of the kubeconfig is ignored: apiservers are dialled directly".to_owned());
    }
    identity::hold(&mut config.auth_info)?;

    // What follows is ours to do: kube would refuse a token file that ends in a line feed, and a daemon has nobody to
    // answer a plugin's questions.
    let mut token = None;
    if let Some(path) = config.auth_info.token_file.take() {
        config.auth_info.token = None;
        let path = PathBuf::from(path);
        let opened = Token::open(&path, kept).map_err(|cause| AccessError::Unreadable {
            what: "the token file",
            path,
            cause,
        })?;
        token = Some(opened);
    }
    if let Some(exec) = &mut config.auth_info.exec {
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
    }
    check_identity(&config).map_err(|problem| file.entry(&user_entry, problem))?;

    let tls_name = config.tls_server_name.take().filter(|name| !name.is_empty());
    let tls_name = tls_name.unwrap_or_else(|| TLS_NAME.to_owned());
    let server_name = server_name(&tls_name).map_err(|problem| file.entry(&cluster_entry, problem))?;
    let source = format!("{user_entry} of kubeconfig {}", file.path.display());
    let expiry = Expiry::of(&config, token.as_deref());
    let origin = Origin::Kubeconfig { path: file.path, context: context.map(str::to_owned) };
    Ok(Access {
        config,
        server,
        tls_name,
        server_name,
        token,
        source,
        ca: ca_place,
        origin,
        expiry,
        warnings,
    })
}

/// What rustls verifies.
pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| format!("tls-server-name {name:?} is neither a DNS name nor an IP address"))
}

fn absolute(path: &Path) -> Result<PathBuf, AccessError> {
    // Relative paths in the kubeconfig are joined to this one's folder, and a later change of the working directory
    // must not move them.
    std::path::absolute(path).map_err(|error| AccessError::Unreadable {
        what: "the kubeconfig",
        path: path.to_owned(),
        cause: error.to_string(),
    })
}

/// The kubeconfig, and the errors that name it.
struct File {
    path: PathBuf,
}

impl File {
    fn parse(&self) -> Result<Kubeconfig, AccessError> {
        let bytes = read("the kubeconfig", &self.path)?;
        let not_a_kubeconfig = |cause: String| AccessError::NotAKubeconfig { path: self.path.clone(), cause };
        // kube indexes past the end of UTF-16 text of odd length.
        if matches!(bytes.as_slice(), [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..]) && bytes.len() % 2 == 1 {
            return Err(not_a_kubeconfig("UTF-16 text ends in the middle of a character".to_owned()));
        }
        if bytes.trim_ascii().is_empty() {
            return Err(AccessError::Empty { path: self.path.clone() });
        }
        Kubeconfig::read_from(&self.path).map_err(|error| not_a_kubeconfig(discreet::of_kubeconfig(&error)))
    }

    fn context(&self, parsed: &Kubeconfig, wanted: Option<&str>) -> Result<(String, Context), AccessError> {
        let known = || names(parsed.contexts.iter().map(|named| named.name.as_str()));
        let current = parsed.current_context.as_deref().filter(|name| !name.is_empty());
        let Some(name) = wanted.or(current) else {
            return Err(AccessError::NoContext { path: self.path.clone(), known: known() });
        };
        let found = parsed.contexts.iter().find(|named| named.name == name);
        match found.and_then(|named| named.context.clone()) {
            Some(context) => Ok((name.to_owned(), context)),
            None => Err(self.unknown("context", name, known())),
        }
    }

    fn cluster(&self, parsed: &Kubeconfig, context: &Context) -> Result<Cluster, AccessError> {
        let found = parsed.clusters.iter().find(|named| named.name == context.cluster);
        found.and_then(|named| named.cluster.clone()).ok_or_else(|| {
            let known = names(parsed.clusters.iter().map(|named| named.name.as_str()));
            self.unknown("cluster", &context.cluster, known)
        })
    }

    fn user(&self, parsed: &Kubeconfig, context: &Context) -> Result<AuthInfo, AccessError> {
        let wanted = context.user.clone().unwrap_or_default();
        let found = parsed.auth_infos.iter().find(|named| named.name == wanted);
        found.and_then(|named| named.auth_info.clone()).ok_or_else(|| {
            let known = names(parsed.auth_infos.iter().map(|named| named.name.as_str()));
            self.unknown("user", &wanted, known)
        })
    }

    /// Reads the CA's file, and says where the CA is, and how many certificates begin there if that is a file.
    fn check_ca_file(&self, cluster: &Cluster) -> Result<(String, Option<usize>), AccessError> {
        Ok(match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
            (None, Some(path)) => {
                let pem = read("the certificate-authority", Path::new(path))?;
                let begins = String::from_utf8_lossy(&pem).matches("-----BEGIN CERTIFICATE-----").count();
                (format!("certificate-authority {path}"), Some(begins))
            }
            _ => (format!("certificate-authority-data of kubeconfig {}", self.path.display()), None),
        })
    }

    fn unknown(&self, kind: &'static str, name: &str, known: String) -> AccessError {
        AccessError::Unknown { path: self.path.clone(), kind, name: name.to_owned(), known }
    }

    fn entry(&self, entry: &str, problem: String) -> AccessError {
        AccessError::Entry { path: self.path.clone(), entry: entry.to_owned(), problem }
    }
}

/// Checks what kube does not, and finds the server.
fn check_cluster(cluster: &Cluster) -> Result<Server, String> {
    let url = cluster.server.as_deref().filter(|server| !server.is_empty()).ok_or("it has no server")?;
    if url.contains('@') {
        return Err("its server holds a name or a password; only those of the user entry are used".to_owned());
    }
    let wrong = || format!("its server {url:?} is not a URL of the form https://HOST:PORT");
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") => return Err(format!("its server {url} is plain http://; only https:// is accepted")),
        _ => return Err(wrong()),
    }
    if uri.path() != "/" {
        return Err(format!(
            "its server {url} has a path, so it is a proxy; name an apiserver itself, as endpoints are dialled directly"
        ));
    }
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Err(
            "it sets insecure-skip-tls-verify, which is not accepted; give certificate-authority instead"
                .into(),
        );
    }
    let authority = [&cluster.certificate_authority_data, &cluster.certificate_authority];
    if authority.into_iter().flatten().all(String::is_empty) {
        return Err("it has no certificate-authority; name the file that holds the cluster's CA".to_owned());
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Server { host, port: uri.port_u16().unwrap_or(443) })
}

fn check_user(user: &AuthInfo) -> Result<(), String> {
    if let Some(provider) = &user.auth_provider {
        return Err(format!(
            "auth-provider {:?} is not supported (Kubernetes 1.26 removed it); use an exec plugin",
            provider.name
        ));
    }
    if user.exec.as_ref().is_some_and(|exec| exec.command.as_deref().unwrap_or_default().is_empty()) {
        return Err("its exec plugin has no command".to_owned());
    }
    let certificate = user.client_certificate.is_some() || user.client_certificate_data.is_some();
    let key = user.client_key.is_some() || user.client_key_data.is_some();
    match (certificate, key) {
        (true, false) => return Err("it has a client-certificate but no client-key".to_owned()),
        (false, true) => return Err("it has a client-key but no client-certificate".to_owned()),
        _ => {}
    }
    if user.token.as_ref().is_some_and(|token| bearer(secrecy::ExposeSecret::expose_secret(token)).is_none())
    {
        return Err("its token is empty or holds characters that no token has".to_owned());
    }
    Ok(())
}

pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    file::read(path).map_err(|cause| AccessError::Unreadable { what, path: path.to_owned(), cause })
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { one_line(&names.join(", ")) }
}
