//! Limits of groups beyond their concurrency: how many jobs may wait, and how many may start in a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream::broker::{InTheWay, Promotion};
use millstream::inspect::{GroupLimits, QueueLimits};
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Error, JobError, JobId, NewJob, OnConflict, Priority, Rate};
use tokio::task::JoinSet;

use crate::support::program::{Program, QUICK, telling};
use crate::support::resp::Value;
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

fn of(group: &str) -> NewJob {
    plain().group(group)
}

impl Fixture {
    async fn enqueue_all(&self, jobs: &[NewJob]) -> Vec<JobId> {
        let enqueued = self.try_enqueue(jobs).await.unwrap();
        enqueued.into_iter().map(|job| job.id).collect()
    }

    fn states(&self, ids: &[JobId]) -> Vec<Option<State>> {
        ids.iter().map(|id| self.state_of(id)).collect()
    }

    async fn assert_group_full(&self, jobs: &[NewJob], expected: (&str, u64, u64, u64)) {
        let before = self.state_hash();
        match self.try_enqueue(jobs).await {
            Err(Error::GroupFull {
                queue,
                group,
                held,
                max_backlog,
                fitting,
            }) => assert_eq!(
                (queue, (&*group, held, max_backlog, fitting)),
                (self.queue.clone(), expected)
            ),
            other => panic!("{other:?}"),
        }
        assert_eq!(self.state_hash(), before, "a refusal changes nothing");
    }

    /// A rate that gives nothing within any test, so that a test says when it does.
    async fn rate_groups(&self, burst: u32) {
        self.limit(None, "group_rate", "1/h").await;
        self.limit(None, "group_burst", &burst.to_string()).await;
    }

    /// Lets the bucket of a group fill up, and its time come.
    fn refill(&self, group: &str) {
        let rates = self.key("rates");
        self.redis(&["ZREM", &rates, &format!("full\u{1f}{group}")]);
        self.redis(&["ZADD", &rates, "XX", "1", &format!("next\u{1f}{group}")]);
    }

    async fn admit_due(&self) -> u64 {
        let (admitted, wait) = self.broker.admit_due(100, PATIENCE).await.unwrap();
        assert_ne!(wait, Some(Duration::ZERO), "more to do than in any test");
        self.assert_every_job_has_one_home();
        admitted
    }

    /// Tokens that are missing in the bucket of a group with [`Fixture::rate_groups`].
    pub(crate) fn missing(&self, group: &str) -> i64 {
        let member = format!("full\u{1f}{group}");
        let full = self.redis(&["ZSCORE", &self.key("rates"), &member]);
        if full == Value::Nil {
            return 0;
        }
        let full_us = -full.text().parse::<f64>().unwrap();
        let left_s = full_us / 1e6 - self.now_ms() as f64 / 1e3;
        // The server's clock is read to the millisecond only, and a token comes once an hour.
        (left_s / 3600.0).round() as i64
    }
}

