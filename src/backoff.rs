//! How long to wait after a failed attempt. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};

/// The wait after a failed attempt. Jitter is always on: the wait is drawn from the upper half of the computed time,
/// so jobs that failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// The same wait after every attempt.
    Fixed(Duration),
    /// `base` after the first attempt, doubled after each further one, at most `max`.
    Exponential {
        /// The wait after the first attempt.
        base: Duration,
        /// The longest wait.
        max: Duration,
    },
}

impl Default for Backoff {
    /// `exponential(1s, 5m)`
    fn default() -> Self {
        Self::Exponential {
            base: Duration::from_secs(1),
            max: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    /// The wait after attempt `attempt` (from 1), before jitter.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        match *self {
            Self::Fixed(wait) => wait,
            Self::Exponential { base, max } => {
                let factor = 1u32
                    .checked_shl(attempt.saturating_sub(1))
                    .unwrap_or(u32::MAX);
                base.saturating_mul(factor).min(max)
            }
        }
    }

    /// The wait after attempt `attempt`, with jitter. `luck` is uniform in `0.0..=1.0`.
    pub(crate) fn delay(&self, attempt: u32, luck: f64) -> Duration {
        self.ceiling(attempt).mul_f64(0.5 + 0.5 * luck)
    }
}

impl fmt::Display for Backoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration;
        match *self {
            Self::Fixed(wait) => write!(f, "fixed({})", text(wait)),
            Self::Exponential { base, max } => {
                write!(f, "exponential({}, {})", text(base), text(max))
            }
        }
    }
}

impl FromStr for Backoff {
    type Err = Error;

    /// Reads `fixed(5s)` or `exponential(1s, 5m)`.
    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            Error::setting(
                "backoff",
                text,
                "write fixed(5s) or exponential(1s, 5m), each wait 1ms to 1day",
            )
        };
        let (kind, rest) = text.split_once('(').ok_or_else(refuse)?;
        let inner = rest.trim_end().strip_suffix(')').ok_or_else(refuse)?;
        let waits: Vec<Duration> = inner
            .split(',')
            .map(|wait| humantime::parse_duration(wait.trim()).map_err(|_| refuse()))
            .collect::<Result<_>>()?;
        let day = Duration::from_secs(24 * 3600);
        if waits
            .iter()
            .any(|wait| *wait < Duration::from_millis(1) || *wait > day)
        {
            return Err(refuse());
        }
        match (kind.trim(), waits.as_slice()) {
            ("fixed", &[wait]) => Ok(Self::Fixed(wait)),
            ("exponential", &[base, max]) if base <= max => Ok(Self::Exponential { base, max }),
            _ => Err(refuse()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn exponential_doubles_up_to_its_maximum_and_never_overflows() {
        let backoff = Backoff::Exponential {
            base: S,
            max: 300 * S,
        };
        let waits: Vec<u64> = [1, 2, 3, 9, 10, 33, u32::MAX]
            .map(|n| backoff.ceiling(n).as_secs())
            .into();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300, 300]);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        let backoff = Backoff::Fixed(10 * S);
        assert_eq!(
            (backoff.delay(1, 0.0), backoff.delay(1, 1.0)),
            (5 * S, 10 * S)
        );
    }

    #[test]
    fn ten_thousand_jobs_that_fail_together_come_back_all_over_the_window() {
        // The upper half of ten seconds.
        let (backoff, window) = (Backoff::Fixed(10 * S), 5 * S);
        // Which twentieth of the window each wait falls into.
        let mut lumps = [0u32; 20];
        for _ in 0..10_000 {
            let within = backoff.delay(1, crate::redis::luck()) - window;
            lumps[(within.as_secs_f64() / window.as_secs_f64() * 20.0) as usize] += 1;
        }
        // 500 each, give or take six standard deviations.
        let even = lumps.iter().all(|lump| (368..=632).contains(lump));
        assert!(even, "{lumps:?}");
    }

    #[test]
    fn text_is_read_back_as_written() {
        for backoff in [
            Backoff::default(),
            Backoff::Fixed(Duration::from_millis(250)),
        ] {
            assert_eq!(backoff.to_string().parse::<Backoff>().unwrap(), backoff);
        }
        for bad in [
            "",
            "fixed",
            "fixed(5)",
            "fixed(0s)",
            "exponential(5m, 1s)",
            "exponential(1s)",
            "linear(1s)",
            "fixed(5s",
        ] {
            assert!(bad.parse::<Backoff>().is_err(), "{bad:?} was accepted");
        }
    }
}
