//! One apiserver's place in a lab, and the audit of whoever stands there.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use apivip::model::types::Family;
use integration::audit::audit;
use integration::check::Checked;
use integration::kubeconfig::{self, Kubeconfig, User};
use integration::lab::{Lab, LabOptions, addresses};
use integration::pki::{Authority, KeyFiles, ServerCertificate, Validity};
use integration::sim::odd_api::{OddApi, Options};

/// A signed token in form: header, claims of a Pod, signature.
pub const TOKEN: &str =
    "e30.eyJhdWQiOlsiYXBpIl0sInN1YiI6InN5c3RlbTpzZXJ2aWNlYWNjb3VudDphOmIifQ.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg";
pub const AT: &str = "192.0.2.11:6443";
pub const NAMES: [&str; 2] = ["kubernetes", "kubernetes.default.svc"];
/// Those about one address.
pub const IDS: [&str; 12] = [
    "apiserver-certificate-issuer",
    "apiserver-certificate-names",
    "apiserver-certificate-expiry",
    "apiserver-tls-version",
    "apiserver-tls-ciphers",
    "foreign-client-certificate",
    "anonymous-discovery",
    "anonymous-objects",
    "basic-auth",
    "plain-http",
    "credentials",
    "damaged-token",
];

/// One apiserver's place, and the files of an audit on the node.
pub struct Stage {
    pub lab: Lab,
    pub authority: Authority,
    pub kubeconfig: PathBuf,
}

impl Stage {
    pub fn start() -> Result<Self> {
        let lab = Lab::start(LabOptions { pods: 0, apiservers: 1, ..LabOptions::default() })?;
        let authority = Authority::new(lab.dir(), "ca")?;
        let stage = Self { kubeconfig: lab.dir().join("kubeconfig"), lab, authority };
        stage.with_token(TOKEN)?;
        Ok(stage)
    }

    /// Writes the kubeconfig anew, with this token.
    pub fn with_token(&self, token: &str) -> Result<&Self> {
        self.write(self.authority.certificate(), token)
    }

    /// The same with another bundle of CAs.
    pub fn trusting(&self, bundle: &Path) -> Result<&Self> {
        self.write(bundle, TOKEN)
    }

    fn write(&self, bundle: &Path, token: &str) -> Result<&Self> {
        let trust = kubeconfig::Authority::File(bundle.to_owned());
        Kubeconfig::new(format!("https://{AT}"), trust, User::Token(token.to_owned()))
            .write(&self.kubeconfig)?;
        Ok(self)
    }

    pub fn certificate(
        &self,
        by: &Authority,
        name: &str,
        names: &[&str],
        validity: Validity,
    ) -> Result<KeyFiles> {
        let addresses = [addresses::apiserver(1, Family::V4), addresses::vip(Family::V4)];
        by.server_with(name, &ServerCertificate { names, addresses: &addresses, validity })
    }

    pub fn good(&self) -> Result<Options> {
        Ok(Options::good(self.certificate(&self.authority, "good", &NAMES, Validity::Now)?, TOKEN))
    }

    pub fn serve(&self, options: Options) -> Result<OddApi> {
        OddApi::start(self.lab.apiserver(1), AT.parse()?, options)
    }

    pub fn audit(&self) -> Result<Checked> {
        audit(&self.lab, &["--kubeconfig", &self.kubeconfig.display().to_string()])
    }

    /// The audit of an apiserver like that.
    pub fn of(&self, options: Options) -> Result<Checked> {
        let _serving = self.serve(options)?;
        self.audit()
    }
}

/// Fails unless these checks say so, and all others about the address pass.
pub fn expect(checked: &Checked, expected: &[(&str, &str, &str)]) -> Result<()> {
    for id in IDS {
        match expected.iter().find(|(of, ..)| *of == id) {
            Some((_, verdict, words)) => checked.expect(id, verdict, &[words, AT])?,
            None => checked.expect(id, "pass", &[AT])?,
        }
    }
    for finding in checked.findings().filter(|finding| finding["verdict"] != "pass") {
        ensure!(finding["fix"].is_string(), "nothing is said to help: {finding:#}");
    }
    Ok(())
}
