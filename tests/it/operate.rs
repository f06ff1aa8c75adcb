//! Long work of operators: in steps that hold nobody up, each job once, however much there is and whoever works meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millstream::broker::Caller;
use millstream::config::{OPERATOR_BATCH, REDRIVE_BATCH};
use millstream::inspect::{Inspector, JobFilter};
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Context, Error, JobError, JobId, Millstream, NewJob};
use tokio_util::sync::CancellationToken;

use crate::support::program::Program;
use crate::support::resp::Value;
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

/// How many dead jobs there are; `MILLSTREAM_BULK_JOBS` says otherwise.
const BULK_JOBS: usize = 5_000;
/// Dead jobs that one look reads.
const LOOK: usize = 500;

fn bulk_jobs() -> usize {
    let given = std::env::var("MILLSTREAM_BULK_JOBS").ok();
    given.map_or(BULK_JOBS, |jobs| jobs.parse().expect("a number of jobs"))
}

impl Fixture {
    pub(crate) async fn inspector(&self) -> Inspector {
        let client = Millstream::connect(&self.url).await.unwrap();
        client.inspect(&self.queue).unwrap()
    }

    /// Dead jobs by the thousand, past the engine, one a millisecond from `from_ms` on.
    pub(crate) fn plant_dead(&self, jobs: usize, from_ms: usize) {
        const PLANT: &str = "for i = ARGV[1], ARGV[2] do
            local id = string.format('%.0f-0', i)
            redis.call('HSET', KEYS[2], id, cjson.encode({ state = 'dead', name = 'job', attempt = 1, meta = cjson.encode({ id = id }),
                reason = 'refused', payload_bytes = 7 }))
            redis.call('HSET', KEYS[3], id, 'payload')
            redis.call('ZADD', KEYS[1], i, id)
        end
        for _, counter in ipairs({ 'enqueued', 'dead' }) do
            redis.call('HINCRBY', KEYS[4], counter, ARGV[2] - ARGV[1] + 1)
        end";
        let keys = ["dead", "jobs", "payloads", "stats"].map(|suffix| self.key(suffix));
        for from in (from_ms..from_ms + jobs).step_by(5_000) {
            let until = (from + 5_000).min(from_ms + jobs) - 1;
            let mut command = vec!["EVAL".to_owned(), PLANT.to_owned(), "4".to_owned()];
            command.extend(keys.clone());
            command.extend([from.to_string(), until.to_string()]);
            self.redis(&command);
        }
    }

    /// Gives every job that has a record as much as is kept of one that failed ten times or more, each time with a long answer.
    pub(crate) fn lengthen_histories(&self) {
        let grow = "for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
            local record = cjson.decode(redis.call('HGET', KEYS[1], id))
            record.errors = {}
            for i = 1, 10 do record.errors[i] = { at_ms = i, attempt = i, error = string.rep('e', 4096) } end
            redis.call('HSET', KEYS[1], id, cjson.encode(record))
        end";
        self.redis(&["EVAL", grow, "1", &self.key("jobs")]);
    }

    /// The details of the newest event of this kind.
    fn told_last(&self, kind: &str) -> String {
        let events = self.redis(&["XREVRANGE", &self.key("events"), "+", "-"]);
        let event = events.list().iter().map(|event| &event.list()[1]);
        let mut event = event.filter(|fields| fields.field("event").text() == kind);
        event
            .next()
            .expect("an event")
            .field("detail")
            .text()
            .to_owned()
    }

    pub(crate) fn commands(&self, name: &str) -> usize {
        let info = self.redis(&["INFO", "commandstats"]);
        let line = format!("cmdstat_{name}:calls=");
        let calls = info
            .text()
            .lines()
            .find_map(|text| text.strip_prefix(&*line));
        let calls = calls.and_then(|rest| rest.split(',').next()?.parse().ok());
        calls.unwrap_or(0)
    }
}

async fn walked(inspector: &Inspector, filter: &JobFilter) -> Vec<JobId> {
    let mut walk = inspector.walk_dead(filter).await.unwrap();
    let mut ids = Vec::new();
    while let Some(step) = walk.next(LOOK).await.unwrap() {
        assert!(step.looked as usize <= LOOK);
        ids.extend(step.ids);
    }
    ids
}

