//! Times and waits over their whole range: stored to the millisecond, never early, refused beyond the horizon.

use std::time::Duration;

use millstream::config::HORIZON_MAX;
use millstream::job::state::State;
use millstream::{Error, JobId, NewJob};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::Fixture;
use crate::support::program::Program;
use crate::support::verbs::plain;

/// From nothing to the horizon, as often short as long, and not in whole milliseconds.
fn waits() -> impl Strategy<Value = Duration> {
    let horizon_ns = HORIZON_MAX.as_nanos() as u64;
    let any_length = (0u32..=58, 0.0..1.0f64).prop_map(move |(bits, part)| {
        (((1u64 << bits) as f64 * (1.0 + part)) as u64).min(horizon_ns)
    });
    prop_oneof![
        8 => any_length,
        1 => Just(0),
        1 => Just(1),
        1 => Just(horizon_ns - 1),
        1 => Just(horizon_ns),
    ]
    .prop_map(Duration::from_nanos)
}

/// The wait in whole milliseconds, rounded up so that nothing runs early.
fn ms(wait: Duration) -> i64 {
    wait.as_nanos().div_ceil(1_000_000) as i64
}

/// How much later than asked a job is due at most: due times are eighths of a millisecond.
const ROUNDED_UP_US: i64 = 125;

impl Fixture {
    pub(crate) fn now_ms(&self) -> i64 {
        self.now_us() / 1000
    }

    /// When a scheduled job is due, unix µs, as it is written in Redis.
    fn due_us(&self, id: &JobId) -> i64 {
        let due = self.redis(&["ZSCORE", &self.key("scheduled"), id.as_str()]);
        let due_us = due.text().parse::<f64>().unwrap() * 1000.0;
        assert_eq!(
            due_us % 125.0,
            0.0,
            "{due:?}: eighths of a millisecond, with all digits"
        );
        due_us as i64
    }
}

