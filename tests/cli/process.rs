//! Worker processes that are told to stop, and worker processes that are killed.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Cli, PATIENCE, Process, is_running};

/// Writes start and end of each job into the log; the payload is how long it takes, in seconds.
const HANDLER: &str = r#"read -r seconds
echo "start $MILLSTREAM_JOB_ID $MILLSTREAM_JOB_ATTEMPT" >> log
sleep "$seconds"
echo "end $MILLSTREAM_JOB_ID" >> log"#;

impl Cli {
    fn worker(&self, flags: &[&str]) -> Process {
        let mut args = vec!["worker", "--queue", "q", "--lease", "2s"];
        args.extend(flags);
        args.extend(["--command", "sh", "--", "-c", HANDLER]);
        let child = self
            .command(&args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Process(child)
    }

    fn enqueue(&self, seconds: &str, count: &str) {
        self.ok(&[
            "enqueue",
            "q",
            "--name",
            "a",
            "--payload",
            seconds,
            "--count",
            count,
        ]);
    }
}

#[tokio::test]
async fn sigterm_lets_a_running_job_finish_and_exits_0() {
    let cli = Cli::new();
    let mut worker = cli.worker(&[]);
    cli.enqueue("5", "1");
    cli.wait_for_log(1);

    worker.signal("TERM");

    assert_eq!(worker.wait(PATIENCE), Some(0));
    assert_eq!(cli.log().len(), 2, "the job ended: {:?}", cli.log());
    let stats = cli.stats("q").await;
    assert_eq!((stats.completed_total, stats.ready + stats.running), (1, 0));
}

#[tokio::test]
async fn a_job_that_outlasts_the_shutdown_timeout_is_handed_back_and_keeps_its_attempt() {
    let cli = Cli::new();
    let mut worker = cli.worker(&["--shutdown-timeout", "300ms"]);
    cli.enqueue("60", "1");
    cli.wait_for_log(1);

    let told = Instant::now();
    worker.signal("TERM");
    assert_eq!(worker.wait(PATIENCE), Some(0));
    let (took, stats) = (told.elapsed(), cli.stats("q").await);

    // Grace and 2 s; a program that is told to end has a few seconds more, so the limit is generous.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(
        (
            stats.ready,
            stats.running,
            stats.failed_total,
            stats.stalled_total
        ),
        (1, 0, 0, 0)
    );
    let jobs = cli.json(&["jobs", "list", "q", "--json"]);
    assert_eq!(jobs[0]["attempt"], 1);
}

#[tokio::test]
async fn jobs_that_had_not_started_run_elsewhere_at_once_with_their_first_attempt() {
    let cli = Cli::new();
    let mut first = cli.worker(&["--concurrency", "1", "--prefetch", "20"]);
    cli.enqueue("1", "1");
    cli.wait_for_log(1);
    cli.enqueue("0", "10");
    cli.wait_for("q", "a full prefetch", |stats| stats.running > 5)
        .await;
    let _second = cli.worker(&["--concurrency", "10"]);

    first.signal("TERM");

    let stats = cli
        .wait_for("q", "the end of all jobs", |stats| {
            stats.completed_total == 11
        })
        .await;
    assert_eq!((stats.failed_total, stats.stalled_total), (0, 0));
    assert_eq!(first.wait(PATIENCE), Some(0));
    let starts: Vec<String> = cli
        .log()
        .into_iter()
        .filter(|line| line.starts_with("start"))
        .collect();
    assert_eq!(starts.len(), 11, "each ran once: {starts:?}");
    assert!(starts.iter().all(|line| line.ends_with(" 1")), "{starts:?}");
}

#[tokio::test]
async fn a_killed_worker_loses_nothing_and_its_jobs_run_again_elsewhere() {
    let cli = Cli::new();
    let victim = cli.worker(&["--concurrency", "5"]);
    cli.enqueue("0.5", "30");
    cli.wait_for_log(5);
    let survivor = cli.worker(&["--concurrency", "5"]);

    drop(victim); // SIGKILL

    let stats = cli
        .wait_for("q", "the end of all jobs", |stats| {
            stats.completed_total == 30
        })
        .await;
    assert_eq!(
        stats.ready + stats.running + stats.scheduled + stats.dead,
        0
    );
    assert!(
        stats.stalled_total >= 5,
        "the victim's jobs were reclaimed: {stats:?}"
    );
    assert_eq!(stats.failed_total, 0, "a crash is not the job's fault");
    let ended: HashSet<String> = cli
        .log()
        .into_iter()
        .filter(|line| line.starts_with("end"))
        .collect();
    assert_eq!(ended.len(), 30);
    drop(survivor);
}

#[tokio::test]
async fn a_second_signal_leaves_at_once() {
    let cli = Cli::new();
    let mut worker = cli.worker(&[]);
    cli.enqueue("60", "1");
    cli.wait_for_log(1);

    worker.signal("TERM");
    cli.wait_for_quiet(&mut worker);
    let told = Instant::now();
    worker.signal("TERM");

    assert_eq!(worker.wait(PATIENCE), Some(143));
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );
}

#[tokio::test]
async fn a_second_signal_leaves_no_program_behind() {
    let cli = Cli::new();
    let script = "sleep 60 & echo $$ >> log; echo $! >> log; wait";
    let args = [
        "worker",
        "--queue",
        "q",
        "--command",
        "sh",
        "--",
        "-c",
        script,
    ];
    let mut worker = Process(
        cli.command(&args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    cli.enqueue("0", "1");
    let programs = cli.wait_for_log(2);

    worker.signal("TERM");
    // A first signal that is still being taken would swallow the second.
    std::thread::sleep(Duration::from_millis(300));
    worker.signal("TERM");

    assert_eq!(worker.wait(PATIENCE), Some(143));
    let began = Instant::now();
    for program in programs {
        while is_running(&program) {
            assert!(began.elapsed() < PATIENCE, "{program} was left running");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Cli {
    /// Waits until the first signal has been taken: from then on the worker claims no more.
    fn wait_for_quiet(&self, worker: &mut Process) {
        let began = Instant::now();
        loop {
            self.enqueue("0", "1");
            std::thread::sleep(Duration::from_millis(200));
            let ready = self.json(&["stats", "q", "--json"])["ready"]
                .as_u64()
                .unwrap();
            if ready > 0 {
                return;
            }
            assert!(worker.0.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE);
        }
    }
}
