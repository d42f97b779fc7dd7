//! Access from a kubeconfig: what kubectl takes is taken, but for what is refused by name. The CA bundle is checked here.
//!
//! Only the context that is used counts, with its cluster and its user. Files are read into memory once, so
//! that half of a renewal is never used. A wrong clock must not keep a node from starting, so nothing that it could fix
//! is an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::access::{Access, AccessError, Origin, Server, TLS_NAME, User, Warning};
use super::authentication::{Token, basic, bearer, decode_base64, impersonation, read_file};
use super::certificates::{ClientCertificate, Expiry};
use super::exec_plugin::ExecPlugin;
use super::text::{one_line, variant_text};
use document::{ClusterEntry, ContextEntry, Document, List, UserEntry, Variable, read_entry};

mod document;

/// The extension of a cluster that is meant for credential plugins.
const PLUGIN_EXTENSION: &str = "client.authentication.k8s.io/exec";

/// Loads `path` with `context`, or with its current-context. `kept` is the token that was read before.
pub(crate) fn load(
    path: &Path,
    context: Option<&str>,
    kept: Option<&Arc<Token>>,
) -> Result<Access, AccessError> {
    let bytes = read("the kubeconfig", &absolute(path)?)?;
    parse(path, &bytes, context, kept)
}

/// Reads what `path` holds, and the files that it names.
pub(crate) fn parse(
    path: &Path,
    bytes: &[u8],
    context: Option<&str>,
    kept: Option<&Arc<Token>>,
) -> Result<Access, AccessError> {
    let file = File { path: absolute(path)? };
    let document = file.document(bytes)?;
    let chosen = file.context(&document, context)?;
    let (cluster_name, user_name) = (chosen.cluster.unwrap_or_default(), chosen.user.unwrap_or_default());
    let cluster: ClusterEntry = file.entry(&document, List::Clusters, &cluster_name)?;
    let entry: UserEntry = file.entry(&document, List::Users, &user_name)?;
    let cluster_entry = format!("cluster {cluster_name:?}");
    let user_entry = format!("user {user_name:?}");

    let in_cluster = |problem: String| file.problem(&cluster_entry, problem);
    let server = check_cluster(&cluster).map_err(in_cluster)?;
    let authority = server.authority().map_err(in_cluster)?;
    let (ca, pem) = file.ca(&cluster, &cluster_entry)?;
    let roots = read_ca(&pem, &ca)?;
    let mut warnings = check_ca(&roots, &ca, ASN1Time::now())?;
    if !matches!(&cluster.proxy_url, Value::Null) && cluster.proxy_url != "" {
        let text = "proxy-url of the kubeconfig is ignored: apivip dials API servers directly";
        warnings.push(Warning::Ignored(text.to_owned()));
    }
    let tls_name = cluster.tls_server_name.clone().unwrap_or_else(|| TLS_NAME.to_owned());
    let server_name = server_name(&tls_name).map_err(in_cluster)?;

    let in_user = |problem: String| file.problem(&user_entry, problem);
    let user = User {
        authorization: authorization(&entry).map_err(in_user)?,
        certificate: file.client_certificate(&entry, &user_entry)?,
        headers: impersonation(
            entry.impersonate.as_deref(),
            entry.as_uid.as_deref(),
            entry.as_groups.as_deref().unwrap_or_default(),
            &entry.as_user_extra.clone().unwrap_or_default(),
        )
        .map_err(in_user)?,
        plugin: file.plugin(&entry, &cluster, &pem).map_err(in_user)?,
    };
    let token = entry.token_file.as_ref().map(|path| {
        let path = file.join(path);
        Token::open(&path, kept).map_err(|cause| AccessError::Unreadable {
            what: "the token file",
            path,
            cause,
        })
    });
    let token = token.transpose()?;
    let source = format!("{user_entry} of kubeconfig {}", file.path.display());
    let expiry = Expiry::of(&roots, user.leaf(), token.as_deref());
    let origin = Origin::Kubeconfig { path: file.path, context: context.map(str::to_owned) };
    Ok(Access {
        roots,
        user,
        server,
        authority,
        tls_name,
        server_name,
        token,
        source,
        ca,
        origin,
        expiry,
        warnings,
    })
}

