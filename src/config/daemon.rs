//! Arguments of `apivip run`: credentials, health checks, proxy, admin interface, logging.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{BootstrapArgs, DEFAULT_RUN_DIR, TableArgs};
use crate::model::health::HealthOptions;

/// Arguments of `apivip run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Credentials and the first apiserver address; without it the in-cluster service account is used
    #[arg(long, env = "APIVIP_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The kubeconfig's context; its current-context unless given
    #[arg(long, env = "APIVIP_CONTEXT", value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,

    /// What the table holds.
    #[command(flatten)]
    pub table: TableArgs,

    /// What is known before the API answers.
    #[command(flatten)]
    pub bootstrap: BootstrapArgs,

    /// How apiservers are asked whether they live.
    #[command(flatten)]
    pub health: HealthArgs,

    /// When and where connections are forwarded.
    #[command(flatten)]
    pub forwarder: ProxyArgs,

    /// How the daemon is asked, and asks itself.
    #[command(flatten)]
    pub admin: AdminArgs,

    /// Who may change the table while the daemon runs
    #[arg(long, env = "APIVIP_TABLE_OWNER", value_enum, default_value_t = TableOwnerArg::Auto)]
    pub table_owner: TableOwnerArg,

    /// Probe and log, but leave the kernel's rules, routes and flows as they are
    #[arg(long, env = "APIVIP_DRY_RUN")]
    pub dry_run: bool,

    /// Folder of the lock and of the socket that `apivip status` asks
    #[arg(long, env = "APIVIP_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Remove the rules when the daemon stops; without it they stay and go on working
    #[arg(long, env = "APIVIP_CLEANUP_ON_EXIT")]
    pub cleanup_on_exit: bool,

    /// The form of log lines
    #[arg(long, env = "APIVIP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, trace, or a filter such as apivip::reconcile=debug
    #[arg(long, env = "APIVIP_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    pub log_level: String,
}

/// Values of `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line for each event
    Text,
    /// One JSON object for each event
    Json,
}

/// Where the daemon answers, and how often it tests itself.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Where health checks, metrics, status and the page are served over HTTP, or off
    #[arg(long, env = "APIVIP_ADMIN_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10299", value_parser = listen)]
    pub admin_listen: OrOff<SocketAddr>,

    /// Between two connections of the daemon's own to each virtual IP, or off
    #[arg(long, env = "APIVIP_SELFTEST_INTERVAL", value_name = "DURATION", default_value = "5m", value_parser = selftest_interval)]
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

fn selftest_interval(text: &str) -> Result<OrOff<Duration>, String> {
    or_off(text, |text| {
        let selftest_interval = duration(text)?;
        let allowed = Duration::from_secs(1)..=Duration::from_secs(600);
        if allowed.contains(&selftest_interval) {
            Ok(selftest_interval)
        } else {
            Err("expected 1s to 10m, or off".to_owned())
        }
    })
}

/// When and where the daemon forwards connections itself.
#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// How connections to the virtual IP are led to apiservers
    #[arg(long, env = "APIVIP_MODE", value_enum, default_value_t = ModeArg::Auto)]
    pub mode: ModeArg,

    /// A node-local endpoint, such as 127.0.0.1:7445, that leads to the apiservers in every mode. Repeatable
    #[arg(long, env = "APIVIP_LISTEN", value_name = "ADDRESS:PORT", value_delimiter = ',', value_parser = endpoint)]
    pub listen: Vec<SocketAddr>,

    /// The most connections that are forwarded at a time; what the limit of file descriptors allows unless given
    #[arg(long, env = "APIVIP_FORWARDER_MAX_CONNECTIONS", value_name = "COUNT", value_parser = connection_count)]
    pub forwarder_max_connections: Option<usize>,

    /// The most of them from one client address; half of all unless given
    #[arg(long, env = "APIVIP_FORWARDER_MAX_PER_CLIENT", value_name = "COUNT", value_parser = connection_count)]
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

