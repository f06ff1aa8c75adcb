//! scheduled -> ready

use std::collections::BTreeSet;
use std::time::Duration;

use millstream::broker::Promotion;
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};

use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE, upkeeper};

fn count_of(promotion: Promotion) -> u64 {
    match promotion {
        Promotion::Promoted { count, .. } => count,
        Promotion::Standby => panic!("somebody else does the upkeep"),
    }
}

#[tokio::test]
async fn due_jobs_become_ready_the_longest_due_first() {
    let t = Fixture::new().await;
    let mut ids = Vec::new();
    for due_ms in [300, 100, 200] {
        let id = t.enqueue(plain().delay(LATER)).await;
        t.redis(&[
            "ZADD",
            &t.key("scheduled"),
            &due_ms.to_string(),
            id.as_str(),
        ]);
        ids.push(id);
    }
    let not_due = t.enqueue(plain().delay(LATER)).await;

    assert_eq!(count_of(t.promote().await), 3);

    let claimed = t.claim_ids(10).await;
    assert_eq!(claimed, [ids[1].clone(), ids[2].clone(), ids[0].clone()]);
    assert_eq!(t.state_of(&not_due), Some(State::Scheduled));
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_promotion_says_when_the_next_job_is_due() {
    let t = Fixture::new().await;
    assert_eq!(
        t.promote().await,
        Promotion::Promoted {
            count: 0,
            next_due: None,
            unlock: Vec::new(),
            late: std::time::Duration::ZERO,
            expired: 0,
            rated: None,
        }
    );
    t.enqueue(plain().delay(LATER)).await;

    let Promotion::Promoted {
        count: 0,
        next_due: Some(wait),
        late: std::time::Duration::ZERO,
        ..
    } = t.promote().await
    else {
        panic!("nothing is due yet, and something will be");
    };

    // The job is due at a whole millisecond, rounded up.
    assert!(
        wait <= LATER + std::time::Duration::from_millis(1) && wait > LATER / 2,
        "{wait:?}"
    );
}

#[tokio::test]
async fn five_promoters_at_once_make_five_thousand_jobs_ready_once_each() {
    let t = Fixture::new().await;
    let mut ids = BTreeSet::new();
    for _ in 0..5 {
        let enqueued = t
            .try_enqueue(&vec![plain().delay(LATER); 1000])
            .await
            .unwrap();
        ids.extend(enqueued.into_iter().map(|enqueued| enqueued.id));
    }
    for id in &ids {
        t.make_due(id);
    }

    let promoters = (0..5).map(|_| {
        let broker = t.broker.clone();
        tokio::spawn(async move {
            let mut total = 0;
            loop {
                match count_of(
                    broker
                        .promote(&upkeeper("upkeep"), 100, PATIENCE)
                        .await
                        .unwrap(),
                ) {
                    0 => return total,
                    count => total += count,
                }
            }
        })
    });
    let mut promoted = 0;
    for promoter in promoters.collect::<Vec<_>>() {
        promoted += promoter.await.unwrap();
    }

    assert_eq!(promoted, 5000);
    assert_eq!(t.redis(&["XLEN", &t.key("ready")]).int(), 5000);
    let mut claimed = BTreeSet::new();
    for _ in 0..5 {
        claimed.extend(t.claim(1000).await.into_iter().map(|delivery| delivery.id));
    }
    assert_eq!(claimed, ids);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_promotion_takes_no_more_than_its_limit_and_says_that_more_is_due() {
    let t = Fixture::new().await;
    for enqueued in t.try_enqueue(&vec![plain().delay(LATER); 5]).await.unwrap() {
        t.make_due(&enqueued.id);
    }

    let promotion = t
        .broker
        .promote(&upkeeper("upkeep"), 2, PATIENCE)
        .await
        .unwrap();

    let now = Some(std::time::Duration::ZERO);
    assert!(
        matches!(promotion, Promotion::Promoted { count: 2, next_due, .. } if next_due == now),
        "{promotion:?}"
    );
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_promotion_says_how_late_the_most_overdue_job_was() {
    let t = Fixture::new().await;
    for seconds in [30, 90, 60] {
        let id = t.enqueue(plain().delay(LATER)).await;
        let due_ms = t.now_us() / 1000 - seconds * 1000;
        t.redis(&[
            "ZADD",
            &t.key("scheduled"),
            &due_ms.to_string(),
            id.as_str(),
        ]);
    }
    let Promotion::Promoted { count: 3, late, .. } = t.promote().await else {
        panic!("three jobs are due");
    };
    let seconds = std::time::Duration::from_secs;
    assert!(late >= seconds(90) && late < seconds(120), "{late:?}");
}

#[tokio::test]
async fn a_promotion_stands_by_while_another_worker_does_the_upkeep() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().delay(LATER)).await;
    t.promote().await;
    t.make_due(&id);
    let before = t.state_hash();

    let promotion = t
        .broker
        .promote(&upkeeper("another"), 100, PATIENCE)
        .await
        .unwrap();

    assert_eq!(promotion, Promotion::Standby);
    assert_eq!(t.state_hash(), before);
    t.redis(&["DEL", &t.key("upkeep")]);
    let promotion = t
        .broker
        .promote(&upkeeper("another"), 100, PATIENCE)
        .await
        .unwrap();
    assert_eq!(count_of(promotion), 1);
}

#[tokio::test]
async fn a_job_that_somebody_broke_by_hand_ends_dead_with_what_is_left_of_it() {
    let t = Fixture::new().await;
    let broken = |field: &'static str, value: &'static str| (field, value);
    for (field, value) in [
        broken("jobs", ""),
        broken("payloads", ""),
        broken("jobs", "no json"),
        broken("jobs", r#"{"name":5,"attempt":1,"meta":""}"#),
        broken("jobs", r#"{"name":"a","attempt":1}"#),
    ] {
        let id = t.enqueue(plain().delay(LATER)).await;
        t.make_due(&id);
        match value {
            "" => t.redis(&["HDEL", &t.key(field), id.as_str()]),
            _ => t.redis(&["HSET", &t.key(field), id.as_str(), value]),
        };
        let before = t.counter("orphaned");

        assert_eq!(count_of(t.promote().await), 0, "{field} {value}");

        let record = t.record_of(&id).unwrap();
        assert_eq!(record["reason"], "orphaned", "{field} {value}");
        let kept = &t.scan().payloads[id.as_str()];
        let expected: &[u8] = if field == "payloads" { b"" } else { b"payload" };
        assert_eq!(kept, expected, "{field} {value}");
        assert_eq!(t.counter("orphaned"), before + 1);
        assert_eq!(
            t.events().last(),
            Some(&("orphaned".to_owned(), id.to_string()))
        );
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_due_time_without_a_job_is_counted_and_passed_over() {
    let t = Fixture::new().await;
    let lost = t.enqueue(plain().delay(LATER)).await;
    t.make_due(&lost);
    t.redis(&["HDEL", &t.key("jobs"), lost.as_str()]);
    t.redis(&["HDEL", &t.key("payloads"), lost.as_str()]);
    t.expect_unbooked(-1);
    let id = t.enqueue(plain().delay(LATER)).await;
    t.make_due(&id);

    assert_eq!(count_of(t.promote().await), 1);

    assert_eq!(t.counter("orphaned"), 1);
    assert_eq!(t.claim_one().await.id, id);
    t.assert_every_job_has_one_home();
}

impl Fixture {
    /// Scheduled jobs, due from `from_ms` on, one a millisecond; of groups of ten if `grouped`.
    fn plant_scheduled(&self, jobs: usize, from_ms: usize, grouped: bool) {
        const PLANT: &str = "for i = ARGV[1], ARGV[2] do
            local id = string.format('%.0f-job', i)
            local meta = { id = id, group = ARGV[3] == '1' and string.format('g%.0f', i / 10) or nil }
            redis.call('HSET', KEYS[2], id, cjson.encode({ state = 'scheduled', name = 'job', attempt = 1, meta = cjson.encode(meta),
                payload_bytes = 200 }))
            redis.call('HSET', KEYS[3], id, string.rep('x', 200))
            redis.call('ZADD', KEYS[1], i, id)
        end
        redis.call('HINCRBY', KEYS[4], 'enqueued', ARGV[2] - ARGV[1] + 1)";
        let keys = ["scheduled", "jobs", "payloads", "stats"].map(|suffix| self.key(suffix));
        for from in (from_ms..from_ms + jobs).step_by(5_000) {
            let until = (from + 5_000).min(from_ms + jobs) - 1;
            let mut command = ["EVAL", PLANT, "4"].map(str::to_owned).to_vec();
            command.extend(keys.clone());
            command.extend([from, until, usize::from(grouped)].map(|number| number.to_string()));
            self.redis(&command);
        }
    }

    /// What the thread of the server that carries out commands has had of the processor, however busy the machine is.
    fn server_worked(&self) -> Duration {
        let info = self.redis(&["INFO", "server"]);
        let mut lines = info.text().lines();
        let pid = lines.find_map(|line| line.strip_prefix("process_id:"));
        let pid = pid.expect("a process").trim();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat"));
        let stat = stat.expect("Linux tells it");
        let nanos = stat.split(' ').next().expect("three numbers");
        Duration::from_nanos(nanos.parse().expect("nanoseconds"))
    }
}

/// What the promotion of due jobs takes Redis behind a million that are not, and how long its longest step was.
#[tokio::test]
#[ignore = "measures; MILLSTREAM_SCHEDULED_JOBS says beside how many jobs, else a million. With --nocapture it says what it found"]
async fn due_jobs_are_promoted_in_short_steps_beside_a_million_that_are_not() {
    const DUE: usize = 50_000;
    // As many as upkeep promotes in a step.
    const STEP: usize = 200;
    let given = std::env::var("MILLSTREAM_SCHEDULED_JOBS").ok();
    let jobs = given.map_or(1_000_000, |jobs| jobs.parse().expect("a number of jobs"));
    let redis = PrivateRedis::start(Options::default()).unwrap();
    for grouped in [false, true] {
        let t = Fixture::on(&redis).await;
        if grouped {
            t.limit_groups(4).await;
        }
        t.plant_scheduled(jobs, 9_000_000_000_000, grouped);
        t.plant_scheduled(DUE, 1_600_000_000_000, grouped);
        let by = upkeeper("upkeep");
        let (mut promoted, mut steps) = (0, Vec::new());
        while promoted < DUE as u64 {
            let before = t.server_worked();
            promoted += count_of(t.broker.promote(&by, STEP, PATIENCE).await.unwrap());
            steps.push(t.server_worked() - before);
        }
        let took: Duration = steps.iter().sum();
        steps.sort_unstable();
        let of = if grouped { "of groups, " } else { "" };
        eprintln!(
            "{DUE} due jobs {of}beside {jobs}: {:.1} µs of Redis a job; a step of {STEP}: p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
            took.as_secs_f64() * 1e6 / DUE as f64,
            steps[steps.len() / 2],
            steps[steps.len() * 99 / 100],
            steps[steps.len() - 1]
        );
        assert_eq!(promoted, DUE as u64);
        t.redis(&["FLUSHALL"]);
    }
}
