//! Nothing that an operator asks for holds Redis up: what every command of every verb takes it, at a million jobs.
//!
//! Redis is timed in two ways. SLOWLOG tells how long each command was under way, by the clock on the wall: on a machine that has
//! other work it counts the time in which Redis was not on a core at all. The kernel tells how long Redis was on a core, but not for
//! which command: so it is asked before and after a call that sends one command. `MILLSTREAM_REALTIME=1` (Linux, root) gives Redis
//! a core whenever it wants one, and then both say the same.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use millstream::broker::doctor::Part;
use millstream::config::{OPERATOR_BATCH, REDRIVE_BATCH};
use millstream::inspect::{Inspector, JobFilter};
use millstream::private_redis::{Options, PrivateRedis};
use millstream::{Millstream, NewJob};

use crate::support::{Fixture, LATER, PATIENCE};

/// What no command may take.
const MOST: Duration = Duration::from_millis(5);
/// What the kernel's account may be off by: it is brought up to date at switches and ticks.
const BLUR_US: i64 = 100;

/// What was under way for how long, microseconds: SLOWLOG by the name of the command (and a script's number of keys, which tells
/// one from another).
#[derive(Default)]
struct Noted(BTreeMap<String, Vec<i64>>);

impl Noted {
    fn take(&mut self, t: &Fixture) {
        t.redis(&["MULTI"]);
        t.redis(&["SLOWLOG", "GET", "-1"]);
        t.redis(&["SLOWLOG", "RESET"]);
        let both = t.redis(&["EXEC"]);
        // So much was written that Redis clears it away after the answer: not at the cost of the next step.
        t.redis(&["PING"]);
        for entry in both.list()[0].list() {
            let words = entry.list()[3].list();
            let word = |nth: usize| String::from_utf8_lossy(words[nth].bytes()).to_lowercase();
            let name = match word(0) {
                // The measuring itself.
                name if ["multi", "exec", "slowlog", "info", "config"].contains(&&*name) => {
                    continue;
                }
                name if name.starts_with("eval") => format!("{name} of {} keys", word(2)),
                name => name,
            };
            self.0.entry(name).or_default().push(entry.list()[2].int());
        }
    }
}

fn is_long(micros: i64) -> bool {
    u128::try_from(micros).is_ok_and(|micros| micros > MOST.as_micros())
}

fn line(of: &str, taken: &mut [i64]) -> String {
    taken.sort_unstable();
    let at = |share: usize| taken[(taken.len() * share / 1_000).min(taken.len() - 1)];
    let long = taken.iter().filter(|us| is_long(**us)).count();
    format!(
        "{of:20} {:>7} times: p50 {:>5} us, p99 {:>5}, p99.9 {:>5}, max {:>5}; {long} over 5 ms",
        taken.len(),
        at(500),
        at(990),
        at(999),
        at(1_000),
    )
}

/// One verb under way.
struct Meter<'a> {
    t: &'a Fixture,
    noted: Noted,
    /// Of each step, for one of its calls.
    on_core: Vec<i64>,
    /// What asking takes.
    own_us: i64,
}

impl<'a> Meter<'a> {
    fn new(t: &'a Fixture) -> Self {
        t.redis(&["SLOWLOG", "RESET"]);
        t.redis(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
        let mut meter = Self {
            t,
            noted: Noted::default(),
            on_core: Vec::new(),
            own_us: 0,
        };
        let mut own: Vec<i64> = (0..101)
            .map(|_| -(meter.on_core_us() - meter.on_core_us()))
            .collect();
        own.sort_unstable();
        meter.own_us = own[50];
        meter
    }

    fn on_core_us(&self) -> i64 {
        (self.t.redis_seconds() * 1e6) as i64
    }

    fn scripts(&self) -> i64 {
        i64::try_from(self.t.commands("evalsha") + self.t.commands("eval")).expect("few")
    }

    /// Something that calls a script, perhaps several times, and does nothing else.
    async fn step<T>(&mut self, call: impl Future<Output = T>) -> T {
        let (scripts, before) = (self.scripts(), self.on_core_us());
        let done = call.await;
        let took = self.on_core_us() - before - self.own_us;
        self.on_core.push(took / (self.scripts() - scripts).max(1));
        if self.on_core.len().is_multiple_of(1_000) {
            self.noted.take(self.t);
        }
        done
    }

    /// Says what it took, and what took too long.
    fn end(mut self, verb: &str) -> Vec<String> {
        let off = ["CONFIG", "SET", "slowlog-log-slower-than", "-1"];
        self.t.redis(&off);
        self.noted.take(self.t);
        println!("{verb}");
        if !self.on_core.is_empty() {
            println!("    {}", line("a call, on a core", &mut self.on_core));
        }
        let mut too_long = Vec::new();
        // One in a thousand, and one in any case, may be the machine's: a virtual one's core is taken away while the kernel thinks that it is
        // there, and the memory allocator gives back what was freed when it likes.
        let most = |taken: &[i64]| Some(taken[taken.len().checked_sub(2 + taken.len() / 1_000)?]);
        if let Some(us) = most(&self.on_core)
            && is_long(us - BLUR_US)
        {
            too_long.push(format!("{verb}: {us} us on a core"));
        }
        for (name, taken) in &mut self.noted.0 {
            let text = line(name, taken);
            let longest = taken.last().copied().unwrap_or_default();
            let nearly_longest = most(taken).unwrap_or_default();
            if name.starts_with("eval") || longest >= 1_000 {
                println!("    {text}");
            }
            // Otherwise it may have waited for a core; and on a virtual machine one may be taken even from it.
            if is_realtime() && is_long(nearly_longest) {
                too_long.push(format!("{verb}: {text}"));
            }
        }
        too_long
    }
}

fn is_realtime() -> bool {
    std::env::var_os("MILLSTREAM_REALTIME").is_some()
}

/// What the dead jobs of a queue are like.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// As most are: a short record, a short payload.
    Small,
    /// Ten errors of 4 KiB are kept of each.
    LongHistory,
    /// A payload of 1 MiB, and as much progress as is kept.
    Large,
}

