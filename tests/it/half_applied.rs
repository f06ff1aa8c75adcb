//! Redis does not roll back: a script that cannot finish must not begin.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream::broker::doctor::Part;
use millstream::broker::{
    Author, Broker, Caller, CircuitEvent, DeathReason, Delivery, Done, Kept, Lane, Note, Promotion,
};
use millstream::job::state::State;
use millstream::private_redis::{Options, PrivateRedis};
use millstream::schedule::{Schedule, Schedules};
use millstream::{Error, HowFar, JobId, JobUpdate, Millstream, NewJob, Result};

use crate::support::verbs::{WORKER, plain};
use crate::support::{Fixture, LATER, LEASE, PATIENCE, upkeeper};

/// Stands for the unique key of the job at hand.
const UNIQUE: &str = "unique:k";
const LANES: [&str; 5] = [
    "ready:next",
    "ready",
    "ready:suspect",
    "ready:high",
    "ready:low",
];
/// What is behind `with …` in a header: keys that only some calls have. Those of the calls below.
const MORE: &[(&str, &[&str])] = &[
    ("enqueue", &["groups", "rates", UNIQUE]),
    (
        "complete",
        &[
            "held",
            "groups",
            "limits",
            "rates",
            "payloads",
            "ready:suspect",
            "ready:high",
            "ready:low",
            "results",
            UNIQUE,
        ],
    ),
];

/// Each script with the keys it touches, as its header names them: `-- KEYS[2] jobs  millstream:{Q}:jobs  hash, …`.
fn scripts() -> Vec<(String, BTreeSet<&'static str>)> {
    let lua = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
    let files = std::fs::read_dir(lua)
        .unwrap()
        .map(|file| file.unwrap().path());
    let scripts = files.filter(|file| file.extension().is_some_and(|ending| ending == "lua"));
    let touched = |file: PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text: &'static str = std::fs::read_to_string(&file).unwrap().leak();
        let documented = text.lines().filter(|line| line.starts_with("-- KEYS["));
        let keys = documented.flat_map(|line| keys_of(&name, line)).collect();
        (name, keys)
    };
    scripts.map(touched).collect()
}

