//! Schedules: set, listed, fired once per slot by whoever comes, and what becomes of slots that were missed or overlap.
//!
//! No test waits for a slot unless it is about waiting: due times are set back in Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millstream::schedule::{Change, Missed, Overlap, Schedule, Schedules};
use millstream::{Context, Error, JobError, Millstream, NewJob};
use tokio::sync::mpsc::unbounded_channel;

use crate::support::program::{Program, next};
use crate::support::{Fixture, PATIENCE};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A queue, its schedules, and the clock.
struct Desk {
    p: Program,
    schedules: Schedules,
}

impl Desk {
    async fn new() -> Self {
        let p = Program::new().await;
        let schedules = p.client.schedules(&p.t.queue).unwrap();
        Self { p, schedules }
    }

    fn now_ms(&self) -> i64 {
        self.p.t.now_us() / 1000
    }

    fn due_of(&self, id: &str) -> String {
        let t = &self.p.t;
        t.redis(&["ZSCORE", &t.key("cron:due"), id])
            .text()
            .to_owned()
    }

    /// Makes the schedule of every second look as if nobody had been there for so long; returns its due slot.
    fn set_back(&self, id: &str, by: Duration) -> i64 {
        let due = (self.now_ms() - by.as_millis() as i64) / 1000 * 1000;
        self.set_due(id, due);
        due
    }

    fn set_due(&self, id: &str, due: i64) {
        let t = &self.p.t;
        t.redis(&["ZADD", &t.key("cron:due"), "XX", &due.to_string(), id]);
    }

    /// The slots of the ready jobs of a schedule, unix ms, in the order in which they were queued.
    fn slots(&self, id: &str) -> Vec<i64> {
        let jobs = ready(&self.p.t).into_iter();
        jobs.filter(|job| job.schedule == id)
            .map(|job| job.slot_ms)
            .collect()
    }

    async fn fire(&self) {
        self.schedules.fire_due().await.unwrap();
    }

    fn events(&self, kind: &str) -> usize {
        self.p
            .t
            .events()
            .into_iter()
            .filter(|(event, _)| event == kind)
            .count()
    }
}

#[derive(Debug)]
struct Job {
    id: String,
    payload: String,
    schedule: String,
    slot_ms: i64,
}