impl Kind {
    fn jobs(self) -> usize {
        let given = std::env::var("MILLSTREAM_DEAD_JOBS").ok();
        let jobs = given.map_or(1_000_000, |jobs| jobs.parse().expect("a number of jobs"));
        match self {
            Self::Small => jobs,
            Self::LongHistory => (jobs / 200).max(100),
            Self::Large => (jobs / 2_000).clamp(100, 500),
        }
    }
}

impl Fixture {
    fn plant(&self, kind: Kind) {
        let jobs = kind.jobs();
        self.plant_dead(jobs, 1_600_000_000_000);
        const LARGE: &str = "redis.call('HSET', KEYS[2], ARGV[1], string.rep('p', 1048576))
            redis.call('HSET', KEYS[3], ARGV[1], string.rep('l', 16384))";
        match kind {
            Kind::Small => return,
            Kind::LongHistory => return self.lengthen_histories(),
            Kind::Large => {}
        }
        let keys = ["jobs", "payloads", "progress"].map(|suffix| self.key(suffix));
        for n in 0..jobs {
            let id = format!("{}-0", 1_600_000_000_000 + n);
            let mut command = vec!["EVAL", LARGE, "3"];
            command.extend(keys.iter().map(String::as_str));
            command.push(&id);
            self.redis(&command);
        }
    }

    /// The steps of an audit of everything.
    async fn audited(&self, verb: &str) -> Vec<String> {
        let mut meter = Meter::new(self);
        for part in Part::all() {
            let (mut cursor, mut limit) = (None, 1);
            loop {
                let audit = self.broker.audit(part, cursor.as_deref(), limit, PATIENCE);
                let step = meter.step(audit).await.expect("a step");
                let each = step.bytes / step.looked.max(1);
                // As the doctor does.
                let fit = usize::try_from((1 << 20) / each.max(1)).expect("small");
                limit = fit.min(4 * limit).clamp(1, 50);
                cursor = step.cursor;
                if cursor.is_none() {
                    break;
                }
            }
        }
        meter.end(verb)
    }
}

