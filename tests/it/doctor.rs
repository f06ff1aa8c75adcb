//! The doctor: names each kind of damage and mends it, and finds nothing on a queue at work.

use std::pin::Pin;
use std::time::Duration;

use millstream::broker::doctor::Part;
use millstream::inspect::{Diagnosis, Doctor, Finding, Level};
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{JobError, JobId, Millstream, NewJob, Priority};

use crate::support::program::Program;
use crate::support::resp::Value;
use crate::support::verbs::{WORKER, plain};
use crate::support::{Fixture, LATER, PATIENCE};

/// How many jobs the large queue has; `MILLSTREAM_BULK_JOBS` says otherwise.
const BULK_JOBS: usize = 5_000;
/// No step of an audit looks at more.
const STEP: usize = 200;

impl Fixture {
    async fn doctor(&self) -> Doctor {
        let client = Millstream::connect(&self.url).await.unwrap();
        client.doctor().queues([self.queue.clone()])
    }

    async fn diagnose(&self, repair: bool) -> Vec<Finding> {
        of_queue(
            self.doctor()
                .await
                .repair(repair)
                .run(|_, _| ())
                .await
                .unwrap(),
        )
    }

    /// The damage is named, and named only until it is mended; then every rule holds.
    #[track_caller]
    fn mended(&self, code: &str, found: &[Finding], after: &[Finding]) {
        let codes = |found: &[Finding]| found.iter().map(|one| one.code).collect::<Vec<_>>();
        let one = found.iter().find(|one| one.code == code);
        let one = one.unwrap_or_else(|| panic!("{code} is not in {:?}", codes(found)));
        assert_eq!((one.count, one.repaired), (1, 1), "{one:?}");
        assert!(one.repairable && !one.means.is_empty() && !one.todo.is_empty());
        assert_eq!(codes(after), Vec::<&str>::new(), "after {code}");
    }

    /// A look, which changes nothing; a repair; and another look.
    fn cure<'a>(&'a self, code: &'a str) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
        // Many of them in one test would take too much of its stack.
        Box::pin(self.looked_at_and_cured(code))
    }

    async fn looked_at_and_cured(&self, code: &str) {
        let before = self.state_hash();
        let looked = Box::pin(self.diagnose(false)).await;
        assert_eq!(self.state_hash(), before, "{code}: a look changes nothing");
        let named = looked.iter().find(|one| one.code == code);
        let named = named.unwrap_or_else(|| panic!("{code} is not in {looked:?}"));
        assert_eq!((named.count, named.repaired), (1, 0), "{named:?}");
        let found = Box::pin(self.diagnose(true)).await;
        let after = Box::pin(self.diagnose(false)).await;
        self.mended(code, &found, &after);
        self.assert_every_job_has_one_home();
    }

    /// A job that was handed back: it has a record and stands on `ready:next`.
    async fn handed_back(&self) -> (JobId, String) {
        let delivery = self.running(plain()).await;
        assert_eq!(self.release(&delivery).await, []);
        let (_, entry) = self.home_of(&delivery.id).unwrap().at.unwrap();
        (delivery.id, entry)
    }
}

/// What is more than a note about the queue.
fn of_queue(diagnosis: Diagnosis) -> Vec<Finding> {
    let mut found = diagnosis.findings;
    found.retain(|one| one.queue.is_some() && one.level > Level::Note);
    found
}

