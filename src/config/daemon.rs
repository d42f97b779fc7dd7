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
    /// Kubeconfig with the credentials and the first API server address; defaults to the in-cluster service account
    #[arg(long, env = "APIVIP_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig; defaults to its current-context
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

    /// Which process owns the nftables table while the daemon runs, so that no other one can change it
    #[arg(long, env = "APIVIP_TABLE_OWNER", value_enum, default_value_t = TableOwnerArg::Auto)]
    pub table_owner: TableOwnerArg,

    /// Probe and log only; do not change rules, routes or connections in the kernel
    #[arg(long, env = "APIVIP_DRY_RUN")]
    pub dry_run: bool,

    /// Directory for the lock and for the socket that `apivip status` queries
    #[arg(long, env = "APIVIP_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Remove the rules when the daemon stops; by default they stay in place and keep working
    #[arg(long, env = "APIVIP_CLEANUP_ON_EXIT")]
    pub cleanup_on_exit: bool,

    /// Format of log lines
    #[arg(long, env = "APIVIP_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Log level: error, warn, info, debug, trace, or a filter such as apivip::reconcile=debug
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
    /// Address for health checks, metrics, status and the page over HTTP, or off
    #[arg(long, env = "APIVIP_ADMIN_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10299", value_parser = listen)]
    pub admin_listen: OrOff<SocketAddr>,

    /// Interval between self-tests of each virtual IP, which are connections of the daemon to it, or off
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
    /// Data path for connections to the virtual IP
    #[arg(long, env = "APIVIP_MODE", value_enum, default_value_t = ModeArg::Auto)]
    pub mode: ModeArg,

    /// Additional node-local endpoint, such as 127.0.0.1:7445, that the forwarder serves in every mode. Repeatable
    #[arg(long, env = "APIVIP_LISTEN", value_name = "ADDRESS:PORT", value_delimiter = ',', value_parser = endpoint)]
    pub listen: Vec<SocketAddr>,

    /// Maximum number of forwarded connections; defaults to what the limit of file descriptors allows
    #[arg(long, env = "APIVIP_FORWARDER_MAX_CONNECTIONS", value_name = "COUNT", value_parser = connection_count)]
    pub forwarder_max_connections: Option<usize>,

    /// Maximum number of forwarded connections from one client address; defaults to half of the total
    #[arg(long, env = "APIVIP_FORWARDER_MAX_PER_CLIENT", value_name = "COUNT", value_parser = connection_count)]
    pub forwarder_max_per_client: Option<usize>,

    /// How long forwarded connections can continue after SIGTERM
    #[arg(long, env = "APIVIP_DRAIN_GRACE", value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub drain_grace: Duration,
}

/// Values of `--mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// nftables, with the forwarder as the fallback while nftables cannot be used
    Auto,
    /// nftables only
    Nftables,
    /// Forwarder only
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
        .ok_or_else(|| "expected a number of at least 1".to_owned())
}

/// How apiservers are asked whether they live, and what follows.
#[derive(Clone, Debug, Args)]
pub struct HealthArgs {
    /// Interval of probes of an API server that is down, or to which no connection can be kept, from 100ms to 60s
    #[arg(long, env = "APIVIP_PROBE_INTERVAL", value_name = "DURATION", value_parser = probe_interval, default_value = "1s")]
    pub probe_interval: Duration,

    /// Interval of pings (OPTIONS *) to each API server while this node opens no connections to it, from 100ms to 75s; while
    /// it does, up to four times a second
    #[arg(long, env = "APIVIP_PING_INTERVAL", value_name = "DURATION", value_parser = ping_interval, default_value = "75s")]
    pub ping_interval: Duration,

    /// Interval of /readyz requests to each API server that shows no sign of a failure, from 1s to 1h
    #[arg(long, env = "APIVIP_READYZ_INTERVAL", value_name = "DURATION", value_parser = readyz_interval, default_value = "10m")]
    pub readyz_interval: Duration,

    /// Unanswered probes in a row after which an API server gets no new connections; one refused connection is enough
    #[arg(long, env = "APIVIP_PROBE_FALL", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=32), default_value_t = 2)]
    pub probe_fall: u32,

    /// Successful probes in a row after which an API server gets new connections again
    #[arg(long, env = "APIVIP_PROBE_RISE", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=32), default_value_t = 2)]
    pub probe_rise: u32,

    /// Name that certificates of API servers must contain; defaults to tls-server-name of the kubeconfig, or to
    /// kubernetes.default.svc
    #[arg(long, env = "APIVIP_PROBE_SERVER_NAME", value_name = "NAME")]
    pub probe_server_name: Option<String>,

    /// Minimum time to probe an API server after its removal from the endpoints of the Service; probes continue until its last
    /// connection has ended
    #[arg(long, env = "APIVIP_REMOVAL_GRACE", value_name = "DURATION", value_parser = duration, default_value = "3m")]
    pub removal_grace: Duration,

    /// Reset the connections of an API server that has drained for this time; by default they stay until it ends them itself
    #[arg(long, env = "APIVIP_DRAIN_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    pub drain_timeout: Option<Duration>,

    /// Time without any answer after which the connections to an API server can be reset, from 2s to 10m; this requires that
    /// one on another node answers meanwhile and that clients' connections receive nothing from it either
    #[arg(long, env = "APIVIP_SILENCE_TIMEOUT", value_name = "DURATION", value_parser = silence_timeout, default_value = "5s")]
    pub silence_timeout: Duration,

    /// Maximum random delay of each node before it resets or challenges connections, up to 1m
    #[arg(long, env = "APIVIP_RESET_JITTER", value_name = "DURATION", value_parser = jitter, default_value = "1s")]
    pub reset_jitter: Duration,

    /// Maximum number of connections to failed API servers to reset in one second
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
    millis.map(Duration::from_millis).ok_or_else(|| "expected at most a year".to_owned())
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
    /// The daemon, where the kernel supports owners that a table outlives (6.9)
    Auto,
    /// No process
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
