//! Arguments for the time before the API answers: where apiservers may be found, and which virtual IPs they serve.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::model::address;
use crate::model::address::Cidr;
use crate::model::address::RejectReason;
use crate::model::address::Seed;
use crate::model::sources::SourceConfig;
use crate::model::types::{Family, Vip};

/// Where the last good state is kept unless `--state-dir` says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/apivip";

/// The port of the `kubernetes` Service; kube-apiserver has no option for another.
const SERVICE_PORT: u16 = 443;

/// What a node knows before the API answers.
#[derive(Clone, Debug, Args)]
pub struct BootstrapArgs {
    /// API server, by address or DNS name, to use until the API publishes the endpoints. Repeatable
    #[arg(long, env = "APIVIP_SEED", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub seed: Vec<Seed>,

    /// Virtual IP and port to serve before the API answers. Repeatable
    #[arg(long, env = "APIVIP_VIP", value_name = "ADDRESS:PORT", value_delimiter = ',', value_parser = vip)]
    pub vip: Vec<SocketAddr>,

    /// Service range of the cluster; its first address, port 443, is the virtual IP of an IP family without --vip. Repeatable
    #[arg(long, env = "APIVIP_SERVICE_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub service_cidr: Vec<Cidr>,

    /// Directory for the last good state, which the next start reads
    #[arg(long, env = "APIVIP_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
}

/// Why the arguments do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// A range of one address.
    #[error(
        "--service-cidr {0} is a single address: set the range in --service-cluster-ip-range of kube-apiserver"
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
        "--vip {0} is an {1} address and every --seed is of the other IP family: add an {1} seed, or remove the virtual IP"
    )]
    NoSeedOfFamily(Vip, Family),
}

impl BootstrapArgs {
    /// What they say of the cluster.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn configured(&self, allow_loopback: bool) -> Result<SourceConfig, BootstrapError> {
        let vips = self.vips()?;
        let seeds: BTreeSet<Seed> = self.seed.iter().cloned().collect();
        let addresses: BTreeSet<IpAddr> = vips.iter().map(SocketAddr::ip).collect();
        for seed in &seeds {
            let Some(at) = seed.address() else { continue };
            address::validate_backend(&at.ip().to_string(), None, &addresses, allow_loopback)
                .map_err(|reason| BootstrapError::BadSeed(seed.clone(), reason))?;
        }
        let may_serve = |vip: &Vip| {
            let fits = |seed: &Seed| seed.address().is_none_or(|at| at.is_ipv4() == vip.is_ipv4());
            seeds.is_empty() || seeds.iter().any(fits)
        };
        match vips.iter().find(|vip| !may_serve(vip)) {
            Some(vip) => Err(BootstrapError::NoSeedOfFamily(*vip, Family::of(vip.ip()))),
            None => Ok(SourceConfig {
                vips,
                seeds: seeds.into_iter().collect(),
                allow_loopback,
                pod_server: None,
            }),
        }
    }

    /// Those of `--vip`, and for a family without one the first of each range.
    fn vips(&self) -> Result<Vec<Vip>, BootstrapError> {
        let mut vips: BTreeSet<Vip> = self.vip.iter().copied().collect();
        for cidr in &self.service_cidr {
            let first = cidr.first_host().ok_or(BootstrapError::NoRange(*cidr))?;
            address::validate_vip(&first.to_string())
                .map_err(|reason| BootstrapError::BadRange(*cidr, reason))?;
            let mut given = self.vip.iter().filter(|vip| Family::of(vip.ip()) == cidr.family()).peekable();
            if given.peek().is_none() {
                vips.insert(Vip::new(first, SERVICE_PORT));
            }
            if let Some(vip) = given.find(|vip| !self.is_in_a_range(vip.ip())) {
                return Err(BootstrapError::Outside(*vip, *cidr));
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
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bootstrap: BootstrapArgs,
    }

    fn configured(arguments: &[&str]) -> Result<SourceConfig, String> {
        let line =
            Line::try_parse_from([&["apivip"], arguments].concat()).map_err(|error| error.to_string())?;
        line.bootstrap.configured(false).map_err(|error| error.to_string())
    }

    fn vips(arguments: &[&str]) -> Vec<String> {
        configured(arguments).unwrap().vips.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn first_address_of_service_cidr_is_the_default_vip() {
        assert_eq!(vips(&["--service-cidr", "10.96.0.0/12"]), ["10.96.0.1:443"]);
        assert_eq!(
            vips(&["--service-cidr", "10.96.7.9/12,fd00:10:96::/108"]),
            ["10.96.0.1:443", "[fd00:10:96::1]:443"]
        );
        let both = ["--vip", "10.96.0.9:6443", "--service-cidr", "10.96.0.0/12,fd00:10:96::/108"];
        assert_eq!(vips(&both), ["10.96.0.9:6443", "[fd00:10:96::1]:443"]);
        assert_eq!(vips(&["--vip", "10.96.0.1:443", "--vip", "10.96.0.1:443"]), ["10.96.0.1:443"]);
        assert!(vips(&["--seed", "192.0.2.11:6443"]).is_empty());
    }

    #[test]
    fn seeds_of_both_families_and_names_are_accepted() {
        let all = ["--vip", "10.96.0.1:443,[fd00::1]:443", "--seed", "192.0.2.11:6443,[2001:db8::11]:6443"];
        assert_eq!(configured(&all).unwrap().seeds.len(), 2);
        let name = ["--vip", "[fd00::1]:443", "--seed", "192.0.2.11:6443", "--seed", "api.example.com:6443"];
        assert_eq!(configured(&name).unwrap().seeds.len(), 2, "the name may stand for the other family");
    }

    #[test]
    fn contradiction_is_reported_in_one_line() {
        for (arguments, words) in [
            (&["--seed", "10.96.0.1:6443", "--vip", "10.96.0.1:443"][..], "is the virtual IP itself"),
            (&["--seed", "10.96.0.1:6443", "--service-cidr", "10.96.0.0/12"], "is the virtual IP itself"),
            (&["--seed", "127.0.0.1:6443"], "--allow-loopback-endpoints"),
            (&["--seed", "0.0.0.0:6443"], "unspecified"),
            (&["--seed", "192.0.2.11"], "expected ADDRESS:PORT or NAME:PORT"),
            (&["--seed", "192.0.2.11:0"], "expected ADDRESS:PORT or NAME:PORT"),
            (&["--vip", "10.96.0.1"], "expected ADDRESS:PORT"),
            (&["--vip", "10.96.0.1:0"], "expected ADDRESS:PORT"),
            (&["--vip", "127.0.0.1:443"], "loopback"),
            (&["--vip", "224.0.0.1:443"], "multicast"),
            (
                &["--vip", "[fd00::1]:443", "--seed", "192.0.2.11:6443"],
                "every --seed is of the other IP family",
            ),
            (
                &["--vip", "10.97.0.1:443", "--service-cidr", "10.96.0.0/16"],
                "outside of --service-cidr 10.96.0.0/16",
            ),
            (&["--service-cidr", "10.96.0.1/32"], "is a single address"),
            (&["--service-cidr", "10.96.0.0/0"], "every address"),
            (&["--service-cidr", "127.0.0.0/8"], "loopback"),
        ] {
            let said = configured(arguments).unwrap_err();
            assert!(said.contains(words), "{arguments:?}: {said}");
        }
    }
}