/// What rustls verifies.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, String> {
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
    fn document(&self, bytes: &[u8]) -> Result<Document, AccessError> {
        if bytes.trim_ascii().is_empty() {
            return Err(AccessError::Empty { path: self.path.clone() });
        }
        Document::read(bytes).map_err(|cause| AccessError::NotAKubeconfig { path: self.path.clone(), cause })
    }

    fn context(&self, document: &Document, wanted: Option<&str>) -> Result<ContextEntry, AccessError> {
        match wanted.or(document.current_context()) {
            Some(name) => self.entry(document, List::Contexts, name),
            None => {
                Err(AccessError::NoContext { path: self.path.clone(), known: document.names(List::Contexts) })
            }
        }
    }

    fn entry<T: DeserializeOwned>(
        &self,
        document: &Document,
        list: List,
        name: &str,
    ) -> Result<T, AccessError> {
        let entry = document.entry(list, name).ok_or_else(|| AccessError::Unknown {
            path: self.path.clone(),
            kind: list.field(),
            name: name.to_owned(),
            known: document.names(list),
        })?;
        read_entry(entry).map_err(|problem| self.problem(&format!("{} {name:?}", list.field()), problem))
    }

    /// Where the CA is, and what it holds.
    fn ca(&self, cluster: &ClusterEntry, entry: &str) -> Result<(String, Vec<u8>), AccessError> {
        match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
            (None, Some(path)) => {
                let path = self.join(path);
                let pem = read("the certificate-authority", &path)?;
                Ok((format!("certificate-authority {}", path.display()), pem))
            }
            (data, _) => {
                let place = format!("certificate-authority-data of kubeconfig {}", self.path.display());
                let pem = decode("certificate-authority-data", data.as_deref().unwrap_or_default());
                Ok((place, pem.map_err(|problem| self.problem(entry, problem))?))
            }
        }
    }

    /// Certificate and key; what is in the kubeconfig comes before files.
    fn client_certificate(
        &self,
        user: &UserEntry,
        entry: &str,
    ) -> Result<Option<ClientCertificate>, AccessError> {
        let there = |data: &Option<String>, file: &Option<String>| data.is_some() || file.is_some();
        let certificate = there(&user.client_certificate_data, &user.client_certificate);
        let problem = match (certificate, there(&user.client_key_data, &user.client_key)) {
            (false, false) => return Ok(None),
            (true, false) => Some("it has a client-certificate but no client-key"),
            (false, true) => Some("it has a client-key but no client-certificate"),
            (true, true) => None,
        };
        if let Some(problem) = problem {
            return Err(self.problem(entry, problem.to_owned()));
        }
        let pem = |field: &str, what, data: &Option<String>, path: &Option<String>| match (data, path) {
            (None, Some(path)) => read(what, &self.join(path)),
            (data, _) => decode(field, data.as_deref().unwrap_or_default())
                .map_err(|problem| self.problem(entry, problem)),
        };
        let certificate = pem(
            "client-certificate-data",
            "the client-certificate",
            &user.client_certificate_data,
            &user.client_certificate,
        )?;
        let key = pem("client-key-data", "the client-key", &user.client_key_data, &user.client_key)?;
        ClientCertificate::of_pem(&certificate, &key)
            .map(Some)
            .map_err(|problem| self.problem(entry, problem))
    }

    fn plugin(
        &self,
        user: &UserEntry,
        cluster: &ClusterEntry,
        ca: &[u8],
    ) -> Result<Option<ExecPlugin>, String> {
        let Some(exec) = &user.exec else { return Ok(None) };
        let command = exec.command.as_deref().ok_or("its exec plugin has no command")?;
        // Without a slash it is looked for in PATH.
        let command = if command.contains('/') { self.join(command) } else { PathBuf::from(command) };
        let env: Vec<(String, String)> = exec.env.iter().flatten().filter_map(name_and_value).collect();
        let holds_nul = |text: &String| text.contains('\0');
        if exec.args.iter().flatten().any(holds_nul)
            || env.iter().any(|(name, value)| name.contains(['=', '\0']) || holds_nul(value))
            || command.to_string_lossy().contains('\0')
        {
            return Err(
                "its exec plugin has arguments or variables that cannot be passed to a program".to_owned()
            );
        }
        let info = exec.provide_cluster_info.unwrap_or_default().then(|| cluster_info(cluster, ca));
        let info = ExecPlugin::info(exec.api_version.as_deref(), info);
        Ok(Some(ExecPlugin { command, args: exec.args.clone().unwrap_or_default(), env, info }))
    }

    /// A path is relative to the folder of the kubeconfig.
    fn join(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("/")).join(path)
    }

    fn problem(&self, entry: &str, problem: String) -> AccessError {
        AccessError::Entry { path: self.path.clone(), entry: entry.to_owned(), problem }
    }
}

