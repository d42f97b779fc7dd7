//! When attempts begin: on schedule, whatever became of the earlier ones.
//!
//! In: rate and duration. Out: one task per attempt, none lost.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::Observer;
use super::attempt::Attempt;
use super::config::Config;
use super::recorder::Recorder;

/// The timer's own resolution; at 4,000/s four attempts begin per tick.
const TICK: Duration = Duration::from_millis(1);

/// Begins attempts until the duration is over or `stop` resolves, then waits for those under way.
pub(super) async fn run(
    config: &Config,
    attempt: &Arc<Attempt>,
    recorder: &Recorder,
    stop: impl Future<Output = ()>,
    observer: &mut impl Observer,
) -> Result<()> {
    let mut stop = pin!(stop);
    let began = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut tasks = JoinSet::new();
    let mut launched = 0;
    let mut telling = Telling { started: false, told: began };
    loop {
        let elapsed = began.elapsed();
        let over = config.duration.is_some_and(|duration| elapsed >= duration);
        let until = config.duration.map_or(elapsed, |duration| elapsed.min(duration));
        while launched < due(config.rate, until) {
            recorder.begin(elapsed.saturating_sub(time_of(config.rate, launched)));
            tasks.spawn(attempt.clone().perform(launched));
            launched += 1;
        }
        reap(&mut tasks)?;
        telling.tell(config, recorder, observer);
        if over {
            break;
        }
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => break,
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.context("an attempt's task died")?;
    }
    telling.tell(config, recorder, observer);
    Ok(())
}

/// What the observer has heard.
struct Telling {
    started: bool,
    told: Instant,
}

impl Telling {
    fn tell(&mut self, config: &Config, recorder: &Recorder, observer: &mut impl Observer) {
        if !self.started && recorder.any_ok() {
            self.started = true;
            observer.started();
        }
        if config.report_every.is_some_and(|every| self.told.elapsed() >= every) {
            self.told = Instant::now();
            observer.progress(&recorder.report());
        }
    }
}

/// A panic would lose an attempt from the counts, so it ends the run.
fn reap(tasks: &mut JoinSet<()>) -> Result<()> {
    while let Some(task) = tasks.try_join_next() {
        task.context("an attempt's task died")?;
    }
    Ok(())
}

/// How many attempts have to have begun by then; the first begins at once.
fn due(rate: f64, elapsed: Duration) -> u64 {
    if rate > 0.0 { (elapsed.as_secs_f64() * rate).ceil() as u64 } else { 0 }
}

fn time_of(rate: f64, number: u64) -> Duration {
    Duration::from_secs_f64(number as f64 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_begin_on_schedule() {
        assert_eq!(due(1000.0, Duration::from_millis(500)), 500);
        assert_eq!(due(1000.0, Duration::from_micros(1)), 1);
        assert_eq!(due(0.0, Duration::from_secs(9)), 0);
        assert_eq!(time_of(1000.0, 500), Duration::from_millis(500));
    }
}