fn ready(t: &Fixture) -> Vec<Job> {
    let entries = t.redis(&["XRANGE", &t.key("ready"), "-", "+"]);
    let entries = entries.list().iter().map(|entry| {
        let fields = &entry.list()[1];
        let meta: serde_json::Value = serde_json::from_str(fields.field("meta").text()).unwrap();
        let header = |name: &str| {
            meta["headers"][name]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let slot = humantime::parse_rfc3339(&header("millstream-slot")).unwrap();
        let slot = slot.duration_since(std::time::UNIX_EPOCH).unwrap();
        Job {
            id: entry.list()[0].text().to_owned(),
            payload: fields.field("payload").text().to_owned(),
            schedule: header("millstream-schedule"),
            slot_ms: slot.as_millis() as i64,
        }
    });
    entries.collect()
}

fn job() -> NewJob {
    NewJob::raw("tick", "payload")
}

fn every_second() -> Schedule {
    Schedule::every(SECOND, job())
}

fn range(from: i64, to: i64) -> Vec<i64> {
    (from..=to).step_by(1000).collect()
}

#[tokio::test]
async fn a_schedule_is_set_changed_shown_and_removed() {
    let d = Desk::new().await;
    let nightly = || {
        Schedule::cron("0 3 * * *", job().group("shop").max_attempts(3))
            .zone("Europe/Bucharest")
            .missed(Missed::All(5))
            .overlap(Overlap::Skip)
    };

    let set = d.schedules.set("nightly", nightly()).await.unwrap();
    assert_eq!((set.change, set.paused), (Change::Created, false));
    let again = d.schedules.set("nightly", nightly()).await.unwrap();
    assert_eq!(
        (again.change, again.next_due_ms),
        (Change::Unchanged, set.next_due_ms)
    );
    let zone = d
        .schedules
        .set("nightly", nightly().zone("Asia/Tokyo"))
        .await
        .unwrap();
    assert_eq!(zone.change, Change::Changed);
    assert_ne!(zone.next_due_ms, set.next_due_ms);
    d.schedules.set("tick", every_second()).await.unwrap();

    let views = d.schedules.list(10, 3).await.unwrap();
    let ids: Vec<&str> = views.iter().map(|view| view.id.as_str()).collect();
    assert_eq!(ids, ["tick", "nightly"]);
    let nightly = &views[1];
    assert_eq!(
        (nightly.cron.as_deref(), nightly.zone.as_deref()),
        (Some("0 3 * * *"), Some("Asia/Tokyo"))
    );
    assert_eq!(
        (nightly.missed.as_str(), nightly.overlap.as_str()),
        ("all:5", "skip")
    );
    assert_eq!(
        (nightly.group.as_deref(), nightly.max_attempts),
        (Some("shop"), Some(3))
    );
    assert_eq!(
        (
            nightly.payload_bytes,
            nightly.fired_total,
            nightly.problem.as_ref()
        ),
        (7, 0, None)
    );
    assert_eq!(nightly.next_runs_ms.len(), 3);
    assert_eq!(nightly.next_runs_ms[0], nightly.next_due_ms.unwrap());
    assert_eq!(
        nightly.next_runs_ms[1] - nightly.next_runs_ms[0],
        24 * 3_600_000
    );
    assert_eq!(views[0].every_ms, Some(1000));

    assert!(d.schedules.remove("nightly").await.unwrap());
    assert!(!d.schedules.remove("nightly").await.unwrap());
    let gone = d.schedules.get("nightly", 0).await;
    assert!(
        matches!(gone, Err(Error::NoSchedule { ref schedule, .. }) if schedule == "nightly"),
        "{gone:?}"
    );
    assert!(matches!(
        d.schedules.pause("nightly").await,
        Err(Error::NoSchedule { .. })
    ));
    assert!(d.schedules.remove("tick").await.unwrap());
    assert_eq!(
        d.p.t
            .redis(&["EXISTS", &d.p.t.key("cron"), &d.p.t.key("cron:due")])
            .int(),
        0
    );
}

#[tokio::test]
async fn what_is_refused_is_not_sent() {
    let d = Desk::new().await;
    let before = d.p.t.state_hash();
    for (id, schedule) in [
        ("a", Schedule::cron("0 0 30 2 *", job())),
        ("a", Schedule::cron("@daily", job()).zone("Nowhere")),
        ("a", Schedule::every(Duration::ZERO, job())),
        ("a b", every_second()),
    ] {
        let set = d.schedules.set(id, schedule).await;
        assert!(matches!(set, Err(Error::Setting { .. })), "{set:?}");
    }
    assert_eq!(d.p.t.state_hash(), before);
}

#[tokio::test]
async fn a_due_slot_is_queued_before_its_handler_runs_and_the_next_one_is_due() {
    let d = Desk::new().await;
    // So long that no slot of its own comes while this runs.
    let yearly = Schedule::every(366 * DAY, job());
    d.schedules.set("tick", yearly).await.unwrap();
    let first = d.due_of("tick");
    d.fire().await;
    let due = d.set_back("tick", Duration::ZERO);

    d.fire().await;

    let jobs = ready(&d.p.t);
    assert_eq!(
        (jobs.len(), jobs[0].slot_ms, jobs[0].payload.as_str()),
        (1, due, "payload")
    );
    assert!(first.parse::<i64>().unwrap() > due);
    let next_due: i64 = d.due_of("tick").parse().unwrap();
    assert!(next_due > due && next_due <= due + (366 * DAY).as_millis() as i64);
    let view = d.schedules.get("tick", 0).await.unwrap();
    assert_eq!((view.fired_total, view.last_slot_ms), (1, Some(due as u64)));
    assert_eq!(
        view.last_job.as_ref().map(|id| id.as_str()),
        Some(jobs[0].id.as_str())
    );
    assert_eq!(d.p.t.counter("enqueued"), 1);
    d.p.t.assert_every_job_has_one_home();

    let (tell, mut hear) = unbounded_channel();
    let handler = move |job: Context| {
        let _ = tell.send((
            job.schedule().map(str::to_owned),
            job.slot().map(str::to_owned),
        ));
        std::future::ready(Ok::<(), JobError>(()))
    };
    let worker =
        d.p.worker()
            .handle_raw("tick", handler)
            .start()
            .await
            .unwrap();
    let (schedule, slot) = next(&mut hear).await;
    assert_eq!(schedule.as_deref(), Some("tick"));
    let slot = humantime::parse_rfc3339(&slot.unwrap()).unwrap();
    assert_eq!(
        slot,
        std::time::UNIX_EPOCH + Duration::from_millis(due as u64)
    );
    worker.stop().await;
}

/// 24 schedules of every second, each set back by 25 s: slots that are late and none of them missed.
#[tokio::test]
async fn five_schedulers_at_once_fire_six_hundred_slots_once_each() {
    let d = Desk::new().await;
    let ids: Vec<String> = (0..24).map(|number| format!("schedule-{number}")).collect();
    let mut owed = BTreeSet::new();
    for id in &ids {
        d.schedules.set(id, every_second()).await.unwrap();
    }
    let now = d.now_ms() / 1000 * 1000;
    for id in &ids {
        d.set_due(id, now - 25_000);
        owed.extend(
            range(now - 25_000, now)
                .into_iter()
                .map(|slot| (id.clone(), slot)),
        );
    }
    assert!(owed.len() >= 600);

    let mut schedulers = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let client = Millstream::connect(&d.p.t.url).await.unwrap();
        let schedules = client.schedules(&d.p.t.queue).unwrap();
        schedulers.spawn(async move { schedules.fire_due().await.map(drop) });
    }
    while let Some(fired) = schedulers.join_next().await {
        fired.unwrap().unwrap();
    }

    let mut found = BTreeMap::new();
    for job in ready(&d.p.t) {
        *found.entry((job.schedule, job.slot_ms)).or_insert(0) += 1;
    }
    assert!(found.values().all(|count| *count == 1), "{found:?}");
    let missing: Vec<_> = owed
        .iter()
        .filter(|slot| !found.contains_key(*slot))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    d.p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_was_missed_is_skipped_made_up_for_once_or_made_up_for_in_part() {
    let d = Desk::new().await;
    let late = Duration::from_secs(30);
    for (missed, least, most) in [
        (Missed::Skip, 25, 32),
        (Missed::Once, 1, 1),
        (Missed::All(40), 40, 40),
    ] {
        let id = missed.to_string();
        d.schedules
            .set(&id, every_second().missed(missed))
            .await
            .unwrap();
        let due = d.set_back(&id, 3600 * SECOND);
        let began = d.now_ms();

        d.fire().await;

        let slots = d.slots(&id);
        let (first, last) = (slots[0], slots[slots.len() - 1]);
        assert!(
            (least..=most).contains(&slots.len()),
            "{id}: {} slots",
            slots.len()
        );
        assert_eq!(slots, range(first, last), "{id}");
        assert!(
            last > began - 1000 && first > due,
            "{id}: {first} to {last}"
        );
        if missed == Missed::Skip {
            assert!(
                first >= began - late.as_millis() as i64 - 1000,
                "{id}: {first} at {began}"
            );
        }
        assert_eq!(d.due_of(&id), (last + 1000).to_string());
        d.schedules.remove(&id).await.unwrap();
    }
    assert_eq!(d.events("skipped"), 3);
    d.p.t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn ten_years_of_missed_seconds_are_one_job_at_once() {
    let d = Desk::new().await;
    d.schedules
        .set(
            "tick",
            Schedule::cron("* * * * * *", job()).zone("America/New_York"),
        )
        .await
        .unwrap();
    d.set_back("tick", 10 * 365 * 24 * 3600 * SECOND);
    let began = d.now_ms();

    d.fire().await;

    // Besides the one for all of them, there may be those of the seconds that began meanwhile.
    let (slots, took_ms) = (d.slots("tick").len(), d.now_ms() - began);
    assert!(slots >= 1 && slots as i64 <= 2 + took_ms / 1000, "{slots}");
}

#[tokio::test]
async fn large_payloads_are_fired_in_several_steps_and_none_is_left_out() {
    let d = Desk::new().await;
    let big = NewJob::raw("tick", vec![b'x'; 600 * 1024]);
    d.schedules
        .set("big", Schedule::every(SECOND, big))
        .await
        .unwrap();
    let due = d.set_back("big", 5 * SECOND);

    d.fire().await;

    let slots = d.slots("big");
    assert!(
        slots.len() >= 6 && slots == range(due, slots[slots.len() - 1]),
        "{slots:?}"
    );
}

#[tokio::test]
async fn with_overlap_skip_nothing_is_fired_while_the_last_job_is_unfinished() {
    let d = Desk::new().await;
    let t = &d.p.t;
    d.schedules
        .set("tick", every_second().overlap(Overlap::Skip))
        .await
        .unwrap();
    let fire = async |expected: usize, state: &str| {
        d.set_back("tick", Duration::ZERO);
        d.fire().await;
        assert_eq!(
            d.schedules.get("tick", 0).await.unwrap().fired_total,
            expected as u64,
            "the last is {state}"
        );
    };

    fire(1, "none").await;
    fire(1, "ready").await;
    let delivery = t.claim_one().await;
    fire(1, "running").await;
    t.retry(&delivery, MINUTE, "boom").await.unwrap();
    fire(1, "waiting to be tried again").await;
    t.make_due(&delivery.id);
    t.promote().await;
    fire(1, "ready again").await;
    let delivery = t.claim_one().await;
    t.complete(&[&delivery]).await;
    fire(2, "completed").await;
    let delivery = t.claim_one().await;
    t.dead_letter(&delivery, "no").await.unwrap();
    fire(3, "dead").await;
    t.broker
        .cancel(
            &mut t.caller(),
            &d.schedules.get("tick", 0).await.unwrap().last_job.unwrap(),
            None,
            PATIENCE,
        )
        .await
        .unwrap();
    fire(4, "cancelled").await;

    // One event for each job that was in the way, and not one for each slot.
    assert_eq!(d.events("skipped"), 1);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn several_slots_at_once_are_one_job_where_they_may_not_overlap() {
    let d = Desk::new().await;
    d.schedules
        .set("tick", every_second().overlap(Overlap::Skip))
        .await
        .unwrap();
    let due = d.set_back("tick", 5 * SECOND);

    d.fire().await;

    assert_eq!(d.slots("tick"), [due]);
    assert!(d.due_of("tick").parse::<i64>().unwrap() > due + 5000);
}

#[tokio::test]
async fn a_paused_schedule_fires_nothing_and_owes_nothing_when_it_is_resumed() {
    let d = Desk::new().await;
    d.schedules.set("tick", every_second()).await.unwrap();
    d.set_back("tick", 10 * SECOND);

    d.schedules.pause("tick").await.unwrap();
    d.schedules.pause("tick").await.unwrap();

    assert_eq!(d.due_of("tick"), "inf");
    // Setting it does not end the pause, whatever it is set to.
    let set = d
        .schedules
        .set("tick", Schedule::every(MINUTE, job()))
        .await
        .unwrap();
    assert_eq!(
        (set.change, set.paused, set.next_due_ms),
        (Change::Changed, true, None)
    );
    d.schedules.set("tick", every_second()).await.unwrap();
    d.fire().await;
    assert_eq!(d.slots("tick").len(), 0);
    assert!(d.schedules.list(10, 3).await.unwrap()[0].paused);

    let now = d.now_ms();
    d.schedules.resume("tick").await.unwrap();
    assert!(d.due_of("tick").parse::<i64>().unwrap() > now);
    // Resumed once more, it is due when it was.
    let due = d.set_back("tick", 3 * SECOND);
    d.schedules.resume("tick").await.unwrap();
    assert_eq!(d.due_of("tick"), due.to_string());

    let set = d
        .schedules
        .set("later", every_second().paused(true))
        .await
        .unwrap();
    assert_eq!((set.change, set.paused), (Change::Created, true));
    assert_eq!(d.due_of("later"), "inf");
}

#[tokio::test]
async fn a_schedule_that_is_set_again_keeps_the_slot_that_it_owes() {
    let d = Desk::new().await;
    d.schedules.set("tick", every_second()).await.unwrap();
    let due = d.set_back("tick", 5 * SECOND);

    d.schedules.set("tick", every_second()).await.unwrap();
    assert_eq!(d.due_of("tick"), due.to_string());
    // Another payload at the same times.
    d.schedules
        .set("tick", Schedule::every(SECOND, NewJob::raw("tick", "new")))
        .await
        .unwrap();
    assert_eq!(d.due_of("tick"), due.to_string());
    // Other times: what was due by the old ones is not.
    let now = d.now_ms();
    d.schedules
        .set("tick", Schedule::every(MINUTE, job()))
        .await
        .unwrap();
    assert!(d.due_of("tick").parse::<i64>().unwrap() > now);
}

#[tokio::test]
async fn an_edit_in_the_middle_of_a_firing_leaves_one_job_of_the_old_version_or_none() {
    let d = Desk::new().await;
    // So long that no slot of its own comes while the test runs.
    let week = 7 * 24 * 60 * MINUTE;
    let with = |payload: &'static str| Schedule::every(week, NewJob::raw("tick", payload));
    for round in 0..40 {
        let id = format!("schedule-{round}");
        d.schedules.set(&id, with("old")).await.unwrap();
        // Late, and not missed: one slot is owed.
        d.set_due(&id, d.now_ms() - 1000);
        let edit = async {
            match round % 2 {
                0 => drop(
                    d.schedules
                        .set(&id, Schedule::every(2 * week, NewJob::raw("tick", "new")))
                        .await
                        .unwrap(),
                ),
                _ => drop(d.schedules.remove(&id).await.unwrap()),
            }
        };
        let fire = || d.schedules.fire_due();
        let (_, a, b, c) = tokio::join!(edit, fire(), fire(), fire());
        a.and(b).and(c).unwrap();

        let jobs: Vec<Job> = ready(&d.p.t)
            .into_iter()
            .filter(|job| job.schedule == id)
            .collect();
        assert!(
            jobs.len() <= 1 && jobs.iter().all(|job| job.payload == "old"),
            "{jobs:?}"
        );
    }
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_here_stands_in_nobodys_way() {
    let d = Desk::new().await;
    let t = &d.p.t;
    for (id, broken) in [
        (
            "zone",
            r#"{"when":{"cron":{"expression":"@daily","zone":"Moon/Base"}},"name":"a","payload_bytes":0}"#,
        ),
        ("json", "{"),
    ] {
        d.schedules.set(id, every_second()).await.unwrap();
        t.redis(&["HSET", &t.key("cron"), id, broken]);
        d.set_back(id, 20 * SECOND);
    }
    d.schedules.set("sound", every_second()).await.unwrap();
    let due = d.set_back("sound", 2 * SECOND);

    d.fire().await;

    assert_eq!(d.slots("sound").first(), Some(&due));
    let views = d.schedules.list(10, 1).await.unwrap();
    let problems: Vec<bool> = views.iter().map(|view| view.problem.is_some()).collect();
    assert_eq!(problems, [true, true, false]);
    // Set anew, they are as good as any.
    for id in ["zone", "json"] {
        d.schedules.set(id, every_second()).await.unwrap();
    }
    d.fire().await;
    assert!(!d.slots("zone").is_empty() && !d.slots("json").is_empty());
}

#[tokio::test]
async fn the_schedules_of_an_origin_are_kept_in_step_and_others_left_alone() {
    let d = Desk::new().await;
    let all = |ids: &[&str]| {
        ids.iter()
            .map(|id| ((*id).to_owned(), every_second()))
            .collect::<Vec<_>>()
    };
    d.schedules.set("mine", every_second()).await.unwrap();
    assert!(!d.schedules.is_synced("config").await.unwrap());

    let synced = d
        .schedules
        .sync("config", all(&["a", "b"]), true)
        .await
        .unwrap();
    assert_eq!((synced.set, synced.removed.len()), (2, 0));
    assert!(d.schedules.is_synced("config").await.unwrap());
    let synced = d
        .schedules
        .sync("config", all(&["b"]), false)
        .await
        .unwrap();
    assert_eq!((synced.set, synced.left), (0, vec!["a".to_owned()]));
    let synced = d
        .schedules
        .sync("config", all(&["b", "c"]), true)
        .await
        .unwrap();
    assert_eq!((synced.set, synced.removed), (1, vec!["a".to_owned()]));

    let views = d.schedules.list(10, 0).await.unwrap();
    let ids: BTreeSet<&str> = views.iter().map(|view| view.id.as_str()).collect();
    assert_eq!(ids, BTreeSet::from(["mine", "b", "c"]));
    d.p.t
        .redis(&["DEL", &d.p.t.key("cron"), &d.p.t.key("cron:due")]);
    assert!(!d.schedules.is_synced("config").await.unwrap());
}

#[tokio::test]
async fn a_worker_that_waits_hears_of_a_new_schedule_and_fires_it() {
    let d = Desk::new().await;
    let (tell, mut hear) = unbounded_channel();
    let handler = move |job: Context| {
        let _ = tell.send(job.slot().map(str::to_owned));
        std::future::ready(Ok::<(), JobError>(()))
    };
    let worker =
        d.p.worker()
            .handle_raw("tick", handler)
            .start()
            .await
            .unwrap();

    // Heard, and not found at the next look by chance, which without schedules is up to a minute away.
    d.schedules.set("tick", every_second()).await.unwrap();

    let slots = [
        next(&mut hear).await,
        next(&mut hear).await,
        next(&mut hear).await,
    ];
    let distinct: BTreeSet<_> = slots.iter().collect();
    assert_eq!(distinct.len(), 3, "{slots:?}");
    worker.stop().await;
}

#[tokio::test]
async fn a_slot_is_not_fired_before_redis_says_that_it_is_due() {
    let d = Desk::new().await;
    d.schedules
        .set("tick", Schedule::every(MINUTE, job()))
        .await
        .unwrap();

    let wait = d.schedules.fire_due().await.unwrap().unwrap();

    assert!(wait <= MINUTE && d.slots("tick").is_empty(), "{wait:?}");
    d.schedules.remove("tick").await.unwrap();
    assert_eq!(d.schedules.fire_due().await.unwrap(), None);
}

#[tokio::test]
async fn the_times_of_a_job_are_reckoned_from_its_firing() {
    let d = Desk::new().await;
    let limited = job().expires(MINUTE).deadline(2 * MINUTE);
    d.schedules
        .set("tick", Schedule::every(SECOND, limited))
        .await
        .unwrap();
    let due = d.set_back("tick", 20 * SECOND);
    let before = d.now_ms();

    d.fire().await;

    let scan = d.p.t.scan();
    let first = ready(&d.p.t).remove(0);
    let meta = scan.meta_of(&first.id);
    let times = ["expires_at_ms", "deadline_at_ms"].map(|name| meta[name].as_i64().unwrap());
    assert_eq!(first.slot_ms, due);
    assert_eq!(times[1] - times[0], 60_000);
    assert!(times[0] >= before + 60_000, "{times:?} at {before}");
}

#[tokio::test]
async fn firings_are_told_unless_they_come_by_the_second() {
    let d = Desk::new().await;
    d.schedules
        .set("minute", Schedule::every(MINUTE, job()))
        .await
        .unwrap();
    d.schedules.set("second", every_second()).await.unwrap();
    d.set_due("minute", d.now_ms() / 60_000 * 60_000);
    d.set_back("second", SECOND);

    d.fire().await;

    let events =
        d.p.client
            .inspect(&d.p.t.queue)
            .unwrap()
            .recent_events(10)
            .await
            .unwrap();
    let fired: Vec<_> = events
        .iter()
        .filter(|event| event.event.name() == "fired")
        .collect();
    assert_eq!((fired.len(), fired[0].detail.as_str()), (1, "minute"));
    assert_eq!(
        fired[0].job,
        d.schedules.get("minute", 0).await.unwrap().last_job
    );
}

#[tokio::test]
async fn the_jobs_of_a_schedule_wait_for_their_group_and_take_their_points() {
    let d = Desk::new().await;
    let t = &d.p.t;
    t.limit(None, "group_concurrency", "1").await;
    t.limit(Some("paid"), "concurrency", "").await;
    t.limit(Some("paid"), "rate", "1/h").await;
    t.limit(Some("paid"), "burst", "3").await;
    // A schedule is never refused for what waits already.
    t.limit(None, "group_max_backlog", "1").await;
    let of =
        |group: &str| Schedule::every(SECOND, job().group(group).cost(3)).missed(Missed::All(10));
    d.schedules.set("full", of("full")).await.unwrap();
    d.schedules.set("paid", of("paid")).await.unwrap();
    for id in ["full", "paid"] {
        d.set_back(id, SECOND * 4);
    }

    d.fire().await;

    let fired = t.counter("enqueued");
    assert!(fired >= 2 * 4, "{fired}");
    assert_eq!((t.slots_of("full"), t.slots_of("paid")), (1, 1));
    let held = t.redis(&["ZCARD", &t.key("held")]).int();
    assert_eq!(held, fired - 2, "one of each is ready");
    assert_eq!(t.missing("paid"), 3);
    t.assert_every_job_has_one_home();
    let ran = t.claim(10).await;
    t.complete(&ran.iter().collect::<Vec<_>>()).await;
    assert_eq!(t.claim(10).await.len(), 1, "paid has no tokens");
}

#[tokio::test]
async fn what_a_job_of_a_schedule_gives_back_is_kept_if_the_schedule_says_so() {
    let d = Desk::new().await;
    let every = Schedule::every(SECOND, job().keep_result(SECOND * 60));
    d.schedules.set("kept", every).await.unwrap();
    d.set_back("kept", SECOND);
    d.fire().await;

    let entries = d.p.t.redis(&["XRANGE", &d.p.t.key("ready"), "-", "+"]);

    let meta = entries.list()[0].list()[1].list()[7].text().to_owned();
    assert!(meta.contains(r#""result_ms":60000"#), "{meta}");
}