fn name_and_value(variable: &Variable) -> Option<(String, String)> {
    Some((variable.name.clone()?, variable.value.clone().unwrap_or_default()))
}

/// The cluster info that a plugin gets (`provideClusterInfo`).
fn cluster_info(cluster: &ClusterEntry, ca: &[u8]) -> Value {
    let extensions = cluster.extensions.as_array().map(Vec::as_slice).unwrap_or_default();
    let own = extensions.iter().find(|extension| extension["name"] == PLUGIN_EXTENSION);
    let mut info = json!({
        "server": cluster.server,
        "certificate-authority-data": STANDARD.encode(ca),
        "tls-server-name": cluster.tls_server_name,
        "config": own.map(|extension| &extension["extension"]),
    });
    if let Some(fields) = info.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    info
}

/// Checks what of a cluster is refused, and finds the server.
fn check_cluster(cluster: &ClusterEntry) -> Result<Server, String> {
    let server = Server::of_url(cluster.server.as_deref().ok_or("it has no server")?)?;
    if cluster.insecure_skip_tls_verify == Some(true) {
        return Err(
            "it sets insecure-skip-tls-verify, which is not accepted; set certificate-authority instead"
                .into(),
        );
    }
    if cluster.certificate_authority.is_none() && cluster.certificate_authority_data.is_none() {
        return Err(
            "it has no certificate-authority; set it to the file with the CA of the cluster".to_owned()
        );
    }
    Ok(server)
}

/// What a user entry shows with each request.
fn authorization(user: &UserEntry) -> Result<Option<http::HeaderValue>, String> {
    if let Some(provider) = &user.auth_provider {
        return Err(format!(
            "auth-provider {:?} is not supported (Kubernetes 1.26 removed it); use an exec plugin",
            provider.name.as_deref().unwrap_or_default()
        ));
    }
    match (&user.username, &user.token) {
        (Some(_), Some(_)) => Err("it has both a username and a token; remove one of them".to_owned()),
        (Some(name), None) => {
            let header = basic(name, user.password.as_deref().unwrap_or_default());
            header
                .map(Some)
                .ok_or_else(|| "its username and password contain characters that cannot be sent".to_owned())
        }
        // One in a file is renewed, so it comes first.
        (None, Some(_)) if user.token_file.is_some() => Ok(None),
        (None, Some(token)) => {
            let header = bearer(token);
            header.map(Some).ok_or_else(|| "its token is empty or contains invalid characters".to_owned())
        }
        (None, None) => Ok(None),
    }
}