fn connection_count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|connection_count| *connection_count > 0)
        .ok_or_else(|| "expected a number from 1".to_owned())
}

/// How apiservers are asked whether they live, and what follows.
#[derive(Clone, Debug, Args)]
pub struct HealthArgs {
    /// How often an apiserver that is down is probed, or one to which no connection can be kept, from 100ms to 60s
    #[arg(long, env = "APIVIP_PROBE_INTERVAL", value_name = "DURATION", value_parser = probe_interval, default_value = "1s")]
    pub probe_interval: Duration,

    /// How often each apiserver is pinged (OPTIONS *) while this node opens no connections to it, from 100ms to 75s; while it
    /// does, up to four times a second
    #[arg(long, env = "APIVIP_PING_INTERVAL", value_name = "DURATION", value_parser = ping_interval, default_value = "75s")]
    pub ping_interval: Duration,

    /// How often each apiserver is asked for /readyz where nothing speaks against it, from 1s to 1h
    #[arg(long, env = "APIVIP_READYZ_INTERVAL", value_name = "DURATION", value_parser = readyz_interval, default_value = "10m")]
    pub readyz_interval: Duration,

    /// Unanswered probes in a row before a silent apiserver gets no new connections; a refusal is enough at once
    #[arg(long, env = "APIVIP_PROBE_FALL", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=32), default_value_t = 2)]
    pub probe_fall: u32,

    /// Good probes in a row before an apiserver gets new connections again
    #[arg(long, env = "APIVIP_PROBE_RISE", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=32), default_value_t = 2)]
    pub probe_rise: u32,

    /// The name that an apiserver's certificate must carry; kubernetes.default.svc, or the kubeconfig's tls-server-name
    #[arg(long, env = "APIVIP_PROBE_SERVER_NAME", value_name = "NAME")]
    pub probe_server_name: Option<String>,

    /// How long an apiserver is probed on, at least, after it was removed from the Service's endpoints; until its last flow is gone
    #[arg(long, env = "APIVIP_REMOVAL_GRACE", value_name = "DURATION", value_parser = duration, default_value = "3m")]
    pub removal_grace: Duration,

    /// End the flows of an apiserver that has drained for so long; without it they stay until it ends them itself
    #[arg(long, env = "APIVIP_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,

    /// After how long of silence the connections to an apiserver may be ended, from 2s to 10m: only if another one on another
    /// node answers meanwhile, and clients' own connections show no sign of life either
    #[arg(long, env = "APIVIP_SILENCE_TIMEOUT", value_name = "DURATION", value_parser = silence_timeout, default_value = "5s")]
    pub silence_timeout: Duration,

    /// Each node waits a random part of this before it ends or asks connections, up to 1m
    #[arg(long, env = "APIVIP_RESET_JITTER", value_name = "DURATION", value_parser = jitter, default_value = "1s")]
    pub reset_jitter: Duration,

    /// The most flows of dead apiservers to end in one second
    #[arg(long, env = "APIVIP_RESET_RATE", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value_t = 5000)]
    pub reset_rate: u32,
}

impl HealthArgs {
    /// What the state machine needs to know.
    pub fn options(&self) -> HealthOptions {
        HealthOptions {
            fall: self.probe_fall,
            rise: self.probe_rise,
            removal_grace: self.removal_grace,
            drain_timeout: self.drain_timeout,
            silence_timeout: self.silence_timeout,
            reset_jitter: self.reset_jitter,
        }
    }
}

/// A whole number and a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a whole number and a unit, such as 500ms, 30s, 5m or 1h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(expected()),
    };
    // A year is longer than any of these is meant to be, and far from the end of the clock.
    let millis = millis.filter(|millis| *millis <= 366 * 24 * 3_600_000);
    millis.map(Duration::from_millis).ok_or_else(|| "longer than a year".to_owned())
}

fn probe_interval(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(100)..=Duration::from_secs(60), "100ms to 60s")
}

