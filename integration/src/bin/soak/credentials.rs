//! What the daemon trusts and what it shows: a CA, a token and a client certificate, in files that are renewed as those of
//! kubelets are. Whatever is written is as good as what it replaces, and is none of its bytes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use integration::control_plane::ControlPlane;
use integration::daemon::DaemonOptions;
use integration::kubeconfig::{self, Kubeconfig, User};
use integration::lab::Lab;
use integration::pki::{Authority, KeyFiles};
use integration::sim::fleet::TOKENS;

use crate::files::Rotated;

/// The files, and two kubeconfigs that name them.
pub struct Credentials {
    folder: PathBuf,
    ca: Rotated,
    token: Rotated,
    /// Certificate and key in one file, as the kubelet keeps them.
    client: Rotated,
    turn: usize,
}

impl Credentials {
    pub fn new(lab: &Lab, plane: &ControlPlane<'_>) -> Result<Self> {
        let folder = lab.dir().join("rotated");
        fs::create_dir(&folder).context("make a folder")?;
        let ca = Rotated::new(&folder, "ca.crt", &text(plane.authority())?)?;
        let token = Rotated::new(&folder, "token", TOKENS[0])?;
        let client = Rotated::new(&folder, "client.pem", &client(plane, 0)?)?;
        let made = Self { folder, ca, token, client, turn: 0 };
        let files = KeyFiles { certificate: made.client.path(), key: made.client.path() };
        for (certified, user) in [(true, User::Files(files)), (false, User::TokenFile(made.token.path()))] {
            let server = format!("https://{}", plane.apiservers(1)[0]);
            let mut config = Kubeconfig::new(server, kubeconfig::Authority::File(made.ca.path()), user);
            config.server_name = Some("kubernetes.default.svc".to_owned());
            config.write(&made.kubeconfig(certified))?;
        }
        Ok(made)
    }

    fn kubeconfig(&self, certified: bool) -> PathBuf {
        self.folder.join(if certified { "certificate.kubeconfig" } else { "token.kubeconfig" })
    }

    /// Of a daemon that is let in by its certificate or by its token.
    pub fn options(&self, certified: bool) -> DaemonOptions {
        DaemonOptions::kubeconfig(self.kubeconfig(certified))
    }

    /// The cluster's CA, and another beside it.
    pub fn renew_ca(&mut self, plane: &ControlPlane<'_>, half: bool) -> Result<()> {
        self.turn += 1;
        let other = Authority::new(&self.folder, &format!("other-ca-{}", self.turn))?;
        self.ca.renew(&format!("{}{}", text(plane.authority())?, other.pem()), half)
    }

    /// The certificate or the token.
    pub fn renew(&mut self, plane: &ControlPlane<'_>, certified: bool, half: bool) -> Result<()> {
        self.turn += 1;
        if certified {
            return self.client.renew(&client(plane, self.turn)?, half);
        }
        self.token.renew(TOKENS[self.turn % TOKENS.len()], half)
    }
}

fn client(plane: &ControlPlane<'_>, turn: usize) -> Result<String> {
    let KeyFiles { certificate, key } = plane.client_certificate(&format!("client-{turn}"))?;
    Ok(text(&certificate)? + &text(&key)?)
}

fn text(path: &std::path::Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
