//! Arguments of the probes and of what follows from them.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use crate::model::health::HealthOptions;

/// How apiservers are asked whether they live, and what follows.
#[derive(Clone, Debug, Args)]
pub struct HealthArgs {
    /// How often an apiserver that is down is probed, or one to which no connection can be kept, from 100ms to 60s
    #[arg(long, env = "APIVIP_PROBE_INTERVAL", value_name = "DURATION", value_parser = interval, default_value = "1s")]
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
    #[arg(long, env = "APIVIP_FLOW_KILL_SPREAD", value_name = "DURATION", value_parser = spread, default_value = "1s")]
    pub flow_kill_spread: Duration,

    /// The most flows of dead apiservers to end in one second
    #[arg(long, env = "APIVIP_FLOW_KILL_RATE", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000), default_value_t = 5000)]
    pub flow_kill_rate: u32,
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
            kill_spread: self.flow_kill_spread,
        }
    }
}

/// A whole number and a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
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

fn interval(text: &str) -> Result<Duration, String> {
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

fn spread(text: &str) -> Result<Duration, String> {
    within(text, Duration::ZERO..=Duration::from_secs(60), "0s to 1m")
}

fn within(text: &str, range: RangeInclusive<Duration>, words: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if !range.contains(&interval) {
        return Err(format!("expected {words}"));
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, millis) in [("0s", 0), ("250ms", 250), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1.5s", "1 s", "1d", "9999999999h", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_interval_is_neither_a_flood_nor_a_nap() {
        assert!(interval("99ms").is_err() && interval("61s").is_err());
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        assert!(ping_interval("99ms").is_err() && ping_interval("76s").is_err());
        assert_eq!(ping_interval("75s"), Ok(Duration::from_secs(75)));
        assert!(readyz_interval("999ms").is_err() && readyz_interval("3601s").is_err());
        assert!(silence_timeout("1s").is_err() && silence_timeout("11m").is_err());
        assert_eq!(silence_timeout("5s"), Ok(Duration::from_secs(5)));
        assert!(spread("61s").is_err() && spread("0s").is_ok());
        assert_eq!(readyz_interval("1h"), Ok(Duration::from_secs(3600)));
    }
}