/// kube-apiserver ends a connection that had no request for 90 s (its IdleTimeout), and each interval may be a tenth longer.
fn ping_interval(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_millis(100)..=Duration::from_secs(75), "100ms to 75s")
}

fn readyz_interval(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(1)..=Duration::from_secs(3600), "1s to 1h")
}

fn silence_timeout(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(2)..=Duration::from_secs(600), "2s to 10m")
}

fn jitter(text: &str) -> Result<Duration, String> {
    within(text, Duration::ZERO..=Duration::from_secs(60), "0s to 1m")
}

fn within(text: &str, range: RangeInclusive<Duration>, words: &str) -> Result<Duration, String> {
    let probe_interval = duration(text)?;
    if !range.contains(&probe_interval) {
        return Err(format!("expected {words}"));
    }
    Ok(probe_interval)
}

/// Values of `--table-owner`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableOwnerArg {
    /// The daemon, where the kernel has owners that a table outlives (6.9)
    Auto,
    /// Nobody
    Off,
}

#[cfg(test)]
mod tests {
    mod admin {
        use super::super::*;

        #[test]
        fn off_is_accepted_and_bad_addresses_are_rejected() {
            assert_eq!(listen("off"), Ok(OrOff(None)));
            assert_eq!(listen("[::1]:10299"), Ok(OrOff(Some("[::1]:10299".parse().unwrap()))));
            for bad in ["", "OFF", "10299", ":10299", "localhost:10299", "127.0.0.1:0", "127.0.0.1:99999"] {
                assert!(listen(bad).is_err(), "{bad:?}");
            }
            assert_eq!(selftest_interval("off"), Ok(OrOff(None)));
            assert_eq!(selftest_interval("5s"), Ok(OrOff(Some(Duration::from_secs(5)))));
            assert!(
                selftest_interval("999ms").is_err()
                    && selftest_interval("11m").is_err()
                    && selftest_interval("5").is_err()
            );
        }
    }

    mod forwarder {
        use super::super::*;

        #[test]
        fn listen_address_needs_a_port() {
            assert_eq!(endpoint("127.0.0.1:7445"), Ok(([127, 0, 0, 1], 7445).into()));
            assert_eq!(endpoint("[::1]:7445").map(|a| a.is_ipv6()), Ok(true));
            for bad in ["127.0.0.1", "localhost:7445", ":7445", "::1:7445x", "127.0.0.1:0", ""] {
                assert!(endpoint(bad).is_err(), "{bad:?}");
            }
        }

        #[test]
        fn connection_limit_must_be_at_least_one() {
            assert_eq!(connection_count("1"), Ok(1));
            assert!(
                connection_count("0").is_err()
                    && connection_count("-1").is_err()
                    && connection_count("many").is_err()
            );
        }
    }

    mod health {
        use super::super::*;

        #[test]
        fn durations_are_numbers_with_units() {
            for (text, millis) in
                [("0s", 0), ("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)]
            {
                assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            }
            for bad in ["", "5", "s", "-1s", "1.5s", "1 s", "1d", "9999999999h", "99999999999999999999s"] {
                assert!(duration(bad).is_err(), "{bad:?}");
            }
        }

        #[test]
        fn interval_out_of_range_is_rejected() {
            assert!(probe_interval("99ms").is_err() && probe_interval("61s").is_err());
            assert_eq!(probe_interval("100ms"), Ok(Duration::from_millis(100)));
            assert!(ping_interval("99ms").is_err() && ping_interval("76s").is_err());
            assert_eq!(ping_interval("75s"), Ok(Duration::from_secs(75)));
            assert!(readyz_interval("999ms").is_err() && readyz_interval("3601s").is_err());
            assert!(silence_timeout("1s").is_err() && silence_timeout("11m").is_err());
            assert_eq!(silence_timeout("5s"), Ok(Duration::from_secs(5)));
            assert!(jitter("61s").is_err() && jitter("0s").is_ok());
            assert_eq!(readyz_interval("1h"), Ok(Duration::from_secs(3600)));
        }
    }
}