#[tokio::test]
async fn a_job_off_the_streams_that_lost_something_is_named_and_mended() {
    let t = Fixture::new().await;
    let key = |suffix: &str| t.key(suffix);

    let id = t.dead(plain()).await;
    t.redis(&["HSET", &key("jobs"), id.as_str(), "no json"]);
    t.cure("unreadable-record").await;
    let record = t.record_of(&id).unwrap();
    assert_eq!(record["reason"], "orphaned");
    assert!(
        record["errors"][0]["error"]
            .as_str()
            .unwrap()
            .contains("no json")
    );
    assert_eq!(t.scan().payloads[id.as_str()], b"payload");

    let id = t.enqueue(plain().delay(LATER)).await;
    t.redis(&["HDEL", &key("jobs"), id.as_str()]);
    t.cure("missing-record").await;
    assert_eq!(t.state_of(&id), Some(State::Dead));

    let id = t.enqueue(plain().delay(LATER)).await;
    t.redis(&["HDEL", &key("jobs"), id.as_str()]);
    t.redis(&["HDEL", &key("payloads"), id.as_str()]);
    t.expect_unbooked(-1);
    t.cure("missing-record").await;
    assert_eq!(t.state_of(&id), None);

    let id = t.enqueue(plain().delay(LATER)).await;
    t.redis(&["HDEL", &key("payloads"), id.as_str()]);
    t.cure("missing-payload").await;
    assert_eq!(t.state_of(&id), Some(State::Dead));

    t.redis(&["HSET", &key("payloads"), "nobody", "x"]);
    t.expect_unbooked(1);
    t.cure("orphan-payload").await;
    assert_eq!(t.state_of(&"nobody".into()), Some(State::Dead));

    let id = t.enqueue(plain().delay(LATER)).await;
    t.redis(&["ZREM", &key("scheduled"), id.as_str()]);
    t.cure("lost-place").await;
    assert_eq!(t.state_of(&id), Some(State::Scheduled));

    let id = t.dead(plain()).await;
    t.redis(&["ZREM", &key("dead"), id.as_str()]);
    t.cure("lost-place").await;
    assert_eq!(t.state_of(&id), Some(State::Dead));

    let id = t.dead(plain()).await;
    t.redis(&["ZADD", &key("scheduled"), "9999999999999", id.as_str()]);
    t.cure("two-homes").await;
    assert_eq!(t.state_of(&id), Some(State::Dead));

    let id = t.enqueue(plain().delay(LATER)).await;
    t.redis(&["ZREM", &key("scheduled"), id.as_str()]);
    t.redis(&["ZADD", &key("dead"), "1", id.as_str()]);
    // By hand into the dead letter, past the counter.
    t.redis(&["HINCRBY", &key("stats"), "dead", "1"]);
    t.cure("wrong-state").await;
    assert_eq!(t.state_of(&id), Some(State::Dead));
}