fn decode(field: &str, data: &str) -> Result<Vec<u8>, String> {
    decode_base64(data).ok_or_else(|| format!("its {field} is not base64; create it with base64 -w0 FILE"))
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, AccessError> {
    read_file(path).map_err(|cause| AccessError::Unreadable { what, path: path.to_owned(), cause })
}

/// Reads the certificates of a bundle. `place` says where it came from.
pub(crate) fn read_ca(pem: &[u8], place: &str) -> Result<Vec<Vec<u8>>, AccessError> {
    let problem =
        |problem: &str| AccessError::Certificates { place: place.to_owned(), problem: problem.to_owned() };
    let read: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(pem).map(|der| der.map(|der| der.to_vec())).collect();
    // One that is not finished may be left out without a word.
    let begun = String::from_utf8_lossy(pem).matches("-----BEGIN CERTIFICATE-----").count();
    let ended = String::from_utf8_lossy(pem).matches("-----END CERTIFICATE-----").count();
    match read {
        Ok(ders) if begun == ders.len() => Ok(ders),
        Err(_) if begun == ended => Err(problem("contains a damaged certificate; create the file again")),
        _ => Err(problem("is truncated or still being written: it contains an incomplete certificate")),
    }
}

/// Checks each CA certificate (DER) against `now`. `place` says where they came from. Returns what an operator should
/// know of a bundle that can be used, a line for each.
pub(crate) fn check_ca(ders: &[Vec<u8>], place: &str, now: ASN1Time) -> Result<Vec<Warning>, AccessError> {
    let problem = |problem: String| AccessError::Certificates { place: place.to_owned(), problem };
    let mut store = rustls::RootCertStore::empty();
    let mut expired = Vec::new();
    let mut warnings = Vec::new();
    for (at, der) in ders.iter().enumerate() {
        let broken = |why: &str| {
            problem(format!(
                "contains a certificate that cannot be parsed, number {} of {}{why}",
                at + 1,
                ders.len()
            ))
        };
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|_| broken("; create the file again"))?;
        store
            .add(CertificateDer::from(der.as_slice()))
            .map_err(|error| broken(&format!(": {}", variant_text(&error))))?;
        let subject = one_line(&certificate.subject().to_string());
        let (begin, end) = (certificate.validity().not_before, certificate.validity().not_after);
        if end < now {
            expired.push((end, subject));
        } else if begin > now {
            warnings.push(Warning::Date(format!(
                "{place}: {subject} is not valid before {begin}; check the clock of this node"
            )));
        }
    }
    if ders.is_empty() {
        return Err(problem(
            "contains no certificate in PEM format; it must contain the CA of the cluster".to_owned(),
        ));
    }
    if expired.len() == ders.len()
        && let Some((end, subject)) = expired.iter().max_by_key(|(end, _)| end.timestamp())
    {
        // A wrong clock says the same of a good CA, and what is known of the apiservers can be served meanwhile.
        warnings.push(Warning::Date(format!(
            "{place}: every certificate in it has expired, the last was {subject}, on {end}: renew it, or correct the clock \
             of this node; no API server can be verified until then"
        )));
        return Ok(warnings);
    }
    for (end, subject) in expired {
        let text =
            format!("{place}: {subject} expired at {end}; other certificates in the bundle have not expired");
        warnings.push(Warning::Date(text));
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "87654321";

    fn error_of(text: &str) -> Option<String> {
        parse(Path::new("/kubeconfig"), text.as_bytes(), None, None).err().map(|error| error.to_string())
    }

    #[test]
    fn error_of_a_kubeconfig_does_not_quote_it() {
        let of = |user: &str| {
            format!(
                "kind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
                 clusters: [{{name: a, cluster: {{}}}}]\nusers:\n- name: a\n  user: {user}\n"
            )
        };
        for (text, says) in [
            (of(&format!("{{token: [{SECRET}]}}")), "token: the value is not"),
            (of(&format!("{{token: {{a: {SECRET}}}}}")), "token: the value is not"),
            (of(&format!("{{token: {SECRET}}}")), "token: the value is not"),
            (of(&format!("{{exec: {SECRET}}}")), "exec: the value is not"),
            (of(&format!("{{as-user-extra: {{{SECRET}: {SECRET}}}}}")), "as-user-extra: the value is not"),
            (of(&format!("\"{SECRET}")), "line"),
            (of(&format!("{SECRET}: [\"")), "line"),
            (of(&format!("{{token: *{SECRET}}}")), ""),
            (of(&format!("{{exec: {{env: {SECRET}}}}}")), "exec.env: the value is not"),
            (of(&format!("{{token: a, {SECRET}: 1, {SECRET}: 2}}")), "a key is duplicated"),
        ] {
            let error = error_of(&text).unwrap_or_else(|| panic!("{text} is read"));
            assert!(!error.contains(SECRET) && error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn error_never_quotes_a_secret(before in "[ -~\n]{0,40}", after in "[ -~\n]{0,40}") {
            if let Some(told) = error_of(&format!("{before}{SECRET}{after}")) {
                prop_assert!(!told.contains(SECRET), "{}", told);
            }
        }
    }
}
