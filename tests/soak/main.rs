//! A soak: worker and producer processes under load while everything around them breaks, seeded; then all is drained, and
//! every job must have been stored once, ended once, and ended right.
//!
//! `cargo test --release --test soak -- --ignored --nocapture` runs for ten minutes. `MILLSTREAM_SOAK_SECONDS` says how long
//! there is load, `MILLSTREAM_SOAK_SEED` which faults strike when: the same seed gives the same plan. A short one with a
//! fixed seed is a test like every other. When something is wrong, the records of all processes and Redis's data stay
//! where the message says.
//!
//! `plan` says what strikes when, `run` plays it, `worker` and `producer` are the processes, `record` is what they write
//! down, `history` puts it together, and `check` has the rules.

mod audit;
mod check;
mod history;
mod jobs;
mod plan;
mod process;
mod producer;
mod proxy;
mod random;
mod record;
mod report;
mod run;
#[path = "../it/support/mod.rs"]
#[allow(
    dead_code,
    reason = "the soak needs the scanner of all keys, and not the verbs"
)]
mod support;
mod worker;

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use history::History;
use plan::Plan;
use process::Part;
use run::Ran;

/// With the drain, about a minute.
const SHORT: Duration = Duration::from_secs(45);
const LONG: Duration = Duration::from_secs(600);

#[test]
fn a_minute_of_chaos_loses_doubles_and_strands_no_job() {
    soak(from_env("MILLSTREAM_SOAK_SEED").unwrap_or(1), SHORT);
}

#[test]
#[ignore = "takes ten minutes: cargo test --release --test soak -- --ignored --nocapture"]
fn long_chaos_loses_doubles_and_strands_no_job() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seed =
        from_env("MILLSTREAM_SOAK_SEED").unwrap_or_else(|| now.map_or(0, |now| now.as_secs()));
    let seconds = from_env("MILLSTREAM_SOAK_SECONDS").map(Duration::from_secs);
    soak(seed, seconds.unwrap_or(LONG));
}

/// No test of its own, but where the processes of a soak start; see [`process`].
#[test]
fn a_process_of_the_soak_begins_here() {
    if let Some(part) = Part::of_this_process() {
        part.play();
    }
}

fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} = {value:?}: a whole number is expected")))
}

fn soak(seed: u64, load: Duration) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = Plan::new(seed, load);
    let dir = tempfile::Builder::new()
        .prefix("millstream-soak-")
        .tempdir();
    // Kept, unless all is well in the end.
    let dir = dir.expect("a directory").keep();
    let faults = plan.faults.len();
    println!(
        "soak of {load:?}, seed {seed}, {faults} faults; records in {}",
        dir.display()
    );

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ran = runtime.expect("a runtime").block_on(run::run(&plan, &dir));
    let mut history = History::read(&dir, &plan);
    for (id, payload) in &ran.remains.payloads {
        history.take_payload(id, payload);
    }
    let mut offences = check::offences(&history, &ran.remains);
    if ran.drained.is_none() {
        offences.insert(
            0,
            check::Offence {
                rule: "drained",
                job: None,
                what: "jobs were unfinished long after the load".to_owned(),
            },
        );
    }
    let drained_ms = ran.drained.map_or(0, |drained| drained.as_millis() as u64);
    let report = report::Report::new(&plan, &history, &ran.remains, &offences, drained_ms);
    println!("{}\n{}", report.table(), report.json());
    if offences.is_empty() {
        std::fs::remove_dir_all(&dir).expect("the directory is ours");
        return;
    }
    keep_redis_data(&ran, &dir);
    for offence in offences.iter().take(30) {
        let job = offence.job.as_deref().unwrap_or_default();
        println!("{}: {job} {}", offence.rule, offence.what);
    }
    if let Some(id) = offences.iter().find_map(|offence| offence.job.as_deref()) {
        println!(
            "all that is known of {id}:\n{}",
            report::story(&dir, &history, id)
        );
    }
    panic!(
        "seed {seed}: {} offences, the first: {:?}; records and data are kept in {}",
        offences.len(),
        offences[0],
        dir.display()
    );
}

/// The append-only file and the log, beside the records.
fn keep_redis_data(ran: &Ran, dir: &Path) {
    let kept = dir.join("redis");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .args([ran.redis.dir(), &kept])
        .status();
    if !copied.is_ok_and(|status| status.success()) {
        println!("Redis's data could not be kept in {}", kept.display());
    }
}