#[tokio::test]
async fn a_group_takes_no_more_held_jobs_than_it_may_and_others_what_they_like() {
    let t = Fixture::new().await;
    t.limit_groups(1).await;
    t.limit(None, "group_max_backlog", "2").await;

    t.assert_group_full(&vec![of("a"); 4], ("a", 0, 2, 3)).await;
    t.enqueue_all(&vec![of("a"); 3]).await;
    t.assert_group_full(&[of("b"), plain(), of("a")], ("a", 2, 2, 0))
        .await;

    t.enqueue_all(&[of("b"), plain(), of("b"), of("c")]).await;
    t.limit(Some("a"), "max_backlog", "3").await;
    t.enqueue(of("a")).await;
    t.assert_group_full(&[of("a")], ("a", 3, 3, 0)).await;
    let done = t.claim_one().await;
    t.complete(&[&done]).await;
    t.enqueue(of("a")).await;
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_makes_no_held_job_needs_no_room_in_a_full_group() {
    let t = Fixture::new().await;
    t.limit_groups(1).await;
    t.limit(None, "group_max_backlog", "1").await;
    let held = t.enqueue_all(&[of("a"), of("a").unique("k")]).await;

    let again = t.try_enqueue(&[of("a").unique("k")]).await.unwrap();
    assert!(again[0].duplicate && again[0].id == held[1]);
    let newer = of("a").unique("k").on_conflict(OnConflict::Replace);
    assert!(t.try_enqueue(&[newer]).await.unwrap()[0].replaced);
    let later = t.enqueue(of("a").delay(LATER)).await;
    t.assert_group_full(&[of("a").unique("free")], ("a", 1, 1, 0))
        .await;

    // What is in the queue moves on, however full the group is.
    t.make_due(&later);
    t.promote().await;
    assert_eq!(t.state_of(&later), Some(State::Held));
    t.assert_every_job_has_one_home();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_travel_together_are_refused_one_by_one() {
    let p = Program::new().await;
    p.t.limit_groups(1).await;
    p.t.limit(None, "group_max_backlog", "10").await;
    let mut calls = JoinSet::new();
    for nth in 0..200 {
        let (queue, group) = (p.queue.clone(), ["a", "b", "c", "d"][nth % 4]);
        calls.spawn(async move {
            let job = if group == "d" { plain() } else { of(group) };
            (group, queue.enqueue(job).await)
        });
    }

    let answers = calls.join_all().await;

    for group in ["a", "b", "c"] {
        let of_group = answers.iter().filter(|(of, _)| *of == group);
        let stored = of_group.clone().filter(|(_, answer)| answer.is_ok());
        assert_eq!(stored.count(), 11, "{group}");
        let full = |answer: &Result<_, Error>| matches!(answer, Err(Error::GroupFull { group: of, .. }) if of == group);
        assert_eq!(of_group.filter(|(_, answer)| full(answer)).count(), 39);
    }
    assert_eq!(p.t.counter("enqueued"), 3 * 11 + 50);
    p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_group_starts_no_more_than_its_bucket_holds_and_the_rest_when_it_fills() {
    let t = Fixture::new().await;
    t.rate_groups(2).await;

    let jobs = t.enqueue_all(&vec![of("a"); 5]).await;
    let other = t.enqueue_all(&vec![of("b"); 2]).await;

    use State::{Held, Ready};
    assert_eq!(t.states(&jobs), [Ready, Ready, Held, Held, Held].map(Some));
    assert_eq!(t.states(&other), [Some(Ready); 2]);
    assert_eq!(t.missing("a"), 2);
    assert_eq!(t.admit_due().await, 0, "its time has not come");
    t.refill("a");
    assert_eq!(t.admit_due().await, 2);
    assert_eq!(t.states(&jobs)[2..], [Ready, Ready, Held].map(Some));
    // Completion gives no tokens.
    let claimed = t.claim(10).await;
    t.complete(&claimed.iter().collect::<Vec<_>>()).await;
    assert_eq!(t.state_of(&jobs[4]), Some(Held));
    assert_eq!(t.admit().await, 0);
    t.refill("a");
    assert_eq!(t.admit_due().await, 1);
    assert_eq!(t.missing("a"), 1);
    assert_eq!(t.claim_one().await.id, jobs[4]);
}

#[tokio::test]
async fn a_job_costs_its_points_and_no_more_than_a_bucket_holds() {
    let t = Fixture::new().await;
    t.rate_groups(10).await;

    let jobs = [4, 6, 1, 100, 3].map(|points| of("a").cost(points));
    let jobs = t.enqueue_all(&jobs).await;

    use State::{Held, Ready};
    assert_eq!(t.states(&jobs), [Ready, Ready, Held, Held, Held].map(Some));
    t.refill("a");
    assert_eq!(t.admit_due().await, 1, "the next wants a full bucket");
    assert_eq!(t.missing("a"), 1);
    t.refill("a");
    assert_eq!(t.admit_due().await, 1);
    assert_eq!(t.missing("a"), 10);
    assert_eq!(t.states(&jobs)[2..], [Ready, Ready, Held].map(Some));
}

#[tokio::test]
async fn each_attempt_takes_a_token_and_a_job_that_comes_back_by_itself_takes_none() {
    let t = Fixture::new().await;
    t.rate_groups(2).await;
    let job = t.running(of("a")).await;

    assert_eq!(t.release(&job).await, []);
    let job = t.claim_one().await;
    let job = t.take_over(&job).await;
    assert_eq!(t.missing("a"), 1, "it has started once");
    let again = t.fail_once(&job, "boom").await;
    assert_eq!(t.missing("a"), 2);
    t.retry(&again, LATER, "boom").await.unwrap();
    t.make_due(&again.id);
    assert!(matches!(
        t.promote().await,
        Promotion::Promoted { rated: Some(_), .. }
    ));
    assert_eq!(t.state_of(&again.id), Some(State::Held));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_job_that_kept_its_slot_waits_in_front_for_tokens() {
    let t = Fixture::new().await;
    t.limit_groups(1).await;
    t.limit(None, "group_order", "block").await;
    t.rate_groups(1).await;
    let job = t.running(of("a")).await;
    let next = t.enqueue(of("a")).await;

    t.retry(&job, LATER, "boom").await.unwrap();
    t.make_due(&job.id);
    t.promote().await;

    assert_eq!(
        t.states(&[job.id.clone(), next.clone()]),
        [Some(State::Held); 2]
    );
    t.assert_every_job_has_one_home();
    t.refill("a");
    assert_eq!(t.admit_due().await, 1);
    assert_eq!(t.claim_one().await.id, job.id);
}

#[tokio::test]
async fn concurrency_and_rate_hold_together() {
    let t = Fixture::new().await;
    t.limit_groups(2).await;
    t.rate_groups(3).await;
    let jobs = t.enqueue_all(&vec![of("a"); 6]).await;

    let claimed = t.claim(10).await;
    assert_eq!(claimed.len(), 2, "two slots");
    t.complete(&claimed.iter().collect::<Vec<_>>()).await;
    let claimed = t.claim(10).await;
    assert_eq!(claimed.len(), 1, "two slots, one token");
    t.refill("a");
    assert_eq!(t.admit_due().await, 1, "one slot");
    // Its slots are taken, so it has no time to come: whoever gives one up lets the next in.
    let timer = t.redis(&["ZSCORE", &t.key("rates"), "next\u{1f}a"]);
    assert_eq!(timer, Value::Nil);
    t.complete(&claimed.iter().collect::<Vec<_>>()).await;
    assert_eq!(t.state_of(&jobs[4]), Some(State::Ready));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_clock_that_was_set_takes_no_more_than_one_filling_and_gives_no_more_either() {
    let t = Fixture::new().await;
    t.rate_groups(2).await;
    t.enqueue(of("a")).await;
    let (rates, full) = (t.key("rates"), "full\u{1f}a");
    // Full in thirty years: Redis's clock was thirty years ahead.
    let far = t.now_ms() as f64 * 1e3 + 1e15;
    t.redis(&["ZADD", &rates, &format!("-{far:.0}"), full]);

    let held = t.enqueue(of("a")).await;

    assert_eq!(t.state_of(&held), Some(State::Held));
    let timer = t.redis(&["ZSCORE", &rates, "next\u{1f}a"]);
    let wait_s = timer.text().parse::<f64>().unwrap() / 1e6 - t.now_ms() as f64 / 1e3;
    assert!(
        (3590.0..3610.0).contains(&wait_s),
        "{wait_s} s for one token"
    );
    // What is missing comes in from now on, and not once that clock is reached.
    t.redis(&["ZADD", &rates, "1", "next\u{1f}a"]);
    assert_eq!(t.admit_due().await, 0);
    assert_eq!(t.missing("a"), 2);
    t.limit(None, "rate", "1/h").await;
    t.redis(&["ZADD", &rates, &format!("-{far:.0}"), "full\u{1f}"]);
    assert_eq!(t.claim(1).await.len(), 0);
    assert_eq!(t.missing(""), 1);
    t.limit(None, "rate", "").await;
    // Full long ago: a bucket holds no more for that.
    t.redis(&["ZADD", &rates, "-1", full]);
    t.redis(&["ZADD", &rates, "1", "next\u{1f}a"]);
    assert_eq!(t.admit_due().await, 1);
    let more = t.enqueue_all(&vec![of("a"); 2]).await;
    assert_eq!(
        t.states(&more),
        [Some(State::Ready), Some(State::Held)],
        "one of two tokens was left"
    );
}

#[tokio::test]
async fn an_idle_group_leaves_nothing_behind() {
    let t = Fixture::new().await;
    t.limit(None, "group_rate", "1000000/s").await;
    let jobs: Vec<NewJob> = (0..500).map(|nth| of(&format!("g{nth}"))).collect();
    t.enqueue_all(&jobs).await;
    let claimed = t.claim(500).await;
    t.complete(&claimed.iter().collect::<Vec<_>>()).await;

    while t.broker.admit_due(200, PATIENCE).await.unwrap().1.is_some() {}

    let keys = t.redis(&["EXISTS", &t.key("rates"), &t.key("held"), &t.key("groups")]);
    assert_eq!(keys.int(), 0);
}

#[tokio::test]
async fn of_many_groups_that_are_due_at_once_each_gets_its_turn_in_small_steps() {
    let t = Fixture::new().await;
    t.rate_groups(1).await;
    let groups: Vec<String> = (0..300).map(|nth| format!("g{nth}")).collect();
    let jobs: Vec<NewJob> = groups.iter().flat_map(|group| vec![of(group); 3]).collect();
    t.enqueue_all(&jobs).await;
    groups.iter().for_each(|group| t.refill(group));

    let (first, wait) = t.broker.admit_due(100, PATIENCE).await.unwrap();
    assert_eq!((first, wait), (100, Some(Duration::ZERO)), "a bounded step");
    let (second, _) = t.broker.admit_due(100, PATIENCE).await.unwrap();
    let (third, wait) = t.broker.admit_due(100, PATIENCE).await.unwrap();

    assert_eq!(first + second + third, 300);
    assert!(wait > Some(Duration::from_secs(3000)), "{wait:?}");
    assert_eq!(t.claim(1000).await.len(), 600, "two of each");
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn while_the_queue_is_paused_no_group_with_a_rate_gathers_ready_jobs() {
    let t = Fixture::new().await;
    t.rate_groups(5).await;
    t.broker.pause(true, PATIENCE).await.unwrap();

    let jobs = t.enqueue_all(&vec![of("a"); 2]).await;
    assert_eq!(t.states(&jobs), [Some(State::Held); 2]);
    t.refill("a");
    assert_eq!(t.admit_due().await, 0);
    t.broker.pause(false, PATIENCE).await.unwrap();
    t.refill("a");
    assert_eq!(t.admit_due().await, 2);
}

#[tokio::test]
async fn a_rate_of_its_own_brings_its_own_burst() {
    let p = Program::new().await;
    let inspector = p.client.inspect(&p.t.queue).unwrap();
    let all = GroupLimits::new()
        .rate(Some(Rate::per_hour(3)))
        .burst(Some(4))
        .max_backlog(Some(9));
    inspector.set_group_limits(None, &all).await.unwrap();
    let own = GroupLimits::new().rate(Some(Rate::per_minute(60)));
    inspector.set_group_limits(Some("a"), &own).await.unwrap();
    p.t.enqueue_all(&vec![of("b"); 5]).await;

    let page = inspector.groups(10).await.unwrap();

    assert_eq!((page.rate, page.burst), (Some(Rate::per_hour(3)), Some(4)));
    let view = |group: &str| page.groups.iter().find(|view| view.group == group).unwrap();
    let a = view("a");
    assert_eq!(
        (a.rate, a.burst, a.max_backlog),
        (Some(Rate::per_minute(60)), Some(1), Some(9))
    );
    p.t.enqueue_all(&vec![of("a"); 2]).await;
    assert_eq!(p.t.claim(10).await.len(), 4 + 1);
    for nonsense in [
        GroupLimits::new().rate(Some(Rate::per_second(0))),
        GroupLimits::new().burst(Some(0)),
        GroupLimits::new().max_backlog(Some(0)),
    ] {
        let refused = inspector.set_group_limits(None, &nonsense).await;
        assert!(matches!(refused, Err(Error::Setting { .. })), "{refused:?}");
    }
    // What was held is let go when the rate is.
    let none = GroupLimits::new().rate(None);
    let admitted = inspector.set_group_limits(Some("a"), &none).await.unwrap();
    assert_eq!(admitted, 1, "four of all's bucket");
    p.t.assert_every_job_has_one_home();
}

/// In any stretch of time there are no more starts than what the bucket held at its beginning and what came in since, by the clock that
/// decides: the ids of the entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_start_jobs_of_a_group_no_faster_than_its_rate() {
    const JOBS: usize = 40;
    let p = Program::new().await;
    let (tell, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let worker = |rate: bool| {
        let worker = p.worker().concurrency(10).backoff(QUICK);
        let worker = if rate {
            worker.group_rate(Some(Rate::per_second(50))).group_burst(5)
        } else {
            worker
        };
        worker.handle_raw("job", telling(&tell))
    };
    let workers = [
        worker(true).start().await.unwrap(),
        worker(false).start().await.unwrap(),
    ];
    let jobs: Vec<NewJob> = (0..JOBS).map(|nth| of(["a", "b"][nth % 2])).collect();

    // Entries are deleted as their jobs are completed, so they are looked at on their way.
    let before = p.t.now_ms();
    p.queue.enqueue_all(jobs).await.unwrap();
    for _ in 0..JOBS {
        crate::support::program::next(&mut hear).await;
    }

    let took_ms = p.t.now_ms() - before;
    // Of each group 5 at once, 15 at 50 a second.
    assert!(took_ms >= 299, "{JOBS} jobs took {took_ms} ms");
    p.until_completed(JOBS as i64).await;
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn of_a_queue_run_no_more_jobs_at_once_than_its_concurrency_whoever_runs_them() {
    let t = Fixture::new().await;
    t.suspect(plain()).await;
    let back = t.running(plain()).await;
    t.release(&back).await;
    t.enqueue_many(5).await;
    t.limit(None, "concurrency", "3").await;

    let claimed = t.claim_as("a", 2).await;
    assert_eq!(claimed.len(), 2);
    let suspect = t.claim_suspect("a").await.expect("one place is left");
    assert_eq!(t.claim_as("b", 5).await.len(), 0, "suspects count");
    assert!(t.claim_suspect("b").await.is_none());
    t.complete(&[&suspect]).await;
    assert_eq!(t.claim_as("b", 5).await.len(), 1);

    // A worker that dies keeps its places until its leases are over, and no longer.
    claimed.iter().for_each(|job| t.let_lease_lapse(job));
    assert_eq!(t.claim_as("b", 5).await.len(), 0);
    assert_eq!(t.sweep().await, (2, 0));
    assert_eq!(t.claim_as("b", 5).await.len(), 2);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn of_a_queue_start_no_more_jobs_than_its_bucket_holds_and_none_pays_twice() {
    let t = Fixture::new().await;
    t.limit(None, "rate", "1/h").await;
    t.limit(None, "burst", "3").await;
    t.enqueue_many(6).await;
    t.enqueue(plain().priority(Priority::High)).await;

    let claimed = t.broker.claim_limited("a", 0, 10, PATIENCE).await.unwrap();
    assert_eq!(claimed.0.len(), 3);
    assert!(matches!(claimed.1, InTheWay::Rate(_)), "{:?}", claimed.1);
    assert_eq!(t.claim_as("b", 10).await.len(), 0);
    assert_eq!(t.missing(""), 3);
    let first = &claimed.0[0];
    assert_eq!(t.release(first).await, []);
    assert_eq!(t.claim_one().await.id, first.id, "it had its token");
    t.refill("");
    assert_eq!(t.claim(2).await.len(), 2);
    assert_eq!(t.claim(10).await.len(), 1);
    assert_eq!(t.missing(""), 3);
    t.limit(None, "rate", "").await;
    assert_eq!(t.claim(10).await.len(), 1);
    let (none, why) = t.broker.claim_limited("a", 0, 10, PATIENCE).await.unwrap();
    assert_eq!((none.len(), why), (0, InTheWay::Nothing(Vec::new())));
    t.assert_every_job_has_one_home();
}

/// How many handlers were at work at once, at most.
#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Gauge {
    async fn pass(self: Arc<Self>) -> Result<(), JobError> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(3)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_that_run_already_keep_to_a_concurrency_that_is_set() {
    const JOBS: i64 = 60;
    // Of its own, for its list of clients.
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let gauge = Arc::new(Gauge::default());
    let mut workers = Vec::new();
    for _ in 0..3 {
        let gauge = Arc::clone(&gauge);
        let worker = p.worker().concurrency(10);
        let worker = worker.handle_raw("job", move |_: Context| Arc::clone(&gauge).pass());
        workers.push(worker.start().await.unwrap());
    }
    let waiting = |t: &Fixture, command: &str| {
        let clients = t.redis(&["CLIENT", "LIST"]);
        let command = format!("cmd={command} ");
        let clients = clients.text().lines();
        clients
            .filter(|client| client.contains(&command) && client.contains("flags=b"))
            .count()
    };
    p.until("they wait for jobs", |t| waiting(t, "xreadgroup") == 3)
        .await;

    let limits = QueueLimits::new().concurrency(Some(2));
    let inspector = p.client.inspect(&p.t.queue).unwrap();
    inspector.set_queue_limits(&limits).await.unwrap();
    p.until("they take nothing unasked", |t| waiting(t, "xread") == 3)
        .await;
    p.queue
        .enqueue_all(vec![plain(); JOBS as usize])
        .await
        .unwrap();
    p.until_completed(JOBS).await;

    assert_eq!(gauge.most.load(Ordering::SeqCst), 2);
    inspector
        .set_queue_limits(&QueueLimits::new().concurrency(None))
        .await
        .unwrap();
    p.until("they read again", |t| waiting(t, "xreadgroup") == 3)
        .await;
    for worker in workers {
        worker.stop().await;
    }
    p.t.assert_every_job_has_one_home();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_of_several_processes_start_jobs_of_a_queue_no_faster_than_its_rate() {
    const JOBS: i64 = 30;
    let p = Program::new().await;
    let mut workers = Vec::new();
    for _ in 0..2 {
        let worker = p
            .worker()
            .queue_rate(Some(Rate::per_second(100)))
            .queue_burst(5);
        let worker = worker.handle_raw("job", |_: Context| std::future::ready(Ok(())));
        workers.push(worker.start().await.unwrap());
    }
    let before = p.t.now_ms();

    p.queue
        .enqueue_all(vec![plain(); JOBS as usize])
        .await
        .unwrap();
    p.until_completed(JOBS).await;

    let took_ms = p.t.now_ms() - before;
    assert!(
        took_ms >= 249,
        "5 at once and 25 at 100 a second in {took_ms} ms"
    );
    for worker in workers {
        worker.stop().await;
    }
}

/// What others use costs those nothing who do not: their calls are the same commands, whatever is limited and held beside them.
#[tokio::test]
async fn a_plain_job_pays_no_command_for_what_it_does_not_use() {
    // Of its own, for its counts.
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let jobs = vec![plain(); 100];
    let life = async || {
        t.redis(&["CONFIG", "RESETSTAT"]);
        let stored = t.try_enqueue(&jobs).await.unwrap();
        let enqueued = t.redis(&["INFO", "commandstats"]);
        let mut claimed = t.claim(1000).await;
        // The one of the group that is ready is no part of this.
        claimed.retain(|job| stored.iter().any(|stored| stored.id == job.id));
        assert_eq!(claimed.len(), 100);
        t.redis(&["CONFIG", "RESETSTAT"]);
        t.complete(&claimed.iter().collect::<Vec<_>>()).await;
        let completed = t.redis(&["INFO", "commandstats"]);
        [enqueued, completed].map(|stats| calls_in(stats.text()))
    };
    let alone = life().await;

    t.dead(plain()).await;
    t.limit_groups(2).await;
    t.limit(None, "group_rate", "1/h").await;
    t.limit(Some("a"), "max_backlog", "500").await;
    t.enqueue_all(&vec![of("a"); 100]).await;
    t.enqueue(plain().delay(LATER)).await;
    let beside_others = life().await;

    assert_eq!(alone, beside_others);
    for (calls, most) in alone.iter().zip([100 + 5, 11]) {
        let sum: u64 = calls.values().sum();
        assert!(sum <= most, "{sum} of at most {most}: {calls:?}");
    }
}

/// Command -> how often it was called; not what the test itself asks, nor what a connection is made with, nor whether a stream could be
/// cut, which is a matter of what else is running.
fn calls_in(stats: &str) -> BTreeMap<String, u64> {
    let rows = stats.lines().filter_map(|line| {
        let (command, counts) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = counts.strip_prefix("calls=")?.split(',').next()?;
        Some((command.to_owned(), calls.parse().ok()?))
    });
    let others = ["info", "config|resetstat", "client|id", "xtrim"];
    let own = |command: &String| others.contains(&command.as_str());
    rows.filter(|(command, _)| !own(command)).collect()
}

/// Groups come and go, and what is kept of them goes as well: memory is back where it was.
#[tokio::test]
#[ignore = "takes a minute"]
async fn many_groups_cost_nothing_once_their_jobs_are_done() {
    const GROUPS: usize = 100_000;
    // They fill what Redis and its scripts keep for themselves.
    const FIRST_GROUPS: usize = 10_000;
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    t.limit_groups(1).await;
    t.limit(None, "group_rate", "1000/s").await;
    let used = || {
        // The last answer of each caller is kept for a time, and each call of the test is a caller.
        t.redis(&["DEL", &t.key("producers")]);
        let info = t.redis(&["INFO", "memory"]);
        let line = info
            .text()
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        line.unwrap().trim().parse::<i64>().unwrap()
    };
    let mut peak = 0;
    let mut before = 0;
    for (round, groups) in [FIRST_GROUPS, GROUPS].into_iter().enumerate() {
        before = used();
        for from in (0..groups).step_by(500) {
            let jobs = (from..from + 500).flat_map(|nth| vec![of(&format!("g{round}-{nth}")); 2]);
            t.enqueue_all(&jobs.collect::<Vec<_>>()).await;
        }
        peak = used();
        loop {
            let claimed = t.claim(1000).await;
            if !claimed.is_empty() {
                t.complete(&claimed.iter().collect::<Vec<_>>()).await;
            }
            let (admitted, wait) = t.broker.admit_due(1000, PATIENCE).await.unwrap();
            if claimed.is_empty() && admitted == 0 && wait.is_none() {
                break;
            }
        }
    }

    let after = used();
    eprintln!("{GROUPS} groups: {before} bytes before, {peak} with two jobs each, {after} after");
    let keys = t.redis(&[
        "EXISTS",
        &t.key("rates"),
        &t.key("held"),
        &t.key("groups"),
        &t.key("jobs"),
    ]);
    assert_eq!(keys.int(), 0);
    assert!(
        after - before < 1 << 20,
        "{before} bytes before, {after} after"
    );
}