/// The keys that a line of a header stands for.
fn keys_of(script: &str, line: &'static str) -> Vec<&'static str> {
    let mut words = line.split_whitespace().skip(1);
    let (number, _name, key) = (
        words.next().unwrap(),
        words.next().unwrap(),
        words.next().unwrap(),
    );
    match key.strip_prefix("millstream:{Q}:") {
        Some("unique:*") => vec![UNIQUE],
        Some("ready*") if number.ends_with("..]") => LANES.to_vec(),
        // The lane of the job at hand.
        Some("ready*") => vec!["ready"],
        Some(suffix) if !suffix.contains('*') => vec![suffix],
        _ => {
            let more = MORE.iter().find(|(name, _)| *name == script);
            more.unwrap_or_else(|| panic!("{script}: {line}"))
                .1
                .to_vec()
        }
    }
}

/// One job in every state, so that each script has something to do.
struct Stage {
    t: Fixture,
    running: Delivery,
    scheduled: JobId,
    dead: JobId,
    schedules: Schedules,
}

fn tick(payload: &'static str) -> Schedule {
    Schedule::every(Duration::from_secs(60), NewJob::raw("tick", payload))
}

impl Stage {
    async fn set_for(script: &str) -> Self {
        let mut stage = Self::set().await;
        let t = &mut stage.t;
        match script {
            "enqueue_plain" => {
                // With a maximum depth the call takes the long way, also for a while after.
                t.redis(&["HDEL", &t.key("limits"), "max_depth"]);
                let broker = Broker::connect(&t.url, "millstream", &t.queue).await;
                t.broker = broker.unwrap();
            }
            "complete_plain" => {
                t.wipe().await;
                stage.running = t.running(plain()).await;
            }
            _ => {}
        }
        stage
    }

    async fn set() -> Self {
        let t = Fixture::new().await;
        t.limit_groups(1).await;
        t.limit(None, "concurrency", "100").await;
        t.limit(None, "rate", "1000/s").await;
        t.broker.set_max_depth(Some(100), PATIENCE).await.unwrap();
        let done = t.running(plain()).await;
        t.complete_keeping(&[&done], 100).await;
        let dead = t.dead(plain()).await;
        let back = t.running(plain()).await;
        let running = t.running(plain().unique("k").group("g")).await;
        t.enqueue(plain().group("g")).await;
        t.let_lease_lapse(&running);
        t.release(&back).await;
        t.enqueue(plain()).await;
        let scheduled = t.enqueue(plain().delay(LATER)).await;
        t.make_due(&scheduled);
        let client = Millstream::connect(&t.url).await.unwrap();
        let schedules = client.schedules(&t.queue).unwrap();
        schedules.set("s", tick("old")).await.unwrap();
        t.redis(&["ZADD", &t.key("cron:due"), "60000", "s"]);
        // A payload that is nobody's, so that there is something to mend.
        t.redis(&["HSET", &t.key("payloads"), "stray", "x"]);
        Self {
            t,
            running,
            scheduled,
            dead,
            schedules,
        }
    }

    /// Puts something of a wrong type where the script expects its own.
    fn plant(&self, suffix: &str) {
        let key = self.t.key(suffix);
        self.t.redis(&["DEL", &key]);
        match suffix {
            "events" | "completed" => self.t.redis(&["SET", &key, "in the way"]),
            lane if lane.starts_with("ready") => self.t.redis(&["SET", &key, "in the way"]),
            _ => self.t.redis(&["RPUSH", &key, "in the way"]),
        };
    }

    async fn call(&self, script: &str) -> Result<()> {
        let Self {
            t,
            running,
            scheduled,
            dead,
            schedules,
        } = self;
        let (broker, mut caller) = (&t.broker, t.caller());
        let by = upkeeper("upkeep");
        match script {
            "enqueue" => {
                let jobs = [
                    plain(),
                    plain().delay(LATER),
                    plain().unique("k").group("g"),
                ];
                broker.enqueue(&mut caller, &jobs, PATIENCE).await.map(drop)
            }
            "enqueue_plain" => {
                let jobs = [plain(), plain(), plain().unique_for("k", LATER)];
                broker.enqueue(&mut caller, &jobs, PATIENCE).await.map(drop)
            }
            "claim" => broker.claim(WORKER, 10, PATIENCE).await.map(drop),
            "extend" => broker
                .extend(running.lane, WORKER, &[running.entry], PATIENCE)
                .await
                .map(drop),
            "complete" => {
                let kept = Kept {
                    stored: "{}\n".into(),
                    ttl_ms: 60_000,
                };
                let took = Duration::ZERO;
                let done = [Done {
                    result: Some(&kept),
                    ..Done::new(running, took)
                }];
                broker
                    .complete(&mut caller, running.lane, &done, 100, PATIENCE)
                    .await
                    .map(drop)
            }
            "complete_plain" => {
                let done = [Done::new(running, Duration::ZERO)];
                broker
                    .complete(&mut caller, running.lane, &done, 0, PATIENCE)
                    .await
                    .map(drop)
            }
            "retry" => {
                broker
                    .retry(&mut caller, running, LATER, Some("boom"), PATIENCE)
                    .await
            }
            "release" => broker
                .release(&mut caller, running.lane, &[running.entry], PATIENCE)
                .await
                .map(drop),
            "dead_letter" => {
                let reason = DeathReason::Refused;
                broker
                    .dead_letter(&mut caller, running, reason, "no", PATIENCE)
                    .await
                    .map(drop)
            }
            "reclaim" => broker.reclaim(&by, LEASE, None, PATIENCE).await.map(drop),
            "promote" => broker.promote(&by, 100, PATIENCE).await.map(drop),
            "run_now" => broker.run_now(&mut caller, scheduled, PATIENCE).await,
            "cancel" => broker
                .cancel(&mut caller, &running.id, Some("k"), PATIENCE)
                .await
                .map(drop),
            "update" => {
                let update = JobUpdate::new().payload("new").delay(LATER);
                broker
                    .update(&mut caller, scheduled, "job", &update, PATIENCE)
                    .await
                    .map(drop)
            }
            "redrive" => broker
                .redrive(&mut caller, std::slice::from_ref(dead), PATIENCE)
                .await
                .map(drop),
            "purge" => broker
                .purge(&mut caller, std::slice::from_ref(dead), PATIENCE)
                .await
                .map(drop),
            "prune" => {
                let age = Some(Duration::ZERO);
                broker
                    .prune(age, age, age, None, 500, PATIENCE)
                    .await
                    .map(drop)
            }
            "retire" => broker.retire(None, LATER, PATIENCE).await.map(drop),
            "unlock" => {
                broker
                    .unlock(&[("k".to_owned(), running.id.clone())], PATIENCE)
                    .await
            }
            "look" => broker.look(PATIENCE).await.map(drop),
            "cron_set" => schedules.set("s", tick("new")).await.map(drop),
            "cron_remove" => schedules.remove("s").await.map(drop),
            "cron_pause" => schedules.pause("s").await,
            "cron_due" | "cron_fire" => schedules.fire_due().await.map(drop),
            "backlog" => broker.backlog(&["g".to_owned()], PATIENCE).await.map(drop),
            "group_purge" => {
                let ids = [running.id.clone(), scheduled.clone()];
                broker
                    .group_purge(&mut caller, "g", &ids, 1, PATIENCE)
                    .await
                    .map(drop)
            }
            "admit" => broker.admit(None, 100, PATIENCE).await.map(drop),
            "limit" => {
                let settings = [("group_concurrency", "2".to_owned())];
                broker.limit(None, &settings, PATIENCE).await.map(drop)
            }
            "pause" => broker.pause(true, PATIENCE).await,
            "circuit" => {
                let opened = Some(CircuitEvent::Opened);
                broker
                    .note_circuit(WORKER, "a:1", LATER, opened, "down", PATIENCE)
                    .await
            }
            "progress" => {
                let note = Note {
                    number: 1,
                    told: Some((HowFar::of(1, 2), String::new())),
                    lines: vec!["a line".to_owned()],
                };
                let author = Author::of(running);
                broker.note_progress(&author, &note, PATIENCE).await
            }
            "stats" => broker.stats(PATIENCE).await.map(drop),
            "audit" => broker.audit(Part::Jobs, None, 10, PATIENCE).await.map(drop),
            "mend" => {
                let stray = ["stray".to_owned()];
                let mended = broker.mend(Part::Payloads, "orphan-payload", &stray, PATIENCE);
                mended.await.map(drop)
            }
            "recount" => {
                let (group, found) = ("g".to_owned(), BTreeSet::new());
                let tails = Lane::ALL.map(|_| "0-0".to_owned());
                let groups = [(&group, &found)];
                let judged = broker.recount(None, true, 100, &tails, &groups, PATIENCE);
                judged.await.map(drop)
            }
            other => panic!("no such script: {other}"),
        }
    }
}

#[tokio::test]
async fn on_an_untouched_queue_every_script_succeeds() {
    for (script, _) in scripts() {
        let stage = Stage::set_for(&script).await;
        stage
            .call(&script)
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"));
    }
}

/// The short ways through `enqueue` and `complete`, for jobs of groups that have room.
#[tokio::test]
async fn a_call_about_groups_with_room_that_cannot_finish_does_not_begin() {
    let jobs = ["g", "h"].map(|group| plain().group(group));
    for (suffix, of_enqueue, of_complete) in [
        ("ready", true, true),
        ("jobs", false, true),
        ("stats", true, true),
        ("progress", false, true),
        ("producers", true, true),
        ("limits", true, false),
        ("held", true, true),
        ("groups", true, true),
    ] {
        let stage = Stage::set().await;
        let t = &stage.t;
        t.wipe().await;
        t.limit_groups(2).await;
        t.try_enqueue(&jobs).await.unwrap();
        let running = t.claim(2).await;
        stage.plant(suffix);
        let (before, key) = (t.state_hash(), t.key(suffix));
        let took = Duration::ZERO;
        let done: Vec<Done<'_>> = running.iter().map(|job| Done::new(job, took)).collect();

        let (mut producer, mut worker) = (t.caller(), t.caller());
        let enqueued = t.broker.enqueue(&mut producer, &jobs, PATIENCE).await;
        let completed = t
            .broker
            .complete(&mut worker, Lane::Ready, &done, 0, PATIENCE);

        let is_named = |error: Option<Error>| match error {
            Some(Error::Protocol { reason, .. }) => reason.contains(&key),
            _ => false,
        };
        if of_enqueue {
            assert!(is_named(enqueued.err()), "{suffix}: enqueue");
            assert_eq!(t.state_hash(), before, "{suffix}: enqueue");
        }
        if of_complete {
            let before = t.state_hash();
            assert!(is_named(completed.await.err()), "{suffix}: complete");
            assert_eq!(t.state_hash(), before, "{suffix}: complete");
        }
    }
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_named_and_nothing_is_changed() {
    for (script, keys) in scripts() {
        for suffix in keys {
            let stage = Stage::set_for(&script).await;
            stage.plant(suffix);
            let before = stage.t.state_hash();

            let reply = stage.call(&script).await;

            let key = stage.t.key(suffix);
            match reply {
                Err(Error::Protocol { ref reason, .. }) if reason.contains(&key) => {}
                other => panic!("{script} with {suffix} in the way: {other:?}"),
            }
            assert_eq!(
                stage.t.state_hash(),
                before,
                "{script} with {suffix} in the way"
            );
        }
    }
}

#[tokio::test]
async fn a_server_that_forgets_its_scripts_is_served_all_the_same() {
    // Of its own: other tests count on their scripts.
    let redis = millstream::private_redis::PrivateRedis::start(Default::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let forget = || drop(t.redis(&["SCRIPT", "FLUSH"]));
    forget();
    t.enqueue_many(2).await;
    forget();
    let deliveries = t.claim(2).await;
    forget();
    assert_eq!(t.extend(&deliveries[0]).await, []);
    forget();
    t.retry(&deliveries[0], LATER, "boom").await.unwrap();
    t.make_due(&deliveries[0].id);
    forget();
    t.promote().await;
    forget();
    t.release(&deliveries[1]).await;
    forget();
    let deliveries = t.claim(2).await;
    forget();
    assert_eq!(t.complete(&[&deliveries[0]]).await, []);
    forget();
    t.dead_letter(&deliveries[1], "no").await.unwrap();
    forget();
    t.broker
        .redrive(
            &mut t.caller(),
            std::slice::from_ref(&deliveries[1].id),
            PATIENCE,
        )
        .await
        .unwrap();
    forget();
    t.broker
        .cancel(&mut t.caller(), &deliveries[1].id, None, PATIENCE)
        .await
        .unwrap();
    forget();
    assert_eq!(t.sweep().await, (0, 0));
    t.assert_every_job_has_one_home();
    forget();
    t.assert_stats_agree().await;
    assert_eq!((t.counter("completed"), t.counter("cancelled")), (1, 1));
}

#[tokio::test]
async fn a_full_server_refuses_work_before_anything_is_done() {
    let redis = millstream::private_redis::PrivateRedis::start(Default::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let running = t.running(plain()).await;
    let before = t.state_hash();
    t.redis(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut caller = Caller::new("p");

    let reply = t.broker.enqueue(&mut caller, &[plain()], PATIENCE).await;

    assert!(matches!(reply, Err(Error::Refused { .. })), "{reply:?}");
    t.redis(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(t.state_hash(), before);
    assert_eq!(t.complete(&[&running]).await, []);
}

#[tokio::test]
async fn a_counter_that_somebody_edited_fails_no_call_and_begins_anew() {
    let t = Fixture::new().await;
    for broken in ["many", "1.5", "9223372036854775807"] {
        let delivery = t.running(plain()).await;
        t.redis(&["HSET", &t.key("stats"), "completed", broken]);

        assert_eq!(t.complete(&[&delivery]).await, [], "{broken}");

        assert_eq!(t.counter("completed"), 1, "{broken}");
        assert_eq!(t.home_of(&delivery.id).map(|home| home.state), None);
    }
}

/// A user without rights on channels, as every new one of Redis 7 is: hints are lost, and nothing else.
#[tokio::test]
async fn a_hint_that_may_not_be_published_stops_no_script_half_way() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    t.redis(&["ACL", "SETUSER", "default", "resetchannels"]);

    let scheduled = t.enqueue(plain().delay(LATER)).await;
    t.make_due(&scheduled);
    assert!(matches!(
        t.promote().await,
        Promotion::Promoted { count: 1, .. }
    ));
    let mut delivery = t.claim_one().await;
    for _ in 0..2 {
        delivery = t.take_over(&delivery).await;
    }
    // A suspect now: every way back to its lane tells the others.
    assert_eq!(t.release(&delivery).await, []);
    let delivery = t.claim_suspect(WORKER).await.unwrap();
    t.retry(&delivery, LATER, "boom").await.unwrap();
    t.make_due(&scheduled);
    assert!(matches!(
        t.promote().await,
        Promotion::Promoted { count: 1, .. }
    ));
    assert!(matches!(
        t.promote().await,
        Promotion::Promoted { count: 0, .. }
    ));
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn an_operators_hint_that_may_not_be_published_stops_no_script_half_way() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let scheduled = t.suspect(plain()).await.id;
    t.redis(&["ACL", "SETUSER", "default", "resetchannels"]);

    let delivery = t.claim_suspect(WORKER).await.unwrap();
    t.snooze(&delivery, LATER).await.unwrap();
    let caller = &mut t.caller();
    t.broker
        .run_now(caller, &scheduled, PATIENCE)
        .await
        .unwrap();
    t.assert_every_job_has_one_home();
    let was = t.broker.cancel(caller, &scheduled, None, PATIENCE).await;
    assert_eq!(was.unwrap(), State::Ready);
    t.broker.pause(true, PATIENCE).await.unwrap();
    t.limit_groups(1).await;

    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}
