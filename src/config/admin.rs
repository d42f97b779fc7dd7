//! Arguments about how the daemon is asked, and how it asks itself.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::health::duration;

/// Where the daemon answers, and how often it tests itself.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Where health checks, metrics, status and the page are served over HTTP, or off
    #[arg(long, env = "APIVIP_ADMIN_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10299", value_parser = listen)]
    pub admin_listen: OrOff<SocketAddr>,

    /// Between two connections of the daemon's own to each virtual IP, or off
    #[arg(long, env = "APIVIP_SELFTEST_INTERVAL", value_name = "DURATION", default_value = "5m", value_parser = interval)]
    pub selftest_interval: OrOff<Duration>,
}

/// A value, or nothing at all, which is written `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrOff<T>(pub Option<T>);

fn or_off<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<OrOff<T>, String> {
    if text == "off" { Ok(OrOff(None)) } else { parse(text).map(|value| OrOff(Some(value))) }
}

fn listen(text: &str) -> Result<OrOff<SocketAddr>, String> {
    or_off(text, |text| {
        let address = SocketAddr::from_str(text).ok().filter(|address| address.port() != 0);
        address
            .ok_or_else(|| "expected ADDRESS:PORT, such as 127.0.0.1:10299 or [::1]:10299, or off".to_owned())
    })
}

fn interval(text: &str) -> Result<OrOff<Duration>, String> {
    or_off(text, |text| {
        let interval = duration(text)?;
        let allowed = Duration::from_secs(1)..=Duration::from_secs(600);
        if allowed.contains(&interval) { Ok(interval) } else { Err("expected 1s to 10m, or off".to_owned()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_a_value_of_its_own() {
        assert_eq!(listen("off"), Ok(OrOff(None)));
        assert_eq!(listen("[::1]:10299"), Ok(OrOff(Some("[::1]:10299".parse().unwrap()))));
        for bad in ["", "OFF", "10299", ":10299", "localhost:10299", "127.0.0.1:0", "127.0.0.1:99999"] {
            assert!(listen(bad).is_err(), "{bad:?}");
        }
        assert_eq!(interval("off"), Ok(OrOff(None)));
        assert_eq!(interval("5s"), Ok(OrOff(Some(Duration::from_secs(5)))));
        assert!(interval("999ms").is_err() && interval("11m").is_err() && interval("5").is_err());
    }
}
