//! Arguments for the time before the API answers: where apiservers may be found, and what they serve.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::model::address::Cidr;
use crate::model::address::Seed;
use crate::model::address::{self, RejectReason};
use crate::model::sources::SourceConfig;
use crate::model::types::{Family, Vip};

/// Where the last good state is kept unless `--state-dir` says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/apivip";

/// The port of the `kubernetes` Service; kube-apiserver has no option for another.
const SERVICE_PORT: u16 = 443;

/// What a node knows before the API answers.
#[derive(Clone, Debug, Args)]
pub struct BootArgs {
    /// An apiserver, by address or DNS name, to be used and dialled until the API says better. Repeatable
    #[arg(long, env = "APIVIP_SEED", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub seed: Vec<Seed>,

    /// The virtual IP and port that is served before the API answers. Repeatable
    #[arg(long, env = "APIVIP_VIP", value_name = "ADDRESS:PORT", value_delimiter = ',', value_parser = vip)]
    pub vip: Vec<SocketAddr>,

    /// The cluster's Service range: its first address, port 443, is the virtual IP of a family without --vip. Repeatable
    #[arg(long, env = "APIVIP_SERVICE_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<Cidr>,

    /// Folder where the last good state is kept for the next start
    #[arg(long, env = "APIVIP_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
}

/// Why the arguments do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// A range of one address.
    #[error(
        "--service-cidr {0} is one address: give the range that the apiservers' --service-cluster-ip-range names"
    )]
    NoRange(Cidr),
    /// The first address of a range cannot be a virtual IP.
    #[error("--service-cidr {0}: its first address {1}")]
    BadRange(Cidr, RejectReason),
    /// `--vip` and `--service-cidr` contradict each other.
    #[error("--vip {0} is outside of --service-cidr {1}: correct one of them")]
    Outside(Vip, Cidr),
    /// A seed that no apiserver can have.
    #[error("--seed {0}: its address {1}")]
    BadSeed(Seed, RejectReason),
    /// A virtual IP that no seed can serve.
    #[error(
        "--vip {0} is of family {1} and every --seed is of the other: add one of {1}, or leave the virtual IP out"
    )]
    NoSeedOfFamily(Vip, Family),
}

impl BootArgs {
    /// What they say of the cluster.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn configured(&self, allow_loopback: bool) -> Result<SourceConfig, BootError> {
        let vips = self.vips()?;
        let seeds: BTreeSet<Seed> = self.seed.iter().cloned().collect();
        let addresses: BTreeSet<IpAddr> = vips.iter().map(SocketAddr::ip).collect();
        for seed in &seeds {
            let Some(at) = seed.address() else { continue };
            address::validate_backend(&at.ip().to_string(), None, &addresses, allow_loopback)
                .map_err(|reason| BootError::BadSeed(seed.clone(), reason))?;
        }
        let may_serve = |vip: &Vip| {
            let fits = |seed: &Seed| seed.address().is_none_or(|at| at.is_ipv4() == vip.is_ipv4());
            seeds.is_empty() || seeds.iter().any(fits)
        };
        match vips.iter().find(|vip| !may_serve(vip)) {
            Some(vip) => Err(BootError::NoSeedOfFamily(*vip, Family::of(vip.ip()))),
            None => Ok(SourceConfig {
                vips,
                seeds: seeds.into_iter().collect(),
                allow_loopback,
                pod_server: None,
            }),
        }
    }

    /// Those of `--vip`, and for a family without one the first of each range.
    fn vips(&self) -> Result<Vec<Vip>, BootError> {
        let mut vips: BTreeSet<Vip> = self.vip.iter().copied().collect();
        for cidr in &self.service_cidr {
            let first = cidr.first_host().ok_or(BootError::NoRange(*cidr))?;
            address::validate_vip(&first.to_string()).map_err(|reason| BootError::BadRange(*cidr, reason))?;
            let mut given = self.vip.iter().filter(|vip| Family::of(vip.ip()) == cidr.family()).peekable();
            if given.peek().is_none() {
                vips.insert(Vip::new(first, SERVICE_PORT));
            }
            if let Some(vip) = given.find(|vip| !self.is_in_a_range(vip.ip())) {
                return Err(BootError::Outside(*vip, *cidr));
            }
        }
        Ok(vips.into_iter().collect())
    }

    fn is_in_a_range(&self, ip: IpAddr) -> bool {
        self.service_cidr.iter().any(|cidr| cidr.contains(ip))
    }
}

fn vip(text: &str) -> Result<SocketAddr, String> {
    let expected = || "expected ADDRESS:PORT, such as 10.96.0.1:443 or [fd00:10:96::1]:443".to_owned();
    let vip: SocketAddr = text.parse().map_err(|_| expected())?;
    if vip.port() == 0 {
        return Err(expected());
    }
    address::validate_vip(&vip.ip().to_string()).map_err(|reason| format!("the address {reason}"))?;
    Ok(vip)
}

#[cfg(test)]
mod tests;