#[tokio::test]
async fn a_job_on_a_stream_that_lost_something_is_named_and_mended() {
    let t = Fixture::new().await;
    let next = t.key("ready:next");

    let (id, _) = t.handed_back().await;
    t.redis(&["HSET", &t.key("payloads"), id.as_str(), "payload"]);
    t.cure("stray-payload").await;
    assert_eq!(t.claim_one().await.id, id);

    let (id, entry) = t.handed_back().await;
    t.redis(&["XDEL", &next, &entry]);
    t.cure("record-without-entry").await;
    assert_eq!(t.state_of(&id), Some(State::Dead));

    let (id, entry) = t.handed_back().await;
    t.redis(&["XDEL", &next, &entry]);
    t.redis(&["HSET", &t.key("payloads"), id.as_str(), "payload"]);
    t.cure("record-without-entry").await;
    assert_eq!(
        (t.claim_one().await.id, t.state_of(&id)),
        (id, Some(State::Running))
    );

    let (id, _) = t.handed_back().await;
    t.redis(&["HDEL", &t.key("jobs"), id.as_str()]);
    t.cure("entry-without-record").await;
    assert_eq!(t.claim_one().await.id, id);

    let (id, _) = t.handed_back().await;
    let meta = format!("{{\"id\":\"{id}\"}}");
    t.redis(&[
        "XADD",
        &t.key("ready"),
        "*",
        "name",
        "job",
        "payload",
        "payload",
        "attempt",
        "1",
        "meta",
        &meta,
    ]);
    t.cure("second-entry").await;
    let claimed = t.claim(10).await;
    assert_eq!(claimed.iter().map(|one| &one.id).collect::<Vec<_>>(), [&id]);

    let delivery = t.running(plain()).await;
    t.redis(&["XDEL", &t.key("ready"), &delivery.entry.to_string()]);
    t.expect_unbooked(-1);
    t.cure("dangling-pending").await;
    assert_eq!(t.state_of(&delivery.id), None);

    let id = t.add_by_hand(&["hello", "world"]);
    t.redis(&["HINCRBY", &t.key("stats"), "enqueued", "1"]);
    t.expect_unbooked(-1);
    t.cure("foreign-entry").await;
    assert_eq!(t.state_of(&id), Some(State::Dead));

    let delivery = t.running(plain()).await;
    t.redis(&["XGROUP", "DELCONSUMER", &t.key("ready"), "workers", WORKER]);
    let found = t.diagnose(true).await;
    let lost = found
        .iter()
        .find(|one| one.code == "lost-delivery")
        .unwrap();
    // What the worker held besides is lost in the same way.
    assert_eq!(lost.count, lost.repaired);
    assert!(
        lost.examples.contains(&delivery.entry.to_string()),
        "{lost:?}"
    );
    let claimed = t.claim(10).await;
    assert!(claimed.iter().any(|one| one.id == delivery.id));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn slots_of_groups_and_jobs_that_wait_for_one_are_put_right() {
    let t = Fixture::new().await;
    t.redis(&["HSET", &t.key("limits"), "group_concurrency", "1"]);
    t.enqueue(plain().group("g")).await;
    let held = t.enqueue(plain().group("g")).await;
    assert_eq!(t.state_of(&held), Some(State::Held));
    for told in ["5", "-1", "many"] {
        t.redis(&["HSET", &t.key("groups"), "g", told]);
        t.cure("group-slots").await;
    }
    t.redis(&["HDEL", &t.key("groups"), "g"]);
    t.cure("group-slots").await;
    assert_eq!(t.redis(&["HGET", &t.key("groups"), "g"]).text(), "1");

    t.redis(&["DEL", &t.key("held")]);
    t.cure("lost-place").await;
    assert_eq!(t.state_of(&held), Some(State::Held));
}

#[tokio::test]
async fn a_group_with_too_many_slots_to_count_at_one_moment_is_told_and_left_alone() {
    let t = Fixture::new().await;
    t.limit_groups(2_000).await;
    for chunk in [1_000, 1] {
        let jobs = vec![plain().group("g"); chunk];
        t.try_enqueue(&jobs).await.unwrap();
    }
    assert_eq!(t.diagnose(true).await.len(), 0, "the count is right");
    t.redis(&["HSET", &t.key("groups"), "g", "7"]);

    let diagnosis = t.doctor().await.repair(true).run(|_, _| ()).await.unwrap();

    let codes = ["group-slots", "group-slots-unknown"];
    let mut found = diagnosis.findings.iter();
    let told = found.find(|one| codes.contains(&one.code)).unwrap();
    assert_eq!((told.code, told.level), (codes[1], Level::Note));
    assert_eq!(told.examples, ["g"]);
    assert_eq!(t.slots_of("g"), 7);
    t.redis(&["HSET", &t.key("groups"), "g", "1001"]);
}

#[tokio::test]
async fn a_recount_lets_in_who_has_room_and_judges_no_room_by_a_wrong_count() {
    let t = Fixture::new().await;
    t.limit_groups(2).await;
    let jobs = t.try_enqueue(&vec![plain().group("g"); 4]).await.unwrap();
    t.redis(&["HSET", &t.key("groups"), "g", "7"]);
    let done = t.claim(2).await;
    t.complete(&done.iter().collect::<Vec<_>>()).await;
    let states = || jobs[2..].iter().map(|job| t.state_of(&job.id).unwrap());
    assert!(states().all(|state| state == State::Held), "a leaked slot");

    t.cure("group-slots").await;

    assert!(states().all(|state| state == State::Ready));
    t.enqueue(plain().group("g")).await;
    // By the count there is room, and by the jobs there is none.
    t.redis(&["HSET", &t.key("groups"), "g", "1"]);
    let codes = async |repair| {
        let found = t.diagnose(repair).await;
        found.iter().map(|one| one.code).collect::<Vec<_>>()
    };
    assert_eq!(codes(false).await, ["group-slots"]);
    assert_eq!(codes(true).await, ["group-slots"]);
    assert_eq!(codes(true).await, [""; 0]);
    assert_eq!(t.slots_of("g"), 2);
}

#[tokio::test]
async fn slots_of_jobs_that_wait_for_their_retry_are_counted_too() {
    let t = Fixture::new().await;
    t.limit_groups(3).await;
    t.limit(None, "group_order", "block").await;
    let waits = t.running(plain().group("g")).await;
    t.retry(&waits, LATER, "boom").await.unwrap();
    let back = t.running(plain().group("g")).await;
    t.release(&back).await;
    t.enqueue(plain().group("g").priority(Priority::High)).await;
    assert!(t.diagnose(false).await.is_empty());

    t.redis(&["HSET", &t.key("groups"), "g", "1"]);
    t.cure("group-slots").await;

    assert_eq!(t.slots_of("g"), 3);
}

#[tokio::test]
async fn buckets_times_and_limits_that_somebody_broke_are_named_and_mended() {
    let t = Fixture::new().await;
    let rates = t.key("rates");
    t.limit(None, "group_rate", "1/h").await;
    t.enqueue(plain().group("g")).await;
    let held = t.enqueue(plain().group("g")).await;
    assert!(t.diagnose(false).await.is_empty());

    t.redis(&["ZREM", &rates, "next\u{1f}g"]);
    t.cure("stuck-group").await;
    assert_ne!(t.redis(&["ZSCORE", &rates, "next\u{1f}g"]), Value::Nil);

    for (member, score) in [
        ("next\u{1f}g", "inf"),
        ("next\u{1f}g", "9e15"),
        ("next\u{1f}h", "-1"),
        ("full\u{1f}g", "5"),
        ("full\u{1f}idle", "-inf"),
        ("full\u{1f}", "-inf"),
        ("nonsense", "5"),
        ("later\u{1f}g", "5"),
    ] {
        t.redis(&["ZADD", &rates, score, member]);
        t.cure("broken-rate").await;
    }
    // A bucket that would never fill again.
    assert_eq!(t.state_of(&held), Some(State::Ready));
    let held = t.enqueue(plain().group("g")).await;
    t.redis(&["ZADD", &rates, "-inf", "full\u{1f}g"]);
    t.cure("broken-rate").await;
    assert_eq!(t.state_of(&held), Some(State::Ready));

    let limits = t.key("limits");
    for (name, value) in [
        ("group_concurrency", "many"),
        ("group_burst", "0"),
        ("rate", "fast"),
        ("group_order", "any"),
        ("group:g", "no json"),
        ("group:g", r#"{"concurrency":"x"}"#),
    ] {
        t.redis(&["HSET", &limits, name, value]);
        let found = t.diagnose(true).await;
        let one = &found[0];
        assert_eq!(
            (found.len(), one.code, one.repaired),
            (1, "broken-limit", 0)
        );
        assert_eq!(one.examples, [name]);
        t.redis(&["HDEL", &limits, name]);
    }
}

#[tokio::test]
async fn a_group_that_nobody_would_let_in_is_named_and_let_in() {
    let t = Fixture::new().await;
    t.limit_groups(1).await;
    let jobs = t.try_enqueue(&vec![plain().group("g"); 3]).await.unwrap();
    t.limit(None, "group_concurrency", "2").await;
    t.cure("stuck-group").await;
    assert_eq!(t.state_of(&jobs[1].id), Some(State::Ready));
    assert_eq!(t.state_of(&jobs[2].id), Some(State::Held));
}

#[tokio::test]
async fn what_a_worker_holds_is_left_to_it() {
    let t = Fixture::new().await;
    let id = t.add_by_hand(&["hello", "world"]);
    t.redis(&["HINCRBY", &t.key("stats"), "enqueued", "1"]);
    assert_eq!(t.claim_one().await.id, id);

    let found = t.diagnose(true).await;

    let foreign = found
        .iter()
        .find(|one| one.code == "foreign-entry")
        .unwrap();
    assert_eq!((foreign.count, foreign.repaired), (1, 0));
    assert_eq!(t.state_of(&id), Some(State::Running));
}

#[tokio::test]
async fn keys_locks_consumers_and_counters_are_looked_at_too() {
    let t = Fixture::new().await;

    t.enqueue(plain().delay(LATER)).await;
    t.redis(&["EXPIRE", &t.key("jobs"), "1000"]);
    t.cure("expiring-key").await;
    assert_eq!(t.redis(&["TTL", &t.key("jobs")]), Value::Int(-1));

    t.redis(&["SET", &t.key("upkeep"), "a-worker-of-old"]);
    let due = t.enqueue(plain().delay(LATER)).await;
    t.make_due(&due);
    let found = t.diagnose(true).await;
    let codes: Vec<_> = found.iter().map(|one| (one.code, one.repaired)).collect();
    assert_eq!(codes, [("lock-of-the-dead", 1), ("overdue", 1)]);
    assert_eq!(t.state_of(&due), Some(State::Ready));

    t.redis(&["HSET", &t.key("stats"), "failed", "many"]);
    t.redis(&["HSET", &t.key("stats"), "retried", "-4"]);
    let found = t.diagnose(true).await;
    assert_eq!(
        (found[0].code, found[0].count, found[0].repaired),
        ("broken-counter", 2, 2)
    );

    t.redis(&["HINCRBY", &t.key("stats"), "enqueued", "-2"]);
    t.cure("counters-disagree").await;

    t.redis(&[
        "XGROUP",
        "CREATECONSUMER",
        &t.key("ready"),
        "workers",
        "ghost",
    ]);
    let doctor = t.doctor().await.silent_after(Duration::ZERO);
    let found = of_queue(doctor.repair(true).run(|_, _| ()).await.unwrap());
    assert_eq!((found[0].code, found[0].repaired), ("ghost-consumers", 1));
    let running = t.claim_one().await;
    let doctor = t.doctor().await.silent_after(Duration::ZERO);
    let found = of_queue(doctor.repair(true).run(|_, _| ()).await.unwrap());
    assert_eq!(found[0].code, "silent-worker");
    assert_eq!(t.state_of(&running.id), Some(State::Running));
    t.assert_every_job_has_one_home();

    t.redis(&["RPUSH", &t.key("held"), "in the way"]);
    let found = t.diagnose(true).await;
    assert_eq!(
        (found.len(), found[0].code, found[0].repaired),
        (1, "wrong-type", 0)
    );
    assert!(found[0].what.contains(&t.key("held")), "{found:?}");
}

#[tokio::test]
async fn unique_keys_that_stand_in_the_way_are_released_and_others_are_not() {
    let t = Fixture::new().await;
    let unique = |name: &str| t.key(&format!("unique:{name}"));

    t.redis(&["SET", &unique("k"), "nobody"]);
    t.cure("unique-forever").await;
    assert_eq!(t.unique_holder("k"), None);

    let id = t.enqueue(plain().unique("held").delay(LATER)).await;
    t.redis(&["PERSIST", &unique("held")]);
    t.cure("unique-forever").await;
    assert_eq!(t.unique_holder("held").as_deref(), Some(id.as_str()));

    let id = t.dead(plain().unique("dead")).await;
    t.redis(&["SET", &unique("dead"), id.as_str(), "EX", "1000"]);
    t.redis(&["ZADD", &t.key("dead"), "1", id.as_str()]);
    t.cure("unique-held-by-dead").await;
    assert_eq!(t.unique_holder("dead"), None);

    let seen = t.running(plain().unique_for("delivery", LATER)).await;
    assert_eq!(t.complete(&[&seen]).await, []);
    t.expect_window("delivery");
    assert!(t.diagnose(true).await.is_empty());
    assert_eq!(t.unique_holder("delivery"), Some(seen.id.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_queue_at_work_gets_no_finding_and_loses_nothing_to_a_repair() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let worker = p.worker().concurrency(20).max_attempts(2);
    let worker = worker.fallback(async |job: millstream::Context| match job.name() {
        "fails" => Err(JobError::failed("no")),
        "refuses" => Err(JobError::refuse("no")),
        "snoozes" if job.attempt() == 1 && job.payload().len() == 1 => {
            Err(JobError::failed("again"))
        }
        _ => Ok(()),
    });
    let worker = worker.start().await.unwrap();
    let mut number = 0;
    for _ in 0..5 {
        for _ in 0..20 {
            let mut jobs = Vec::new();
            for name in ["a", "fails", "refuses", "snoozes", "b"] {
                number += 1;
                jobs.push(NewJob::raw(name, "x").group(format!("g{}", number % 7)));
                jobs.push(NewJob::raw(name, "x").unique(format!("k{number}")));
                jobs.push(NewJob::raw(name, "xx").delay(Duration::from_millis(number % 50)));
            }
            p.queue.enqueue_all(jobs).await.unwrap();
        }
        let found = p.t.diagnose(true).await;
        assert!(found.is_empty(), "{found:?}");
    }
    let all = 5 * 20 * 15;
    p.until("all are done", |t| {
        let dead = t.redis(&["ZCARD", &t.key("dead")]).int();
        t.counter("completed") + dead == all
    })
    .await;
    worker.stop().await;
    p.t.assert_every_job_has_one_home();
    assert!(p.t.diagnose(false).await.is_empty());
}

#[tokio::test]
async fn a_large_queue_is_looked_through_and_mended_in_small_steps() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let jobs = std::env::var("MILLSTREAM_BULK_JOBS").ok();
    let jobs = jobs.map_or(BULK_JOBS, |jobs| jobs.parse().expect("a number of jobs"));
    t.plant_dead(jobs, 1_600_000_000_000);
    t.enqueue_many(jobs / 2).await;
    let broken: Vec<String> = (0..jobs / 100)
        .map(|n| format!("{}-0", 1_600_000_000_000 + n * 100))
        .collect();
    for id in &broken {
        t.redis(&["HDEL", &t.key("payloads"), id]);
    }
    t.redis(&["CONFIG", "RESETSTAT"]);

    let (mut steps, mut most, mut before) = (0, 0, 0);
    let doctor = t.doctor().await.repair(true);
    let found = doctor.run(|_, looked| {
        steps += 1;
        most = most.max(looked - before);
        before = looked;
    });
    let found = of_queue(found.await.unwrap());

    let told: Vec<_> = found
        .iter()
        .map(|one| (one.code, one.count, one.repaired))
        .collect();
    let count = broken.len() as u64;
    assert_eq!(told, [("missing-payload", count, count)]);
    assert_eq!(found[0].examples.len(), 5);
    // A scan gives about as many as it is asked for; it may give twice as many where two share a bucket.
    assert!(most <= 3 * STEP as u64, "{most} in one step");
    assert!(steps >= 3 * jobs / STEP, "{steps} steps");
    assert!(t.diagnose(false).await.is_empty());
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn long_histories_are_looked_through_few_at_a_time() {
    const JOBS: usize = 60;
    let t = Fixture::new().await;
    // So few that Redis keeps the names of the dead in one piece, and their payloads too.
    t.plant_dead(JOBS, 1_600_000_000_000);
    t.lengthen_histories();
    for part in [Part::Dead, Part::Payloads, Part::Jobs] {
        let (mut cursor, mut looked) = (None, 0);
        loop {
            let step = t.broker.audit(part, cursor.as_deref(), 4, PATIENCE).await;
            let step = step.unwrap();
            // Records are a hash of its own, whose places may have several of them.
            let most = if part == Part::Jobs { 20 } else { 4 };
            assert!(step.looked <= most, "{part:?}: {} at once", step.looked);
            assert!(step.bytes >= step.looked * 8 * 40_960, "{part:?}: {step:?}");
            looked += step.looked;
            cursor = step.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert!(looked >= JOBS as u64, "{part:?}: {looked}");
    }
}

#[tokio::test]
async fn a_server_that_may_drop_jobs_is_named() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    t.redis(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let client = Millstream::builder(&t.url).allow_eviction(true);
    let client = client.connect().await.unwrap();

    let found = client.doctor().run(|_, _| ()).await.unwrap();

    assert!(!found.is_clean());
    let policy = found
        .findings
        .iter()
        .find(|one| one.code == "eviction-policy");
    let policy = policy.unwrap();
    assert!(
        policy.what.contains("allkeys-lru") && policy.queue.is_none(),
        "{policy:?}"
    );
    assert!(policy.todo.contains("noeviction"));
}

#[tokio::test]
async fn what_is_well_by_the_time_of_the_repair_is_left_alone() {
    let t = Fixture::new().await;
    let running = t.running(plain()).await;
    let dead = t.dead(plain()).await;
    let scheduled = t.enqueue(plain().delay(LATER)).await;
    let (back, entry) = t.handed_back().await;
    let jobs = [dead, scheduled, back, "no-such-job".into()];
    let jobs: Vec<String> = jobs.iter().map(ToString::to_string).collect();
    let entries = [entry, running.entry.to_string(), "1-1".to_owned()];
    let before = t.state_hash();

    for code in Doctor::codes() {
        for part in Part::all() {
            let ids = match part {
                Part::Entries(_) | Part::Pending(_) => &entries[..],
                _ => &jobs,
            };
            // Words that are none of the script's find nothing that ails from them.
            let mended = t.broker.mend(part, code, ids, PATIENCE).await.unwrap();
            assert_eq!(
                (mended, t.state_hash()),
                (0, before.clone()),
                "{code} {part:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_somebody_else_has_to_see_to_is_named_and_left_as_it_is() {
    let t = Fixture::new().await;
    t.enqueue(plain()).await;
    t.redis(&["ZADD", &t.key("cron:due"), "1600000000000", "nightly"]);
    let key = t.key("unique:k");
    t.redis(&["SET", &key, "no-such-job", "PX", "600000"]);
    for repair in [false, true] {
        let doctor = t.doctor().await.repair(repair);
        let found = doctor.run(|_, _| ()).await.unwrap().findings;
        for (code, level, example) in [
            ("no-worker", Level::Note, None),
            ("schedule-overdue", Level::Risk, Some("nightly")),
            ("unique-without-job", Level::Note, Some(&*key)),
        ] {
            let one = found.iter().find(|one| one.code == code);
            let one = one.unwrap_or_else(|| panic!("{code} is not in {found:?}"));
            assert_eq!(
                (one.level, one.count, one.repaired),
                (level, 1, 0),
                "{one:?}"
            );
            assert!(!one.repairable && !one.todo.is_empty(), "{one:?}");
            assert_eq!(one.examples.first().map(String::as_str), example);
        }
    }
    assert_eq!(t.redis(&["GET", &key]).text(), "no-such-job");
}

#[test]
fn everything_that_can_be_found_is_planted_by_a_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = std::fs::read_to_string(root.join("src/inspect/doctor/server.rs")).unwrap();
    for file in std::fs::read_dir(root.join("tests/it")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            tests += &std::fs::read_to_string(path).unwrap();
        }
    }
    for code in Doctor::codes() {
        assert!(tests.contains(&format!("\"{code}\"")), "{code}");
    }
}
