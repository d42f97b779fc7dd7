//! What apiservers show on new connections, and what becomes of those that are open.
//! In: who signs. Out: certificates that the apiservers show, and connections that have ended or that outlast a half.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use apivip::model::types::Family;

use super::{ControlPlane, Plane};
use crate::lab::addresses;
use crate::pki::{Authority, KeyFiles, SERVER_NAMES, ServerCertificate, Validity};

impl ControlPlane<'_> {
    /// Makes simulated apiservers show other certificates, signed by `foreign` or else by their own authority, as a
    /// restart with other files would: their connections end, once all of them show the new ones.
    ///
    /// Real ones take only good certificates of another authority. They find the files within some minutes and keep their
    /// connections, and whoever asks them for the test trusts both authorities.
    pub fn show_certificates(
        &mut self,
        numbers: &[u8],
        foreign: Option<&Authority>,
        validity: Validity,
    ) -> Result<()> {
        let (fleet, authority) = match &mut self.plane {
            Plane::Simulated { fleet, authority } => (fleet, authority),
            Plane::Real(real) => {
                ensure!(validity == Validity::Now, "real apiservers show good certificates only");
                let foreign = foreign.context("real apiservers show other certificates of others only")?;
                return real.show_certificates(numbers, foreign);
            }
        };
        let signed = numbers.iter().map(|i| {
            let addresses: Vec<IpAddr> =
                self.lab.apiserver_addresses(*i).into_iter().chain(self.lab.vips()).collect();
            let certificate = ServerCertificate { names: &SERVER_NAMES, addresses: &addresses, validity };
            let end = if foreign.is_some() { "-foreign" } else { "" };
            let name = format!("apiserver-{i}-{validity:?}{end}");
            Ok((*i, foreign.unwrap_or(authority).server_with(&name, &certificate)?))
        });
        let signed: BTreeMap<u8, KeyFiles> = signed.collect::<Result<_>>()?;
        fleet.on_each(numbers, |i, control| {
            let files = signed.get(&i).cloned();
            async move { control.certificate(&files.context("sign a certificate")?).await }
        })?;
        fleet.on_each(numbers, |_, control| async move { control.reset(false).await })
    }

    /// Ends every connection of the node to apiservers; the next ones need trust and credentials.
    pub fn end_connections(&self) -> Result<()> {
        if let Plane::Simulated { fleet, .. } = &self.plane {
            return fleet.on_all(|control| async move { control.reset(false).await });
        }
        let all = (1..=self.lab.options().apiservers)
            .flat_map(|i| self.apiservers(i).into_iter().map(move |at| (i, at)));
        for (i, listens) in all {
            let node = addresses::before_port(addresses::node(Family::of(listens.ip())));
            let port = format!(":{}", listens.port());
            let arguments = ["-K", "-t", "state", "established", "sport", "=", &port, "dst", &node];
            self.lab.apiserver(i).run("ss", &arguments)?;
        }
        Ok(())
    }

    /// Has simulated apiservers go on answering a client that has closed its half, as real ones do.
    pub fn serve_half_closed(&self) -> Result<()> {
        let Plane::Simulated { fleet, .. } = &self.plane else { return Ok(()) };
        fleet.on_all(|control| async move { control.adjust(|faults| faults.half_close = true).await })
    }
}
