//! How many webhooks of a source are taken in a time: a token bucket in one number.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// So many webhooks in so much time, per gateway process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many, at least 1.
    pub count: u32,
    /// In how much time: 1 ms to a day.
    pub per: Duration,
    /// How many may come at once after a quiet time, at least 1. Default: what comes in a second, at least 1.
    pub burst: Option<u32>,
}

impl RateLimit {
    /// `count` in the time `per`, with the default burst.
    pub fn new(count: u32, per: Duration) -> Self {
        Self {
            count,
            per,
            burst: None,
        }
    }
}

/// The bucket. Instead of tokens it keeps the time at which it will be full again (the generic cell rate algorithm), so that one
/// atomic number is all there is.
#[derive(Debug)]
pub(crate) struct Bucket {
    began: Instant,
    /// Time that one takes, ns.
    each: u64,
    /// Time that a burst takes, ns.
    depth: u64,
    /// When it is full again, ns since it began.
    full: AtomicU64,
}

impl Bucket {
    /// Checks the limit; `setting` is where it stands.
    pub(crate) fn new(setting: &str, limit: RateLimit) -> Result<Self> {
        let day = Duration::from_secs(24 * 3600);
        let burst = limit.burst.unwrap_or_else(|| {
            let in_a_second = f64::from(limit.count) / limit.per.as_secs_f64();
            in_a_second.clamp(1.0, f64::from(u32::MAX)) as u32
        });
        if limit.count == 0 || !(Duration::from_millis(1)..=day).contains(&limit.per) {
            let text = format!(
                "{} in {}",
                limit.count,
                humantime::format_duration(limit.per)
            );
            let range = "at least one, in 1ms to 1day: 100/s, 600/m, 1000/h";
            return Err(Error::setting(format!("{setting}.rate"), text, range));
        }
        if burst == 0 {
            return Err(Error::setting(
                format!("{setting}.burst"),
                burst,
                "at least 1",
            ));
        }
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let each = (nanos(limit.per) / u64::from(limit.count)).max(1);
        Ok(Self {
            began: Instant::now(),
            each,
            depth: each.saturating_mul(u64::from(burst)),
            full: AtomicU64::new(0),
        })
    }

    /// Takes one; else says how long to wait for it.
    pub(crate) fn take(&self) -> Result<(), Duration> {
        let now = self.began.elapsed();
        self.take_at(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
    }

    fn take_at(&self, now: u64) -> Result<(), Duration> {
        let mut full = self.full.load(Ordering::Relaxed);
        loop {
            let next = full.max(now) + self.each;
            if next - now > self.depth {
                return Err(Duration::from_nanos(next - now - self.depth));
            }
            let swapped =
                self.full
                    .compare_exchange_weak(full, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return Ok(()),
                Err(other) => full = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn taken(bucket: &Bucket, at: u64) -> usize {
        std::iter::repeat_with(|| bucket.take_at(at))
            .take_while(Result::is_ok)
            .count()
    }

    #[test]
    fn a_burst_is_taken_at_once_and_then_one_for_each_share_of_the_time() {
        let bucket = Bucket::new("s", RateLimit::new(10, Duration::from_secs(1))).unwrap();
        assert_eq!(taken(&bucket, 0), 10);
        assert_eq!(bucket.take_at(0), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take_at(SECOND / 20), Err(Duration::from_millis(50)));
        assert_eq!(taken(&bucket, SECOND / 10), 1);
        assert_eq!(taken(&bucket, SECOND), 9);
        // A quiet time saves up one burst, no more.
        assert_eq!(taken(&bucket, 60 * SECOND), 10);

        let single = RateLimit {
            burst: Some(1),
            ..RateLimit::new(600, Duration::from_secs(60))
        };
        let bucket = Bucket::new("s", single).unwrap();
        assert_eq!(taken(&bucket, 0), 1);
        assert_eq!(taken(&bucket, SECOND), 1);
        let slow = Bucket::new("s", RateLimit::new(1, Duration::from_secs(3600))).unwrap();
        assert_eq!(taken(&slow, 0), 1);
        assert_eq!(slow.take_at(0), Err(Duration::from_secs(3600)));
    }

    #[test]
    fn limits_that_let_nothing_through_are_refused_by_name() {
        let second = Duration::from_secs(1);
        for (name, limit) in [
            ("s.rate", RateLimit::new(0, second)),
            ("s.rate", RateLimit::new(1, Duration::ZERO)),
            ("s.rate", RateLimit::new(1, Duration::MAX)),
            (
                "s.burst",
                RateLimit {
                    burst: Some(0),
                    ..RateLimit::new(1, second)
                },
            ),
        ] {
            match Bucket::new("s", limit) {
                Err(Error::Setting { name: refused, .. }) => assert_eq!(refused, name),
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
