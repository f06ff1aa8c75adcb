//! Durations, sizes and rates as people write them, in flags and in the config file alike.
//! Each error says what to write instead; whoever reports it names the value.

use std::time::Duration;

use bytesize::ByteSize;
use millstream::gateway::field::Field;
use millstream::schedule::{Missed, Overlap};
use millstream::{Backoff, Durability, GroupOrder, OnConflict, Priority, QueueName, config};

/// Reads `250ms`, `5s`, `2m`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a number with a unit, like 250ms, 5s, 2m, 1h30m or 30d".into())
}

/// Reads `64KiB`, `1MiB`, `500kB`, or a plain number of bytes.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let refuse = || "write a number of bytes with a unit, like 64KiB or 1MiB".to_owned();
    let size: ByteSize = text.parse().map_err(|_| refuse())?;
    usize::try_from(size.as_u64()).map_err(|_| refuse())
}

/// A lease, within the engine's bounds.
pub(crate) fn lease(text: &str) -> Result<Duration, String> {
    between(text, config::LEASE_MIN, config::LEASE_MAX)
}

/// An attempt's time limit, within the engine's bounds.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    between(text, Duration::from_millis(1), config::TIMEOUT_MAX)
}

/// How long to keep something, or to remember it.
pub(crate) fn retention(text: &str) -> Result<Duration, String> {
    between(text, Duration::ZERO, config::HORIZON_MAX)
}

/// For how long something holds, from now.
pub(crate) fn window(text: &str) -> Result<Duration, String> {
    between(text, Duration::from_millis(1), config::HORIZON_MAX)
}

/// How safely a job is stored.
pub(crate) fn durability(text: &str) -> Result<Durability, String> {
    text.parse().map_err(reason_of)
}

/// What is done when another job holds the unique key.
pub(crate) fn on_conflict(text: &str) -> Result<OnConflict, String> {
    text.parse().map_err(reason_of)
}

/// Which of the waiting jobs runs first.
pub(crate) fn priority(text: &str) -> Result<Priority, String> {
    text.parse().map_err(reason_of)
}

/// Where in a request something stands.
pub(crate) fn field(text: &str) -> Result<Field, String> {
    text.parse().map_err(reason_of)
}

/// What becomes of a schedule's missed slots.
pub(crate) fn missed(text: &str) -> Result<Missed, String> {
    text.parse().map_err(reason_of)
}

/// What becomes of a schedule's slot while its last job is unfinished.
pub(crate) fn overlap(text: &str) -> Result<Overlap, String> {
    text.parse().map_err(reason_of)
}

/// How long a stopping process waits.
pub(crate) fn shutdown_timeout(text: &str) -> Result<Duration, String> {
    between(text, Duration::ZERO, Duration::from_secs(3600))
}

/// How often something is shown anew.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    between(text, Duration::from_millis(100), Duration::from_secs(3600))
}

fn between(text: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let given = duration(text)?;
    if given < min || given > max {
        let shown = humantime::format_duration;
        return Err(format!("must be {} to {}", shown(min), shown(max)));
    }
    Ok(given)
}

/// The largest body that the gateway takes. It becomes a payload, so the limit of payloads holds.
pub(crate) fn max_body(text: &str) -> Result<usize, String> {
    let bytes = size(text)?;
    let max = config::PAYLOAD_BYTES_MAX_MAX;
    if bytes == 0 || bytes > max {
        return Err(format!(
            "must be 1 byte to {}",
            ByteSize::b(max as u64).display().iec()
        ));
    }
    Ok(bytes)
}

/// `fixed(5s)` or `exponential(1s, 5m)`.
pub(crate) fn backoff(text: &str) -> Result<Backoff, String> {
    text.parse().map_err(reason_of)
}

/// A queue's name.
pub(crate) fn queue(text: &str) -> Result<QueueName, String> {
    QueueName::new(text).map_err(|error| {
        let reason = reason_of(error);
        // The value is reported as it was given; where that cannot be read, show what is in it.
        if text.contains(char::is_control) {
            format!("{text:?}: {reason}")
        } else {
            reason
        }
    })
}

/// How many jobs at once.
pub(crate) fn concurrency(number: u64) -> Result<usize, String> {
    whole(number, 1, config::CONCURRENCY_MAX as u64)
}

/// How many jobs to fetch ahead.
pub(crate) fn prefetch(number: u64) -> Result<usize, String> {
    whole(number, 0, config::CONCURRENCY_MAX as u64)
}

/// How many requests to one target at once.
pub(crate) fn target_concurrency(number: u64) -> Result<usize, String> {
    whole(number, 1, config::CONCURRENCY_MAX as u64)
}