#[tokio::test]
async fn many_dead_jobs_are_redriven_and_purged_in_small_steps_and_events_keep_their_room() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let inspector = t.inspector().await;
    // Something that the steps must not push out.
    inspector.pause().await.unwrap();
    let jobs = bulk_jobs();
    for (kind, counter) in [("redriven", "redriven"), ("purged", "purged")] {
        t.plant_dead(jobs, 1_600_000_000_000);
        t.redis(&["CONFIG", "RESETSTAT"]);
        let mut walk = inspector.walk_dead(&JobFilter::new()).await.unwrap();
        assert_eq!(walk.total().await.unwrap(), jobs as u64);
        while let Some(step) = walk.next(LOOK).await.unwrap() {
            match kind {
                "redriven" => inspector.redrive(&step.ids).await.unwrap(),
                _ => inspector.purge(&step.ids).await.unwrap(),
            };
        }

        // One script a step, and no step larger than it may be.
        let batch = if kind == "redriven" {
            REDRIVE_BATCH
        } else {
            OPERATOR_BATCH
        };
        let steps = jobs / LOOK * LOOK.div_ceil(batch);
        assert_eq!(t.commands("evalsha") + t.commands("eval"), steps, "{kind}");
        assert_eq!(t.told_last(kind), format!("{jobs} jobs in {steps} steps"));
        assert_eq!(t.counter(counter), jobs as i64);
        assert_eq!(t.redis(&["ZCARD", &t.key("dead")]), Value::Int(0));
        t.redis(&["DEL", &t.key("ready"), &t.key("jobs"), &t.key("payloads")]);
    }
    let told: Vec<String> = t.events().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(told, ["paused", "redriven", "purged"]);
}

/// What an operator does to many dead jobs.
#[derive(Clone, Copy, Debug)]
enum Bulk {
    Redrive,
    Prune,
    Purge,
}

impl Bulk {
    /// Does it to all of them, as the commands do.
    async fn run(self, inspector: &Inspector) -> u64 {
        let mut done = 0;
        if let Self::Prune = self {
            let mut walk = inspector.walk_prune(None, Some(Duration::ZERO));
            while let Some(step) = walk.next(OPERATOR_BATCH).await.unwrap() {
                done += step.dead;
            }
            return done;
        }
        let mut walk = inspector.walk_dead(&JobFilter::new()).await.unwrap();
        while let Some(step) = walk.next(LOOK).await.unwrap() {
            done += match self {
                Self::Redrive => inspector.redrive(&step.ids).await.unwrap(),
                _ => inspector.purge(&step.ids).await.unwrap(),
            };
        }
        done
    }
}

impl Fixture {
    /// Adds how long Redis was at each call of a script that looks after the dead since this was last asked, microseconds, by
    /// how many keys the script has: that is what tells one from another.
    fn note_durations(&self, by_keys: &mut BTreeMap<String, Vec<i64>>) {
        let dead = self.key("dead");
        // At once, so that no call is between them.
        self.redis(&["MULTI"]);
        self.redis(&["SLOWLOG", "GET", "-1"]);
        self.redis(&["SLOWLOG", "RESET"]);
        let both = self.redis(&["EXEC"]);
        for entry in both.list()[0].list() {
            let [_, _, Value::Int(duration), command, ..] = entry.list() else {
                panic!("{entry:?}");
            };
            let words: Vec<&str> = command.list().iter().take(4).map(Value::text).collect();
            if let [name, _, keys, first] = words[..]
                && name.eq_ignore_ascii_case("evalsha")
                && first == dead
            {
                by_keys.entry(keys.to_owned()).or_default().push(*duration);
            }
        }
    }

    /// Seconds of processor time that Redis's one thread of commands has had.
    pub(crate) fn redis_seconds(&self) -> f64 {
        let info = self.redis(&["INFO", "cpu"]);
        let of = |kind: &str| -> f64 {
            let name = format!("used_cpu_{kind}_main_thread:");
            let line = info
                .text()
                .lines()
                .find_map(|line| line.strip_prefix(&*name));
            line.unwrap().parse().unwrap()
        };
        of("user") + of("sys")
    }
}

