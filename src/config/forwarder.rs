//! Arguments of the forwarder: when it stands in for rules, and what it serves besides.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::health::duration;

/// When and where the daemon forwards connections itself.
#[derive(Clone, Debug, Args)]
pub struct ForwarderArgs {
    /// How connections to the virtual IP are led to apiservers
    #[arg(long, env = "APIVIP_MODE", value_enum, default_value_t = ModeArg::Auto)]
    pub mode: ModeArg,

    /// A node-local endpoint, such as 127.0.0.1:7445, that leads to the apiservers in every mode. Repeatable
    #[arg(long, env = "APIVIP_LISTEN", value_name = "ADDRESS:PORT", value_delimiter = ',', value_parser = endpoint)]
    pub listen: Vec<SocketAddr>,

    /// The most connections that are forwarded at a time; what the limit of file descriptors allows unless given
    #[arg(long, env = "APIVIP_FORWARDER_MAX_CONNECTIONS", value_name = "COUNT", value_parser = count)]
    pub forwarder_max_connections: Option<usize>,

    /// The most of them from one client address; half of all unless given
    #[arg(long, env = "APIVIP_FORWARDER_MAX_PER_CLIENT", value_name = "COUNT", value_parser = count)]
    pub forwarder_max_per_client: Option<usize>,

    /// How long forwarded connections may go on after SIGTERM
    #[arg(long, env = "APIVIP_DRAIN_GRACE", value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub drain_grace: Duration,
}

/// Values of `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// By nftables, and by the forwarder while nftables cannot be used
    Auto,
    /// By nftables only
    Nftables,
    /// By the forwarder only
    Forwarder,
}

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    let expected = || "expected ADDRESS:PORT, such as 127.0.0.1:7445 or [::1]:7445".to_owned();
    let address: SocketAddr = text.parse().map_err(|_| expected())?;
    if address.port() == 0 { Err(expected()) } else { Ok(address) }
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "expected a number from 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_with_a_port() {
        assert_eq!(endpoint("127.0.0.1:7445"), Ok(([127, 0, 0, 1], 7445).into()));
        assert_eq!(endpoint("[::1]:7445").map(|a| a.is_ipv6()), Ok(true));
        for bad in ["127.0.0.1", "localhost:7445", ":7445", "::1:7445x", "127.0.0.1:0", ""] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_limit_is_a_number_from_one() {
        assert_eq!(count("1"), Ok(1));
        assert!(count("0").is_err() && count("-1").is_err() && count("many").is_err());
    }
}