/// How many failures in a row open a circuit; 0 for no circuit.
pub(crate) fn circuit_failures(number: u64) -> Result<u32, String> {
    whole(number, 0, u64::from(config::CIRCUIT_FAILURES_MAX))
}

/// How many jobs of one group at once; 0 for no limit.
pub(crate) fn group_concurrency(number: u64) -> Result<usize, String> {
    whole(number, 0, config::GROUP_CONCURRENCY_MAX as u64)
}

/// How many points a job costs.
pub(crate) fn cost(number: u64) -> Result<u32, String> {
    whole(number, 1, u64::from(config::COST_MAX))
}

/// How many jobs of one queue at once, over all workers; 0 for no limit.
pub(crate) fn queue_concurrency(number: u64) -> Result<usize, String> {
    whole(number, 0, config::CONCURRENCY_MAX as u64)
}

/// How many jobs of one group may be held; 0 for no limit.
pub(crate) fn max_backlog(number: u64) -> Result<u64, String> {
    whole(number, 0, config::DEPTH_MAX)
}

/// How many jobs or points at once after a quiet time; 0 for the default.
pub(crate) fn burst(number: u64) -> Result<u32, String> {
    whole(number, 0, u64::from(config::BURST_MAX))
}

/// A rate, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit(pub(crate) Option<millstream::Rate>);

/// Reads `50/s`, `600/m`, `1000/h` or `none`.
pub(crate) fn group_rate(text: &str) -> Result<RateLimit, String> {
    if text == "none" {
        return Ok(RateLimit(None));
    }
    let rate = text.parse().map_err(reason_of)?;
    Ok(RateLimit(Some(rate)))
}

/// What becomes of a group's order when a job has to be tried again.
pub(crate) fn group_order(text: &str) -> Result<GroupOrder, String> {
    [GroupOrder::Free, GroupOrder::Block]
        .into_iter()
        .find(|order| order.name() == text)
        .ok_or_else(|| "write free or block".to_owned())
}

/// How many attempts in all.
pub(crate) fn max_attempts(number: u64) -> Result<u32, String> {
    whole(number, 1, u64::from(config::MAX_ATTEMPTS_MAX))
}

fn whole<T: TryFrom<u64>>(number: u64, min: u64, max: u64) -> Result<T, String> {
    T::try_from(number)
        .ok()
        .filter(|_| (min..=max).contains(&number))
        .ok_or_else(|| format!("must be {min} to {max}"))
}

/// Turns a check of [a number][whole] into one of its text, for flags.
pub(crate) fn number<T>(text: &str, check: fn(u64) -> Result<T, String>) -> Result<T, String> {
    check(
        text.parse()
            .map_err(|_| "write a whole number".to_owned())?,
    )
}

/// What to write instead; name and value are told by whoever reports it.
fn reason_of(error: millstream::Error) -> String {
    match error {
        millstream::Error::Setting { reason, .. } => reason,
        other => other.to_string(),
    }
}

/// So many in so much time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// At least 1.
    pub(crate) count: u32,
    /// One second, minute or hour.
    pub(crate) per: Duration,
}

impl Rate {
    /// The time that `count` of them take.
    pub(crate) fn time_for(self, count: usize) -> Duration {
        self.per.mul_f64(count as f64 / f64::from(self.count))
    }

    /// How many a second.
    pub(crate) fn per_second(self) -> f64 {
        f64::from(self.count) / self.per.as_secs_f64()
    }
}

/// Reads `50/s`, `600/m`, `1000/h`.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let refuse =
        || "write a whole number per second, minute or hour, like 50/s, 600/m or 1000/h".to_owned();
    let (count, unit) = text.split_once('/').ok_or_else(refuse)?;
    let count: u32 = count.trim().parse().map_err(|_| refuse())?;
    let per = Duration::from_secs(match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(refuse()),
    });
    if count == 0 {
        return Err(refuse());
    }
    Ok(Rate { count, per })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units_and_never_guessed() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "5x", "s", "-5s", "1,5s", "five"] {
            let said = duration(bad).expect_err(bad);
            assert!(said.contains("250ms"), "{said}");
        }
        assert!(window("0s").is_err() && retention("0s").is_ok());
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("500kB", 500_000),
            ("17", 17),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "KiB", "1 elephant", "-1MiB"] {
            assert!(size(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn rates_are_read_and_turned_into_time() {
        assert_eq!(rate("50/s").unwrap().time_for(100), Duration::from_secs(2));
        assert_eq!(rate("600/m").unwrap().time_for(10), Duration::from_secs(1));
        for bad in ["", "50", "0/s", "-1/s", "50/d", "/s", "1.5/s"] {
            assert!(rate(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
