//! Long work in steps: no faster than was asked, with progress, and stopped between two steps.

use std::time::Duration;

use indicatif::ProgressBar;
use millstream::config::OPERATOR_BATCH;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::parse::Rate;
use super::{output, signals};

/// Some long work under way.
pub(crate) struct Pace {
    rate: Option<Rate>,
    began: Instant,
    /// Participle of what is done, for people: `redriven`.
    done_word: &'static str,
    done: u64,
    bar: ProgressBar,
    stop: CancellationToken,
}

impl Pace {
    /// Begins work on `total` jobs, `None` for nobody knows how many. From now on Ctrl-C ends it after the step that it is at.
    pub(crate) fn begin(
        rate: Option<Rate>,
        total: impl Into<Option<u64>>,
        doing: &'static str,
        done_word: &'static str,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            rate,
            began: Instant::now(),
            done_word,
            done: 0,
            bar: match total.into() {
                Some(total) => output::progress(total, doing),
                None => output::spinner(doing),
            },
            stop: signals::shutdown(false)?,
        })
    }

    /// Jobs in one step. With a rate, steps of a tenth of a second: steady enough for whoever gets the jobs, few enough
    /// calls for Redis.
    pub(crate) fn step(&self) -> usize {
        let Some(rate) = self.rate else {
            return OPERATOR_BATCH;
        };
        let tenth = rate.per_second() / 10.0;
        (tenth as usize).clamp(1, OPERATOR_BATCH)
    }

    /// Waits until there has been time for what was done.
    ///
    /// # Errors
    /// When somebody has asked to stop: what was done stays done.
    pub(crate) async fn wait(&self) -> anyhow::Result<()> {
        let done = usize::try_from(self.done).unwrap_or(usize::MAX);
        let due = self.rate.map(|rate| self.began + rate.time_for(done));
        let rest = async {
            if let Some(due) = due {
                tokio::time::sleep_until(due).await;
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = rest => return Ok(()),
        }
        self.bar.finish_and_clear();
        anyhow::bail!(
            "stopped: {}; the same command again does the rest",
            self.so_far()
        )
    }

    /// Notes that a step has dealt with `looked` jobs and did it to `done` of them.
    pub(crate) fn step_done(&mut self, looked: u64, done: u64) {
        self.done += done;
        self.bar.inc(looked);
    }

    /// How many it was done to.
    pub(crate) fn finish(self) -> u64 {
        self.bar.finish_and_clear();
        self.done
    }

    /// `1,200 jobs redriven so far`, for the error that breaks the work off.
    pub(crate) fn so_far(&self) -> String {
        format!(
            "{} {} so far",
            output::counted(self.done, "job"),
            self.done_word
        )
    }
}

/// How long `jobs` take at `rate`, for people; empty without a rate.
pub(crate) fn at_least(rate: Option<Rate>, jobs: u64) -> String {
    let Some(rate) = rate else {
        return String::new();
    };
    let jobs = usize::try_from(jobs).unwrap_or(usize::MAX);
    let time = Duration::from_secs(rate.time_for(jobs).as_secs());
    format!(", in {} or more", humantime::format_duration(time))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn pace(rate: &str) -> Pace {
        let rate = parse::rate(rate).ok();
        Pace::begin(rate, 30, "redriving", "redriven").unwrap()
    }

    #[tokio::test]
    async fn a_rate_is_not_exceeded() {
        let mut pace = pace("100/s");
        let start = Instant::now();
        for _ in 0..3 {
            pace.wait().await.unwrap();
            pace.step_done(10, 10);
        }
        // At once, after 100 ms, after 200 ms.
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(200), "{took:?}");
        assert_eq!(pace.finish(), 30);
    }

    #[tokio::test]
    async fn a_slow_rate_goes_one_by_one_and_a_fast_one_in_full_steps() {
        assert_eq!(pace("1/m").step(), 1);
        assert_eq!(pace("50/s").step(), 5);
        assert_eq!(pace("1000000/s").step(), OPERATOR_BATCH);
        assert_eq!(pace("none").step(), OPERATOR_BATCH);
    }

    #[tokio::test]
    async fn who_asks_to_stop_is_told_what_was_done() {
        let mut pace = pace("1/h");
        pace.wait().await.unwrap();
        pace.step_done(1, 1);
        pace.stop.cancel();
        let said = pace.wait().await.unwrap_err().to_string();
        assert!(said.contains("1 job redriven so far"), "{said}");
    }
}