/// Listings, counts and walks that find nothing, so that everything is looked at.
async fn looked_at(t: &Fixture, inspector: &Inspector, of: &str) -> Vec<String> {
    let none = JobFilter::new().name("nobody");
    let mut too_long = Vec::new();
    let mut meter = Meter::new(t);
    let mut after = None;
    loop {
        let page = inspector
            .page(&none, after.as_deref(), 100)
            .await
            .expect("a page");
        meter.noted.take(t);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    too_long.extend(meter.end(&format!("{of}: jobs list --name nobody")));
    let mut meter = Meter::new(t);
    let mut walk = inspector.walk_dead(&none).await.expect("a walk");
    while walk.next(500).await.expect("a step").is_some() {
        meter.noted.take(t);
    }
    too_long.extend(meter.end(&format!("{of}: dead redrive --name nobody --dry-run")));
    let mut meter = Meter::new(t);
    for _ in 0..20 {
        inspector.stats().await.expect("counts");
        inspector.keys().await.expect("keys");
        inspector.groups(100).await.expect("groups");
        inspector.list(None, 100).await.expect("jobs");
        inspector
            .prune(Some(LATER), Some(LATER), true)
            .await
            .expect("a count");
    }
    meter.noted.take(t);
    too_long.extend(meter.end(&format!(
        "{of}: stats, keys, groups list, jobs list, prune --dry-run"
    )));
    too_long
}

/// Every verb that works through dead jobs of this kind.
async fn worked_through(t: &Fixture, inspector: &Inspector, kind: Kind) -> Vec<String> {
    let (jobs, of) = (kind.jobs(), format!("{} dead {kind:?}", kind.jobs()));
    t.plant(kind);
    let mut too_long = looked_at(t, inspector, &of).await;
    let audit = t.audited(&format!("{of}: doctor")).await;
    // A hash gives all that it has in one place, with the payloads: a few MiB of large ones.
    too_long.extend(audit.into_iter().filter(|_| !matches!(kind, Kind::Large)));

    let mut meter = Meter::new(t);
    let mut walk = inspector
        .walk_dead(&JobFilter::new())
        .await
        .expect("a walk");
    while let Some(step) = walk.next(500).await.expect("a step") {
        for ids in step.ids.chunks(REDRIVE_BATCH) {
            meter.step(inspector.redrive(ids)).await.expect("a redrive");
        }
    }
    too_long.extend(meter.end(&format!("{of}: dead redrive --all")));
    assert_eq!(t.redis(&["XLEN", &t.key("ready")]).int(), jobs as i64);
    let of = format!("{jobs} ready {kind:?}");
    too_long.extend(looked_at(t, inspector, &of).await);
    let audit = t.audited(&format!("{of}: doctor")).await;
    too_long.extend(audit.into_iter().filter(|_| !matches!(kind, Kind::Large)));
    t.wipe().await;

    let of = format!("{jobs} dead {kind:?}");
    t.plant(kind);
    let mut meter = Meter::new(t);
    let mut walk = inspector
        .walk_dead(&JobFilter::new())
        .await
        .expect("a walk");
    while let Some(step) = walk.next(500).await.expect("a step") {
        for ids in step.ids.chunks(OPERATOR_BATCH) {
            meter.step(inspector.purge(ids)).await.expect("a purge");
        }
    }
    too_long.extend(meter.end(&format!("{of}: dead purge --all")));
    t.wipe().await;

    t.plant(kind);
    let mut meter = Meter::new(t);
    let mut walk = inspector.walk_prune(Some(LATER), Some(Duration::ZERO));
    while meter
        .step(walk.next(OPERATOR_BATCH))
        .await
        .expect("a step")
        .is_some()
    {}
    too_long.extend(meter.end(&format!("{of}: prune")));
    t.wipe().await;
    too_long
}

/// A group with jobs everywhere, purged; and a queue with holes, mended.
async fn purged_and_mended(t: &Fixture, inspector: &Inspector, jobs: usize) -> Vec<String> {
    let enqueue = async |job: NewJob| {
        for _ in 0..jobs.div_ceil(1_000) {
            t.try_enqueue(&vec![job.clone(); 1_000])
                .await
                .expect("an enqueue");
        }
    };
    enqueue(NewJob::raw("job", "payload").group("shop")).await;
    enqueue(NewJob::raw("job", "payload").group("shop").delay(LATER)).await;
    let one = millstream::inspect::GroupLimits::new().concurrency(Some(1));
    inspector
        .set_group_limits(Some("shop"), &one)
        .await
        .expect("limits");
    enqueue(NewJob::raw("job", "payload").group("shop")).await;
    let mut too_long = looked_at(
        t,
        inspector,
        &format!("{jobs} ready, held and scheduled of one group"),
    )
    .await;
    let mut meter = Meter::new(t);
    let mut walk = inspector.walk_group_purge("shop", false).expect("a walk");
    while walk.step().await.expect("a step") {
        meter.noted.take(t);
    }
    too_long.extend(meter.end(&format!("{} jobs: groups purge", walk.purged().total())));
    t.wipe().await;

    t.plant_dead(jobs, 1_600_000_000_000);
    for n in (0..jobs).step_by(10) {
        let id = format!("{}-0", 1_600_000_000_000 + n);
        t.redis(&[
            "HDEL",
            &t.key(if n % 20 == 0 { "payloads" } else { "jobs" }),
            &id,
        ]);
    }
    let mut meter = Meter::new(t);
    let client = Millstream::connect(&t.url).await.expect("a client");
    let doctor = client.doctor().queues([t.queue.clone()]).repair(true);
    doctor
        .run(|_, _| meter.noted.take(t))
        .await
        .expect("an audit");
    too_long.extend(meter.end(&format!(
        "{jobs} dead jobs, {} damaged: doctor --repair",
        jobs / 10
    )));
    t.wipe().await;
    too_long
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; MILLSTREAM_DEAD_JOBS says of how many jobs, else a million. Run it with --nocapture"]
async fn a_million_jobs_are_worked_through_in_calls_that_take_redis_less_than_5_ms() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    if is_realtime() {
        let pid = redis.pid().expect("it runs").to_string();
        let made = Command::new("chrt")
            .args(["-a", "-f", "-p", "1", &pid])
            .status();
        assert!(made.expect("chrt of util-linux").success(), "only root may");
    }
    let t = Fixture::on(&redis).await;
    t.redis(&["CONFIG", "SET", "slowlog-max-len", "100000"]);
    let inspector = t.inspector().await;
    let mut too_long = Vec::new();
    for kind in [Kind::LongHistory, Kind::Large, Kind::Small] {
        too_long.extend(worked_through(&t, &inspector, kind).await);
    }
    too_long.extend(purged_and_mended(&t, &inspector, Kind::Small.jobs() / 10).await);
    assert!(too_long.is_empty(), "{too_long:#?}");
}
