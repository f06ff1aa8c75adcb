//! Priorities: which of the waiting jobs runs first, on every way to a lane; that none waits for ever; and that a queue without
//! priorities pays nothing for them.

use std::time::Duration;

use millstream::broker::doctor::Part;
use millstream::broker::{Delivery, Lane};
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::schedule::{Overlap, Schedule};
use millstream::{Context, Error, JobId, JobUpdate, NewJob, OnConflict, Priority};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::program::{Program, next};
use crate::support::resp::{Connection, Value};
use crate::support::verbs::{WORKER, plain};
use crate::support::{Fixture, LATER, PATIENCE};

fn high() -> NewJob {
    plain().priority(Priority::High)
}

fn low() -> NewJob {
    plain().priority(Priority::Low)
}

const PRIORITIES: [(Priority, Lane); 3] = [
    (Priority::High, Lane::High),
    (Priority::Normal, Lane::Ready),
    (Priority::Low, Lane::Low),
];

impl Fixture {
    /// The next jobs, for a worker that has taken none so far.
    async fn take(&self, limit: usize) -> Vec<Delivery> {
        let claimed = self.broker.claim_by_priority(WORKER, 0, limit, PATIENCE);
        claimed.await.expect("a claim")
    }

    async fn take_one(&self) -> Delivery {
        self.take(1).await.pop().expect("a ready job")
    }

    /// The lane on which the job is.
    fn lane_of(&self, id: &JobId) -> Option<String> {
        Some(self.home_of(id)?.at?.0)
    }

    async fn update_priority(&self, id: &JobId, priority: Priority) -> State {
        let update = JobUpdate::new().priority(priority);
        let mut caller = self.caller();
        let updated = self.broker.update(&mut caller, id, "", &update, PATIENCE);
        updated
            .await
            .expect("an update")
            .expect("no name is asked for")
    }
}

