//! What limits a queue over all its workers.

use serde::Serialize;

use crate::config;
use crate::error::{Error, Result};
use crate::rate::Rate;

/// What is to be changed about the limits of a queue; what is not said stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    concurrency: Option<Option<usize>>,
    rate: Option<Option<Rate>>,
    burst: Option<Option<u32>>,
}

impl QueueLimits {
    /// Changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many jobs run at once, over all workers, 1 to 100,000; `None`: as many as the workers have room for.
    #[must_use]
    pub fn concurrency(mut self, jobs: Option<usize>) -> Self {
        self.concurrency = Some(jobs);
        self
    }

    /// So many jobs start in so much time, over all workers; `None`: as fast as they can.
    #[must_use]
    pub fn rate(mut self, rate: Option<Rate>) -> Self {
        self.rate = Some(rate);
        self
    }

    /// So many at once after a quiet time, 1 to 100,000; `None`: what comes in a second, at least 1.
    #[must_use]
    pub fn burst(mut self, jobs: Option<u32>) -> Self {
        self.burst = Some(jobs);
        self
    }

    pub(crate) fn settings(&self) -> Result<Vec<(&'static str, String)>> {
        if let Some(Some(jobs)) = self.concurrency
            && !(1..=config::CONCURRENCY_MAX).contains(&jobs)
        {
            let reason = format!("1 to {}", config::CONCURRENCY_MAX);
            return Err(Error::setting("concurrency", jobs, reason));
        }
        if let Some(Some(rate)) = self.rate {
            rate.check("rate")?;
        }
        if let Some(Some(jobs)) = self.burst
            && !(1..=config::BURST_MAX).contains(&jobs)
        {
            let reason = format!("1 to {}", config::BURST_MAX);
            return Err(Error::setting("burst", jobs, reason));
        }
        fn text<T: ToString>(setting: Option<Option<T>>) -> Option<String> {
            setting.map(|value| value.map_or_else(String::new, |value| value.to_string()))
        }
        let settings = [
            ("concurrency", text(self.concurrency)),
            ("rate", text(self.rate)),
            ("burst", text(self.burst)),
        ];
        let given = settings.into_iter();
        Ok(given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect())
    }
}

/// What limits a queue as a whole; `None`: nothing does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueLimitsView {
    /// Unfinished jobs.
    pub max_depth: Option<u64>,
    /// Jobs that run at once, over all workers.
    pub concurrency: Option<u64>,
    /// Jobs that start in a time.
    pub rate: Option<Rate>,
    /// How many at once after a quiet time.
    pub burst: Option<u32>,
}