/// Runs `check` on random waits, on a queue of its own.
fn for_waits(check: impl AsyncFn(&Fixture, &[Duration])) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
    let t = runtime.block_on(Fixture::new());
    let mut runner = TestRunner::new(Config::with_cases(24));
    let checked = runner.run(&vec(waits(), 1..40), |waits| {
        runtime.block_on(check(&t, &waits));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
    t.assert_every_job_has_one_home();
}

#[test]
fn a_delay_of_any_length_is_stored_to_the_millisecond() {
    for_waits(async |t, waits| {
        let jobs: Vec<_> = waits.iter().map(|wait| plain().delay(*wait)).collect();
        let before = t.now_us();
        let enqueued = t.try_enqueue(&jobs).await.unwrap();
        let after = t.now_us();
        for (wait, job) in waits.iter().zip(enqueued) {
            if wait.is_zero() {
                assert_eq!(t.state_of(&job.id), Some(State::Ready));
                continue;
            }
            let due = t.due_us(&job.id) - ms(*wait) * 1000;
            let expected = before..=after + ROUNDED_UP_US;
            assert!(expected.contains(&due), "{wait:?}: {due}, not {expected:?}");
        }
    });
}

#[test]
fn a_backoff_or_snooze_of_any_length_is_stored_to_the_millisecond() {
    for_waits(async |t, waits| {
        t.enqueue_many(waits.len()).await;
        // Those that a short wait made due meanwhile are not promoted here.
        let claimed = t.claim(waits.len()).await;
        for (number, (wait, delivery)) in waits.iter().zip(&claimed).enumerate() {
            let before = t.now_us();
            match number % 2 {
                0 => t.retry(delivery, *wait, "boom").await.unwrap(),
                _ => t.snooze(delivery, *wait).await.unwrap(),
            }
            let after = t.now_us();
            let due = t.due_us(&delivery.id) - ms(*wait) * 1000;
            let expected = before..=after + ROUNDED_UP_US;
            assert!(expected.contains(&due), "{wait:?}: {due}, not {expected:?}");
        }
    });
}

#[test]
fn an_expiry_of_any_length_is_stored_to_the_millisecond() {
    for_waits(async |t, waits| {
        let waits: Vec<_> = waits.iter().filter(|wait| !wait.is_zero()).collect();
        if waits.is_empty() {
            return;
        }
        let jobs: Vec<_> = waits.iter().map(|wait| plain().expires(**wait)).collect();
        let before = t.now_ms();
        let enqueued = t.try_enqueue(&jobs).await.unwrap();
        let after = t.now_ms();
        let scan = t.scan();
        for (wait, job) in waits.into_iter().zip(enqueued) {
            let at = scan.meta_of(job.id.as_str())["expires_at_ms"].as_i64();
            let expected = before + ms(*wait)..=after + 1 + ms(*wait);
            let fits = at.is_some_and(|at| expected.contains(&at));
            assert!(fits, "{wait:?}: {at:?}, not {expected:?}");
        }
    });
}

#[tokio::test]
async fn a_time_beyond_the_horizon_is_refused_by_name_and_nothing_is_stored() {
    let p = Program::new().await;
    let job = || NewJob::raw("a", "");
    let beyond = HORIZON_MAX + Duration::from_nanos(1);
    for (field, wrong) in [
        ("delay", job().delay(beyond)),
        ("delay", job().delay(Duration::MAX)),
        ("expires", job().expires(beyond)),
        ("expires", job().expires(Duration::MAX)),
        ("expires", job().expires(Duration::ZERO)),
        ("unique_for", job().unique_for("k", beyond)),
        ("unique_for", job().unique_for("k", Duration::ZERO)),
        ("timeout", job().timeout(Duration::MAX)),
        ("timeout", job().timeout(Duration::ZERO)),
    ] {
        let refused = p.queue.enqueue(wrong.clone()).await;
        assert!(
            matches!(&refused, Err(Error::InvalidJob { field: named, .. }) if *named == field),
            "{field}: {refused:?}"
        );
        let refused = p.queue.enqueue_all(vec![job(), wrong]).await;
        assert!(refused.is_err(), "{field} among others");
    }
    assert_eq!(p.t.scan().homes.len(), 0);
}

#[tokio::test]
async fn a_wait_beyond_the_horizon_is_cut_to_it() {
    let t = Fixture::new().await;
    for wait in [HORIZON_MAX + Duration::from_secs(1), Duration::MAX] {
        let delivery = t.running(plain()).await;
        let before = t.now_us();
        t.retry(&delivery, wait, "boom").await.unwrap();
        let waits = t.due_us(&delivery.id) - before - ms(HORIZON_MAX) * 1000;
        assert!((0..60_000_000).contains(&waits), "{waits}");
    }
}

#[tokio::test]
async fn entry_ids_of_any_size_come_back_as_they_were_sent() {
    let t = Fixture::new().await;
    // A stream that was once given a far too large id goes on from there, past what Lua's numbers can tell apart.
    let odd = (1u64 << 53) + 1;
    let key = t.key("ready");
    for (ms, seq) in [(odd, u64::MAX - 7), (odd + 2, odd), (u64::MAX - 9, 0)] {
        let id = format!("{ms}-{seq}");
        t.redis(&[
            "XADD", &key, &id, "name", "a", "payload", "", "attempt", "1", "meta", "",
        ]);
        t.expect_unbooked(1);
        let delivery = t.claim_one().await;
        assert_eq!((delivery.entry.ms, delivery.entry.seq), (ms, seq));
        assert_eq!(t.extend(&delivery).await, []);
        let again = t.take_over(&delivery).await;
        assert_eq!(again.id.as_str(), id);
        assert_eq!(t.complete(&[&delivery]).await, [delivery.entry]);
        assert_eq!(t.complete(&[&again]).await, []);
    }
    t.assert_every_job_has_one_home();
}