#[tokio::test]
async fn handed_back_jobs_come_first_and_then_those_of_high_normal_and_low_priority() {
    let t = Fixture::new().await;
    let back = t.running(plain()).await;
    let low = t.enqueue(low()).await;
    let normal = t.enqueue(plain()).await;
    let first = t.enqueue(high()).await;
    let second = t.enqueue(high()).await;
    assert_eq!(t.release(&back).await, []);

    let mut taken = Vec::new();
    for _ in 0..5 {
        taken.push(t.take_one().await);
    }

    let ids: Vec<_> = taken.iter().map(|delivery| &delivery.id).collect();
    assert_eq!(ids, [&back.id, &first, &second, &normal, &low]);
    assert!(t.take(10).await.is_empty());
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
    for delivery in &taken {
        assert_eq!(t.extend(delivery).await, []);
        assert_eq!(t.complete(&[delivery]).await, []);
    }
    assert_eq!(t.counter("completed"), 5);
    assert!(t.scan().records.is_empty(), "a record outlived its job");
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_claim_of_many_takes_no_more_than_its_limit_over_all_lanes() {
    let t = Fixture::new().await;
    for job in [plain(), high(), low()] {
        t.try_enqueue(&vec![job; 10]).await.unwrap();
    }
    let taken = t.take(20).await;
    let of = |lane| taken.iter().filter(|job| job.lane == lane).count();
    // Its share of twenty, and what is left when the higher ones are through.
    assert_eq!([of(Lane::High), of(Lane::Ready), of(Lane::Low)], [10, 8, 2]);
    t.broker.pause(true, PATIENCE).await.unwrap();
    assert!(t.take(20).await.is_empty(), "a paused queue hands out none");
}

/// Runs jobs one after the other and tells their priorities.
async fn watched(p: &Program) -> (millstream::Worker, UnboundedReceiver<Priority>) {
    let (tell, ran) = unbounded_channel();
    let handler = move |job: Context| {
        let _ = tell.send(job.priority());
        std::future::ready(Ok(()))
    };
    let builder = p.worker().concurrency(1).prefetch(0).fallback(handler);
    (builder.start().await.unwrap(), ran)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_high_jobs_starves_neither_normal_nor_low_ones() {
    let p = Program::new().await;
    p.t.try_enqueue(&vec![high(); 100]).await.unwrap();
    p.t.try_enqueue(&[plain(), plain(), plain(), low(), low(), low()])
        .await
        .unwrap();

    let (worker, mut ran) = watched(&p).await;
    let mut order = Vec::new();
    for _ in 0..30 {
        order.push(next(&mut ran).await);
    }

    let at = |priority| {
        let places = order.iter().enumerate();
        let of_it = places.filter(|(_, ran)| **ran == priority);
        of_it.map(|(place, _)| place + 1).collect::<Vec<_>>()
    };
    assert_eq!(at(Priority::Normal), [5, 15, 25]);
    assert_eq!(at(Priority::Low), [10, 20, 30]);
    p.until_completed(106).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_job_stays_on_its_lane_whatever_becomes_of_it() {
    let t = Fixture::new().await;
    for (priority, lane) in PRIORITIES {
        let id = t.enqueue(plain().priority(priority)).await;
        let mut delivery = t.take_one().await;
        assert_eq!((&delivery.id, delivery.lane), (&id, lane));
        // Retried, snoozed, redriven.
        t.retry(&delivery, LATER, "boom").await.unwrap();
        t.make_due(&id);
        t.promote().await;
        delivery = t.take_one().await;
        assert_eq!((delivery.lane, delivery.attempt), (lane, 2));
        t.snooze(&delivery, LATER).await.unwrap();
        t.make_due(&id);
        t.promote().await;
        delivery = t.take_one().await;
        assert_eq!((delivery.lane, delivery.attempt), (lane, 2));
        t.dead_letter(&delivery, "no").await.unwrap();
        let ids = std::slice::from_ref(&id);
        let redriven = t.broker.redrive(&mut t.caller(), ids, PATIENCE).await;
        assert_eq!(redriven.unwrap(), 1);
        delivery = t.take_one().await;
        assert_eq!((&delivery.id, delivery.lane), (&id, lane));
        t.assert_every_job_has_one_home();
        assert_eq!(t.complete(&[&delivery]).await, []);

        // Delayed.
        let id = t.enqueue(plain().priority(priority).delay(LATER)).await;
        t.make_due(&id);
        t.promote().await;
        delivery = t.take_one().await;
        assert_eq!((&delivery.id, delivery.lane), (&id, lane));
        assert_eq!(t.complete(&[&delivery]).await, []);
    }
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_silent_workers_job_comes_back_first_from_every_lane() {
    let t = Fixture::new().await;
    for (priority, lane) in PRIORITIES {
        t.enqueue(plain().priority(priority)).await;
        let lost = t.take_one().await;
        assert_eq!(lost.lane, lane);
        t.enqueue(high()).await;

        t.let_lease_lapse(&lost);
        assert_eq!(t.sweep().await, (1, 0));

        assert_eq!(t.complete(&[&lost]).await, [lost.entry], "it is stale");
        assert_eq!(t.extend(&lost).await, [lost.entry]);
        let again = t.take_one().await;
        assert_eq!((&again.id, again.lane), (&lost.id, Lane::Next));
        let other = t.take_one().await;
        t.complete(&[&again]).await;
        t.complete(&[&other]).await;
    }
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_job_is_found_by_its_id_on_every_lane_and_can_be_cancelled_there() {
    let p = Program::new().await;
    let inspect = p.client.inspect(&p.t.queue).unwrap();
    for (priority, lane) in PRIORITIES {
        let of = |unique: &str| plain().priority(priority).unique(unique);
        let ready = p.t.enqueue(of("ready")).await;
        let seen = inspect.show(&ready).await.unwrap();
        assert_eq!((seen.state, seen.priority), (State::Ready, priority));
        assert_eq!(inspect.cancel(&ready).await.unwrap(), State::Ready);

        let running = p.t.enqueue(of("running")).await;
        assert_eq!(p.t.take_one().await.lane, lane);
        let seen = inspect.show(&running).await.unwrap();
        assert_eq!((seen.state, seen.priority), (State::Running, priority));
        assert_eq!(inspect.cancel(&running).await.unwrap(), State::Running);

        assert_eq!(
            (p.t.unique_holder("ready"), p.t.unique_holder("running")),
            (None, None)
        );
        p.t.assert_every_job_has_one_home();
    }
    for job in [high(), low(), plain()] {
        p.t.enqueue(job).await;
    }
    let listed = inspect.list(Some(State::Ready), 10).await.unwrap();
    let mut priorities: Vec<_> = listed.iter().map(|job| job.priority.name()).collect();
    priorities.sort_unstable();
    assert_eq!(priorities, ["high", "low", "normal"]);
    let stats = inspect.stats().await.unwrap();
    let lanes = ["high", "normal", "low"].map(|lane| stats.ready_by_lane[lane]);
    assert_eq!((stats.ready, lanes), (3, [1, 1, 1]));
}

#[tokio::test]
async fn a_priority_can_be_changed_wherever_the_job_waits() {
    let t = Fixture::new().await;
    t.limit_groups(1).await;
    let ready = t.enqueue(plain()).await;
    let scheduled = t.enqueue(high().delay(LATER)).await;
    let running = t.enqueue(plain().group("g")).await;
    let held = t.enqueue(plain().group("g")).await;

    assert_eq!(t.update_priority(&ready, Priority::Low).await, State::Ready);
    assert_eq!(t.lane_of(&ready).unwrap(), "ready:low");
    assert_eq!(
        t.update_priority(&ready, Priority::High).await,
        State::Ready
    );
    assert_eq!(t.lane_of(&ready).unwrap(), "ready:high");
    let state = t.update_priority(&scheduled, Priority::Low).await;
    assert_eq!(state, State::Scheduled);
    let state = t.update_priority(&held, Priority::High).await;
    assert_eq!(state, State::Held);
    t.assert_every_job_has_one_home();

    t.make_due(&scheduled);
    t.promote().await;
    assert_eq!(t.lane_of(&scheduled).unwrap(), "ready:low");
    assert_eq!(t.take_one().await.id, ready);
    let delivery = t.take_one().await;
    assert_eq!(delivery.id, running);
    t.complete(&[&delivery]).await;
    assert_eq!(t.lane_of(&held).unwrap(), "ready:high");
    // Back to normal is without a priority of its own; one that was handed back stays in front.
    assert_eq!(
        t.update_priority(&held, Priority::Normal).await,
        State::Ready
    );
    assert_eq!(t.lane_of(&held).unwrap(), "ready");
    assert!(t.scan().meta_of(held.as_str())["priority"].is_null());
    let delivery = t.take_one().await;
    assert_eq!(t.release(&delivery).await, []);
    t.update_priority(&held, Priority::Low).await;
    assert_eq!(t.lane_of(&held).unwrap(), "ready:next");
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn the_cap_of_a_group_holds_over_all_lanes() {
    let t = Fixture::new().await;
    t.limit_groups(1).await;
    let jobs = [low(), high(), plain(), high()].map(|job| job.group("g"));
    let mut ids = Vec::new();
    for job in jobs {
        ids.push(t.enqueue(job).await);
    }
    let other = t.enqueue(low().group("other")).await;

    for (id, lane) in ids
        .iter()
        .zip([Lane::Low, Lane::High, Lane::Ready, Lane::High])
    {
        let delivery = t.take_one().await;
        assert_eq!((&delivery.id, delivery.lane), (id, lane), "in their order");
        assert_eq!(t.slots_of("g"), 1);
        let others = t.scan().homes.len();
        assert_eq!(t.state_of(&other), Some(State::Ready), "of {others}");
        t.complete(&[&delivery]).await;
    }
    assert_eq!((t.slots_of("g"), t.take_one().await.id), (0, other));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_purge_of_a_group_and_a_maximum_depth_count_every_lane() {
    let t = Fixture::new().await;
    let jobs = [high(), plain(), low()].map(|job| job.group("g"));
    let stored = t.try_enqueue(&jobs).await.unwrap();
    let ids: Vec<_> = stored.into_iter().map(|stored| stored.id).collect();
    t.broker.set_max_depth(Some(4), PATIENCE).await.unwrap();

    let refused = t.try_enqueue(&[high(), low()]).await;
    assert!(
        matches!(refused, Err(Error::QueueFull { depth: 3, .. })),
        "{refused:?}"
    );
    let caller = &mut t.caller();
    let purged = t.broker.group_purge(caller, "g", &ids, 3, PATIENCE).await;

    assert_eq!(purged.unwrap().purged, 3);
    assert!(t.scan().homes.is_empty());
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_unique_job_is_in_the_way_on_every_lane_and_is_replaced_by_one_of_another() {
    let t = Fixture::new().await;
    for (priority, _) in PRIORITIES {
        let job = || plain().priority(priority).unique("k");
        let id = t.enqueue(job()).await;
        let again = t.try_enqueue(&[job()]).await.unwrap();
        assert_eq!((&again[0].id, again[0].duplicate), (&id, true));

        let other = low().unique("k").on_conflict(OnConflict::Replace);
        let replaced = t.try_enqueue(&[other]).await.unwrap();
        assert_eq!((&replaced[0].id, replaced[0].replaced), (&id, true));
        assert_eq!(t.lane_of(&id).unwrap(), "ready:low");
        t.assert_every_job_has_one_home();
        let delivery = t.take_one().await;
        t.complete(&[&delivery]).await;
        assert_eq!(t.unique_holder("k"), None);
    }
}

#[tokio::test]
async fn a_ready_job_that_is_replaced_by_a_delayed_one_lets_the_next_of_its_group_in() {
    let t = Fixture::new().await;
    t.limit_groups(1).await;
    t.enqueue(plain().unique("k").group("g")).await;
    let waiting = t.enqueue(plain().group("g")).await;
    assert_eq!(t.state_of(&waiting), Some(State::Held));

    let later = plain().unique("k").group("g").delay(LATER);
    let replaced = t
        .try_enqueue(&[later.on_conflict(OnConflict::Replace)])
        .await;

    assert!(replaced.unwrap()[0].replaced);
    assert_eq!(t.state_of(&waiting), Some(State::Ready));
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_call_that_is_sent_again_makes_no_second_job() {
    let t = Fixture::new().await;
    let jobs = [high(), low(), plain()];
    let mut caller = t.caller();
    let first = t
        .broker
        .enqueue(&mut caller, &jobs, PATIENCE)
        .await
        .unwrap();
    let mut again = t.caller();
    let mut same = millstream::broker::Caller::new("again");
    let one = t.broker.enqueue(&mut same, &jobs, PATIENCE).await.unwrap();
    let mut same = millstream::broker::Caller::new("again");
    let two = t.broker.enqueue(&mut same, &jobs, PATIENCE).await.unwrap();
    assert_eq!(one, two);
    let three = t.broker.enqueue(&mut again, &jobs, PATIENCE).await.unwrap();
    assert!(first.iter().chain(&one).all(|job| !three.contains(job)));
    assert_eq!(t.scan().homes.len(), 9);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_schedule_queues_its_jobs_with_their_priority_and_sees_one_that_is_unfinished() {
    let p = Program::new().await;
    let schedules = p.client.schedules(&p.t.queue).unwrap();
    let every = Schedule::every(Duration::from_secs(60), high()).overlap(Overlap::Skip);
    schedules.set("s", every).await.unwrap();
    let fire = async || {
        p.t.redis(&["ZADD", &p.t.key("cron:due"), "60000", "s"]);
        schedules.fire_due().await.unwrap();
    };

    fire().await;
    let delivery = p.t.take_one().await;
    assert_eq!(delivery.lane, Lane::High);
    p.t.assert_every_job_has_one_home();
    fire().await;
    assert!(p.t.take(1).await.is_empty(), "the last one is unfinished");
    p.t.complete(&[&delivery]).await;
    fire().await;
    assert_eq!(p.t.take_one().await.lane, Lane::High);
    p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn the_doctor_mends_what_is_broken_on_the_lanes_of_priorities() {
    let t = Fixture::new().await;
    let (gone, nameless) = (t.enqueue(high()).await, t.enqueue(low()).await);
    let entry = t.home_of(&gone).unwrap().at.unwrap().1;
    t.redis(&["XDEL", &t.key("ready:high"), &entry]);
    t.redis(&["HDEL", &t.key("jobs"), nameless.as_str()]);
    let audit = async |part| {
        t.broker
            .audit(part, None, 100, PATIENCE)
            .await
            .unwrap()
            .wrong
    };

    let kind = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
    let found = audit(Part::Jobs).await;
    assert_eq!(found, [kind("record-without-entry", gone.as_str())]);
    let (_, entry) = t.home_of(&nameless).unwrap().at.unwrap();
    let found = audit(Part::Entries(Lane::Low)).await;
    assert_eq!(found, [kind("entry-without-record", &entry)]);
    let entries = [entry];
    let mend = t.broker.mend(
        Part::Entries(Lane::Low),
        "entry-without-record",
        &entries,
        PATIENCE,
    );
    assert_eq!(mend.await.unwrap(), 1);
    let ids = [gone.to_string()];
    let mend = t
        .broker
        .mend(Part::Jobs, "record-without-entry", &ids, PATIENCE);
    assert_eq!(mend.await.unwrap(), 1);

    assert_eq!(t.lane_of(&nameless).unwrap(), "ready:low");
    assert_eq!(t.state_of(&gone), Some(State::Dead), "its payload is gone");
    t.assert_every_job_has_one_home();
}

/// How many reads of the lane Redis has carried out since it was monitored, in scripts or by themselves.
fn reads_of(t: &Fixture, monitor: &mut Connection, lane: Lane) -> usize {
    t.redis(&["PING", "that is all"]);
    let key = format!("{:?}", t.lane_key(lane));
    let lines = monitor.monitored_until("that is all").into_iter();
    lines
        .filter(|line| line.to_lowercase().contains("xreadgroup") && line.contains(&key))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reads_the_lanes_of_priorities_only_once_there_is_a_job_on_one() {
    // Its own server: a monitor sees everybody.
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    let mut monitor = Connection::open(&redis.socket());
    monitor.send(&["MONITOR"]).expect("a monitor");
    let (worker, mut ran) = watched(&p).await;
    for _ in 0..20 {
        p.enqueue(plain()).await;
        assert_eq!(next(&mut ran).await, Priority::Normal);
    }
    p.until_completed(20).await;
    assert_eq!(reads_of(&p.t, &mut monitor, Lane::Low), 0);

    // It is in the middle of a read of the others, and hears of it.
    p.enqueue(low()).await;
    assert_eq!(next(&mut ran).await, Priority::Low);
    p.until_completed(21).await;
    assert!(reads_of(&p.t, &mut monitor, Lane::Low) > 0);
    // From then on it waits for all of them at once.
    p.enqueue(high()).await;
    assert_eq!(next(&mut ran).await, Priority::High);
    p.enqueue(plain()).await;
    assert_eq!(next(&mut ran).await, Priority::Normal);
    p.until_completed(23).await;
    worker.stop().await;
}

#[tokio::test]
async fn only_the_first_job_on_an_empty_lane_is_told_of_and_a_plain_one_never() {
    let t = Fixture::new().await;
    let mut hear = t.listen();
    t.enqueue(plain()).await;
    t.try_enqueue(&[high(), high()]).await.unwrap();
    t.enqueue(high()).await;
    t.enqueue(low()).await;
    t.broker.pause(true, PATIENCE).await.unwrap();
    let heard = [(); 3].map(|()| hear.message());
    assert_eq!(heard, ["priority", "priority", "limits"]);
}

/// A user without rights on channels, as every new one of Redis 7 is.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_finds_the_first_job_of_a_priority_also_when_nobody_may_tell_it() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let p = Program::over(Fixture::on(&redis).await).await;
    p.t.redis(&["ACL", "SETUSER", "default", "resetchannels"]);
    let (worker, mut ran) = watched(&p).await;
    p.enqueue(plain()).await;
    assert_eq!(next(&mut ran).await, Priority::Normal);

    p.enqueue(low()).await;

    assert_eq!(next(&mut ran).await, Priority::Low);
    p.until_completed(2).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_many_slots_holds_no_more_than_it_may_and_runs_every_lane() {
    let p = Program::new().await;
    for _ in 0..20 {
        p.t.try_enqueue(&[low(), plain(), high()]).await.unwrap();
    }
    let (tell, mut ran) = unbounded_channel();
    let go_on = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let gate = std::sync::Arc::clone(&go_on);
    let handler = move |job: Context| {
        let (tell, gate) = (tell.clone(), std::sync::Arc::clone(&gate));
        async move {
            let _ = tell.send(job.priority());
            gate.acquire().await?.forget();
            Ok(())
        }
    };
    let builder = p.worker().concurrency(3).prefetch(2).fallback(handler);
    let worker = builder.start().await.unwrap();
    let held = || {
        let of_lane = |lane| p.t.redis(&["XPENDING", &p.t.lane_key(lane), "workers"]);
        let counts = Lane::ALL.map(|lane| match &of_lane(lane).list()[0] {
            Value::Int(count) => *count,
            other => panic!("{other:?}"),
        });
        counts.iter().sum::<i64>()
    };
    for done in 0..60 {
        next(&mut ran).await;
        assert!(held() <= 5, "{} jobs held by 3 slots and 2 ahead", held());
        go_on.add_permits(1);
        p.until("one more is done", |t| t.counter("completed") > done)
            .await;
    }
    p.until_completed(60).await;
    worker.stop().await;
}