/// Redrives, prunes and purges `jobs` dead jobs each, beside a worker that is busy with others of the same queue, and says how
/// long Redis was at each step.
async fn bulk_beside_workers(jobs: usize) {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let t = &p.t;
    // Every command is noted with its duration.
    t.redis(&["CONFIG", "SET", "slowlog-max-len", "1000000"]);
    let worker = p.worker().concurrency(50);
    let worker = worker.fallback(async |_: Context| Ok::<_, JobError>(()));
    let worker = worker.start().await.unwrap();
    let inspector = t.inspector().await;
    let mut completed = 0;
    for bulk in [Bulk::Redrive, Bulk::Prune, Bulk::Purge] {
        // Not so old that the worker prunes them by itself.
        let hour_ago = t.now_us() / 1_000 - 3_600_000;
        t.plant_dead(jobs, usize::try_from(hour_ago).unwrap() - jobs);
        t.redis(&["SLOWLOG", "RESET"]);
        t.redis(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
        let (cpu, began) = (t.redis_seconds(), std::time::Instant::now());
        let stop = CancellationToken::new();
        let others = async {
            let (mut others, mut noted) = (0, BTreeMap::new());
            while !stop.is_cancelled() {
                others += t.enqueue_many(100).await.len() as i64;
                // As much as a worker of an unoptimised build does beside the redriven ones.
                tokio::time::sleep(Duration::from_millis(50)).await;
                t.note_durations(&mut noted);
            }
            (others, noted)
        };
        let bulk_work = async {
            let done = bulk.run(&inspector).await;
            stop.cancel();
            done
        };
        let (done, (others, mut noted)) = tokio::join!(bulk_work, others);
        t.redis(&["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
        let (took, cpu) = (began.elapsed(), t.redis_seconds() - cpu);

        assert_eq!(done, jobs as u64, "{bulk:?}");
        completed += others
            + if let Bulk::Redrive = bulk {
                jobs as i64
            } else {
                0
            };
        t.note_durations(&mut noted);
        let mut steps = noted.into_values().max_by_key(Vec::len).unwrap();
        steps.sort_unstable();
        // The worker prunes as well.
        assert!(
            steps.len() >= jobs.div_ceil(OPERATOR_BATCH),
            "{bulk:?}: {} calls are noted",
            steps.len()
        );
        let at = |share: usize| steps[(steps.len() * share / 1_000).min(steps.len() - 1)];
        let long = steps.iter().filter(|micros| **micros > 5_000).count();
        println!(
            "{bulk:?}: {jobs} jobs in {took:.1?} beside {others} others, {} steps: p50 {} us, p99 {} us, p99.9 {} us, max {} us, \
             {long} over 5 ms; Redis had {cpu:.1} s of processor in all",
            steps.len(),
            at(500),
            at(990),
            at(999),
            at(1_000),
        );
        t.redis(&["SLOWLOG", "RESET"]);
        let mut before = -1;
        while t.counter("completed") < completed {
            // However many there are: it must only go on.
            p.until("the worker goes on", |t| t.counter("completed") > before)
                .await;
            before = t.counter("completed");
        }
    }
    worker.stop().await;
    // The dead are planted past the engine, and pruned past the counters.
    t.expect_unbooked(-(jobs as i64));
    t.assert_every_job_has_one_home();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_dead_jobs_are_redriven_pruned_and_purged_while_workers_run() {
    bulk_beside_workers(2_050).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; MILLSTREAM_DEAD_JOBS says of how many jobs, else a million. With --nocapture it says how long each step took"]
async fn a_million_dead_jobs_are_redriven_pruned_and_purged_while_workers_run() {
    let given = std::env::var("MILLSTREAM_DEAD_JOBS").ok();
    let jobs = given.map_or(1_000_000, |jobs| jobs.parse().expect("a number of jobs"));
    bulk_beside_workers(jobs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_die_again_while_they_are_redriven_are_redriven_once() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let jobs = bulk_jobs().min(20_000);
    p.t.plant_dead(jobs, 1_600_000_000_000);
    let worker = p.worker().concurrency(50);
    let worker = worker.fallback(async |_| Err::<(), _>(JobError::refuse("no")));
    let worker = worker.start().await.unwrap();
    let inspector = p.t.inspector().await;

    let mut walk = inspector.walk_dead(&JobFilter::new()).await.unwrap();
    while let Some(step) = walk.next(LOOK).await.unwrap() {
        inspector.redrive(&step.ids).await.unwrap();
    }

    p.until("all are dead again", |t| {
        t.counter("dead") == 2 * jobs as i64
    })
    .await;
    assert_eq!(p.t.counter("redriven"), jobs as i64);
    worker.stop().await;
    p.t.assert_every_job_has_one_home();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_moves_is_found_wherever_it_is() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain().max_attempts(1_000_000)).await;
    let inspector = t.inspector().await;
    let (stop, seen) = (CancellationToken::new(), id.clone());
    let looking = async {
        let mut states = BTreeSet::new();
        for _ in 0..400 {
            let job = inspector.show(&seen).await.expect("it is somewhere");
            states.insert(job.state.to_string());
        }
        stop.cancel();
        states
    };
    // Ready, running, scheduled, ready, and so on, each under another entry.
    let moving = async {
        let mut caller = Caller::new("mover");
        while !stop.is_cancelled() {
            for delivery in t.claim(1).await {
                let soon = Duration::from_millis(1);
                let moved = t.broker.retry(&mut caller, &delivery, soon, None, PATIENCE);
                moved.await.unwrap();
            }
            t.promote().await;
        }
    };
    let (states, ()) = tokio::join!(looking, moving);
    assert!(states.len() > 1, "it was seen only {states:?}");
    assert!(matches!(
        inspector.show(&"no-such-job".into()).await,
        Err(Error::NotFound { .. })
    ));
}

#[tokio::test]
async fn dead_jobs_with_long_histories_are_redriven_few_at_a_time() {
    const JOBS: usize = 100;
    // Its own, for its commands are counted.
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let inspector = t.inspector().await;
    t.plant_dead(JOBS, 1_600_000_000_000);
    t.lengthen_histories();
    let mut walk = inspector.walk_dead(&JobFilter::new()).await.unwrap();
    let step = walk.next(LOOK).await.unwrap().unwrap();
    t.redis(&["CONFIG", "RESETSTAT"]);

    assert_eq!(inspector.redrive(&step.ids).await.unwrap(), JOBS as u64);

    // 40 KiB each: four of them are all that a call takes on.
    assert_eq!(t.commands("evalsha") + t.commands("eval"), JOBS / 4);
    assert_eq!(t.counter("redriven"), JOBS as i64);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn jobs_with_large_payloads_are_removed_few_at_a_time() {
    const JOBS: usize = 40;
    // Its own, for its commands are counted.
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let inspector = t.inspector().await;
    let plant = || {
        t.plant_dead(JOBS, 1_600_000_000_000);
        let grow = "for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
            redis.call('HSET', KEYS[1], id, string.rep('p', 1048576)) end";
        t.redis(&["EVAL", grow, "1", &t.key("payloads")]);
        t.redis(&["CONFIG", "RESETSTAT"]);
    };
    let scripts = || t.commands("evalsha") + t.commands("eval");
    plant();
    let all = walked(&inspector, &JobFilter::new()).await;
    assert_eq!(inspector.purge(&all).await.unwrap(), JOBS as u64);
    // 16 MiB each.
    assert_eq!((scripts(), t.counter("purged")), (3, JOBS as i64));

    plant();
    let mut walk = inspector.walk_prune(None, Some(Duration::ZERO));
    let mut steps = Vec::new();
    while let Some(step) = walk.next(100).await.unwrap() {
        steps.push(step.dead);
    }
    assert_eq!(steps, [16, 16, 8]);
    t.expect_unbooked(-(JOBS as i64));

    // What is on a stream has to be read, so it is one at a time.
    let large = NewJob::raw("job", vec![b'p'; 1_000_000]).group("shop");
    for _ in 0..3 {
        t.enqueue(large.clone()).await;
    }
    t.redis(&["CONFIG", "RESETSTAT"]);
    let mut walk = inspector.walk_group_purge("shop", false).unwrap();
    while walk.step().await.unwrap() {}
    assert_eq!(walk.purged().total(), 3);
    // Two of less than 1 MiB together, one, and the event.
    assert_eq!(scripts(), 3);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_listing_feels_its_way_through_large_jobs() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let inspector = t.inspector().await;
    for _ in 0..20 {
        t.enqueue(NewJob::raw("job", vec![b'p'; 500_000])).await;
    }
    t.redis(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    t.redis(&["CONFIG", "SET", "slowlog-max-len", "1000"]);
    let jobs = inspector.list(Some(State::Ready), 100).await.unwrap();
    assert_eq!(jobs.len(), 20);
    let noted = t.redis(&["SLOWLOG", "GET", "-1"]);
    let commands = noted.list().iter().map(|entry| entry.list()[3].list());
    let counts: Vec<i64> = commands
        .filter(|command| command[0].text() == "XRANGE" && command[1].text() == t.key("ready"))
        .map(|command| command.last().unwrap().int())
        .collect();
    // The newest first; two of them make a megabyte.
    assert_eq!(counts.last(), Some(&1));
    assert!(counts.iter().all(|count| *count <= 2), "{counts:?}");
}

#[tokio::test]
async fn a_walk_that_was_broken_off_is_finished_by_the_next_one() {
    let t = Fixture::new().await;
    let inspector = t.inspector().await;
    t.plant_dead(1_200, 1_600_000_000_000);
    let mut walk = inspector.walk_dead(&JobFilter::new()).await.unwrap();
    let step = walk.next(LOOK).await.unwrap().unwrap();
    inspector.redrive(&step.ids).await.unwrap();
    drop(walk);

    assert_eq!(walked(&inspector, &JobFilter::new()).await.len(), 700);
    let pruned = inspector.prune(None, Some(Duration::ZERO), true).await;
    assert_eq!(pruned.unwrap().dead, 700);
    let mut walk = inspector.walk_prune(None, Some(Duration::ZERO));
    assert_eq!(walk.next(300).await.unwrap().unwrap().dead, 300);
    drop(walk);
    let mut walk = inspector.walk_prune(None, Some(Duration::ZERO));
    let mut steps = Vec::new();
    while let Some(step) = walk.next(300).await.unwrap() {
        steps.push(step.dead);
    }
    assert_eq!(steps, [300, 100]);
    // The dead are pruned past the counters.
    t.expect_unbooked(-700);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn the_dead_are_found_by_name_group_error_reason_and_age() {
    let t = Fixture::new().await;
    let inspector = t.inspector().await;
    let job = |name: &str, group: &str| NewJob::raw(name, "payload").group(group);
    let a = t.running(job("a", "g")).await;
    t.dead_letter(&a, "connection refused by shop")
        .await
        .unwrap();
    let b = t.dead(job("b", "g")).await;
    let c = t.dead(job("a", "h")).await;
    let (a, all) = (a.id, JobFilter::new());
    let hour_ago = (t.now_us() / 1000 - 3_600_000).to_string();
    t.redis(&["ZADD", &t.key("dead"), &hour_ago, c.as_str()]);
    let minute = Duration::from_secs(60);
    for (filter, fit) in [
        (all.clone(), vec![&c, &a, &b]),
        (all.clone().name("a"), vec![&c, &a]),
        (all.clone().group("g"), vec![&a, &b]),
        (all.clone().name("a").group("g"), vec![&a]),
        (all.clone().error("connection refused"), vec![&a]),
        (all.clone().reason("refused"), vec![&c, &a, &b]),
        (all.clone().reason("attempts"), vec![]),
        (all.clone().older_than(minute), vec![&c]),
        (all.clone().newer_than(minute), vec![&a, &b]),
        (all.clone().newer_than(minute).name("a"), vec![&a]),
        (all.clone().older_than(2 * LATER), vec![]),
    ] {
        let found = walked(&inspector, &filter).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), fit, "{filter:?}");
    }
    let ids = [a, "no-such-job".into()];
    assert_eq!(inspector.are_dead(&ids).await.unwrap(), [true, false]);
}

#[tokio::test]
async fn a_listing_goes_on_where_its_page_ended() {
    let t = Fixture::new().await;
    let inspector = t.inspector().await;
    let mut all = BTreeSet::new();
    let running = t.enqueue_many(3).await;
    all.extend(running.clone());
    assert_eq!(t.claim(3).await.len(), 3);
    all.extend(t.enqueue_many(40).await);
    for _ in 0..3 {
        all.insert(t.enqueue(plain().delay(LATER).group("g")).await);
    }
    t.plant_dead(3, 1_600_000_000_000);
    all.extend((0..3).map(|n| JobId::from(format!("{}-0", 1_600_000_000_000_u64 + n))));

    let every = JobFilter::new();
    for limit in [1, 2, 7, 100] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = inspector.page(&every, after.as_deref(), limit).await;
            let page = page.unwrap();
            assert!(page.jobs.len() <= limit);
            found.extend(page.jobs.into_iter().map(|job| job.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), all.len(), "{limit}");
        assert_eq!(BTreeSet::from_iter(found), all, "{limit}");
    }
    // The cursor of a job will do as well, and one in the middle of a look is kept.
    let filter = JobFilter::new().state(State::Scheduled).group("g");
    let page = inspector.page(&filter, None, 1).await.unwrap();
    let cursor = page.jobs[0].cursor.clone();
    assert_eq!(cursor, page.next);
    let rest = inspector
        .page(&filter, cursor.as_deref(), 10)
        .await
        .unwrap();
    assert_eq!((rest.jobs.len(), rest.next), (2, None));
    let refused = inspector.page(&filter, Some("nowhere"), 1).await;
    assert!(matches!(refused, Err(Error::Setting { .. })), "{refused:?}");
}

#[tokio::test]
async fn jobs_that_are_due_in_one_millisecond_are_listed_in_the_order_of_its_eighths() {
    let t = Fixture::new().await;
    let inspector = t.inspector().await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(t.enqueue(plain().delay(LATER)).await);
    }
    // The job with the greatest id is due first.
    ids.reverse();
    for (eighth, id) in ids.iter().enumerate() {
        let due = format!("{}", 1_600_000_000_000.0 + eighth as f64 / 8.0);
        t.redis(&["ZADD", &t.key("scheduled"), &due, id.as_str()]);
    }
    let filter = JobFilter::new().state(State::Scheduled);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = inspector.page(&filter, after.as_deref(), 2).await.unwrap();
        let Some(last) = page.jobs.last() else { break };
        // The cursor's own place is taken away, so the listing has to find where it was.
        t.redis(&["ZREM", &t.key("scheduled"), last.id.as_str()]);
        found.extend(page.jobs.into_iter().map(|job| (job.id, job.due_ms)));
        after = page.next;
    }
    // Told in whole milliseconds, and never sooner than it is.
    let due = |at: usize| Some(1_600_000_000_000 + u64::from(at > 0));
    let expected = ids.into_iter().enumerate();
    assert_eq!(
        found,
        expected.map(|(at, id)| (id, due(at))).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn jobs_that_died_in_the_same_millisecond_are_all_listed_whoever_leaves_meanwhile() {
    const JOBS: usize = 1_300;
    let t = Fixture::new().await;
    let inspector = t.inspector().await;
    t.plant_dead(JOBS, 1_600_000_000_000);
    let same = "for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do redis.call('ZADD', KEYS[1], 17, id) end";
    t.redis(&["EVAL", same, "1", &t.key("dead")]);
    let mut walk = inspector.walk_dead(&JobFilter::new()).await.unwrap();
    let mut seen = Vec::new();
    while let Some(step) = walk.next(LOOK).await.unwrap() {
        // Where the walk stands is taken away: it must find its place among so many of the same age.
        t.redis(&["ZREM", &t.key("dead"), step.ids.last().unwrap().as_str()]);
        seen.extend(step.ids);
    }
    assert_eq!(seen.len(), JOBS);
    assert_eq!(BTreeSet::from_iter(seen).len(), JOBS);
}

#[tokio::test]
async fn a_record_that_somebody_broke_does_not_end_a_listing() {
    let t = Fixture::new().await;
    let inspector = t.inspector().await;
    let (broken, whole) = (t.dead(plain()).await, t.dead(plain()).await);
    t.redis(&["HSET", &t.key("jobs"), broken.as_str(), "no json"]);

    let listed = inspector.list(Some(State::Dead), 10).await.unwrap();

    let ids: Vec<&JobId> = listed.iter().map(|job| &job.id).collect();
    assert_eq!(ids, [&broken, &whole]);
    assert_eq!(listed[0].name, "(unreadable record)");
}
