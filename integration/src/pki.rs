//! Certificates for the harness, good ones and every kind of bad one.
//! In: a folder, names, addresses and a validity. Out: PEM files there. Keys are ECDSA P-256.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::{Duration, OffsetDateTime};

/// The name that apiservers are verified by.
pub const SERVER_NAME: &str = "kubernetes.default.svc";

/// The names that clients inside a cluster verify an apiserver by.
pub const SERVER_NAMES: [&str; 4] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];

/// When a certificate is valid, seen from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From an hour ago to 30 days ahead: longer than the week from which on the daemon asks for new ones.
    Now,
    /// It ended an hour ago.
    Expired,
    /// It begins in an hour.
    NotYet,
    /// From an hour ago to so many seconds ahead.
    Brief(u16),
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct KeyFiles {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, PKCS #8.
    pub key: PathBuf,
}

/// What a server's certificate says.
#[derive(Clone, Debug)]
pub struct ServerCertificate<'a> {
    /// DNS names it is good for.
    pub names: &'a [&'a str],
    /// Addresses it is good for.
    pub addresses: &'a [IpAddr],
    /// When it is good.
    pub validity: Validity,
}

/// A certificate authority. A second one with another name is the foreign authority of a test.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    certificate: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A valid authority. Its certificate is `FOLDER/NAME.crt`; its key stays in memory.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        Self::with_validity(folder, name, Validity::Now)
    }

    /// An authority whose own certificate has this validity.
    pub fn with_validity(folder: &Path, name: &str, validity: Validity) -> Result<Self> {
        let mut params = params(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = new_key()?;
        let pem = params.self_signed(&key).context("sign an authority")?.pem();
        let certificate = folder.join(format!("{name}.crt"));
        write(&certificate, &pem)?;
        Ok(Self { folder: folder.to_owned(), certificate, pem, issuer: Issuer::new(params, key) })
    }

    /// The file that holds its certificate.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Its certificate as PEM text.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its key as PEM text.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A valid certificate for a server at these addresses, by every name of [`SERVER_NAMES`]. The files are named
    /// after `name`.
    pub fn server(&self, name: &str, addresses: &[IpAddr]) -> Result<KeyFiles> {
        let certificate = ServerCertificate { names: &SERVER_NAMES, addresses, validity: Validity::Now };
        self.server_with(name, &certificate)
    }

    /// A certificate for a server, as said.
    pub fn server_with(&self, name: &str, certificate: &ServerCertificate<'_>) -> Result<KeyFiles> {
        let mut params = params(name, certificate.validity);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for dns in certificate.names {
            params.subject_alt_names.push(SanType::DnsName((*dns).try_into().context("use a DNS name")?));
        }
        params.subject_alt_names.extend(certificate.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        self.issue(name, &params)
    }

    /// A client's certificate: `user` is what Kubernetes takes as the user's name, `groups` as groups.
    pub fn client(&self, name: &str, user: &str, groups: &[&str], validity: Validity) -> Result<KeyFiles> {
        let mut params = params(user, validity);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        self.issue(name, &params)
    }

    fn issue(&self, name: &str, params: &CertificateParams) -> Result<KeyFiles> {
        let key = new_key()?;
        let signed =
            params.signed_by(&key, &self.issuer).with_context(|| format!("sign a certificate for {name}"))?;
        let files = KeyFiles {
            certificate: self.folder.join(format!("{name}.crt")),
            key: self.folder.join(format!("{name}.key")),
        };
        write(&files.certificate, &signed.pem())?;
        write(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}

/// Makes the keys of service account tokens: `FOLDER/NAME.key` signs, `FOLDER/NAME.pub` verifies.
pub fn service_account_keys(folder: &Path, name: &str) -> Result<(PathBuf, PathBuf)> {
    let key = new_key()?;
    let (private, public) = (folder.join(format!("{name}.key")), folder.join(format!("{name}.pub")));
    write(&private, &key.serialize_pem())?;
    write(&public, &key.public_key_pem())?;
    Ok((private, public))
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a P-256 key")
}

fn params(common_name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = match validity {
        Validity::Now => (now - Duration::HOUR, now + 30 * Duration::DAY),
        Validity::Expired => (now - Duration::DAY, now - Duration::HOUR),
        Validity::NotYet => (now + Duration::HOUR, now + Duration::DAY),
        Validity::Brief(seconds) => (now - Duration::HOUR, now + Duration::seconds(seconds.into())),
    };
    params
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What `openssl verify` says of a server's certificate.
    fn verify(authority: &Authority, files: &KeyFiles, name: &str) -> String {
        let mut command = Command::new("openssl");
        command.arg("verify").arg("-CAfile").arg(authority.certificate());
        command.args(["-purpose", "sslserver", "-verify_hostname", name]).arg(&files.certificate);
        let limit = crate::command::COMMAND_LIMIT;
        let finished = crate::command::finish(command, "", limit).expect("run openssl");
        finished.stdout + &finished.stderr
    }

    #[test]
    fn each_mistake_is_the_only_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let good = Authority::new(folder.path(), "ca")?;
        let foreign = Authority::new(folder.path(), "foreign-ca")?;
        let old = Authority::with_validity(folder.path(), "old-ca", Validity::Expired)?;
        let service = "kubernetes.default.svc";
        let server = good.server("good", &["192.0.2.11".parse()?, "2001:db8::11".parse()?])?;
        assert!(verify(&good, &server, service).contains("OK"));
        assert!(verify(&foreign, &server, service).contains("unable to get local issuer"));
        assert!(verify(&good, &server, "elsewhere").contains("hostname mismatch"));
        assert!(verify(&old, &old.server("of-old", &[])?, service).contains("certificate has expired"));
        let late = ServerCertificate { names: &[service], addresses: &[], validity: Validity::Expired };
        assert!(
            verify(&good, &good.server_with("late", &late)?, service).contains("certificate has expired")
        );
        let early = ServerCertificate { validity: Validity::NotYet, ..late };
        assert!(verify(&good, &good.server_with("early", &early)?, service).contains("not yet valid"));
        let nameless = ServerCertificate { names: &["elsewhere"], validity: Validity::Now, ..early };
        assert!(
            verify(&good, &good.server_with("nameless", &nameless)?, service).contains("hostname mismatch")
        );
        Ok(())
    }
}
