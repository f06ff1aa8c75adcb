//! Worker processes that are frozen, as a machine that sleeps or swaps does: another one takes over, and when they wake they
//! change nothing.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Cli, PATIENCE, Process, is_running};

/// Notes its own process id. The first run of each job goes on until it is told; every later one is done at once.
const HANDLER: &str = r#"read -r payload
echo "$payload $$" >> log
if mkdir "first-$payload" 2> /dev/null; then
  while [ ! -e "end-$payload" ]; do sleep 0.05; done
fi"#;

impl Cli {
    fn freezable_worker(&self) -> Process {
        let mut args = vec!["worker", "--queue", "q", "--lease", "1s"];
        args.extend(["--command", "sh", "--", "-c", HANDLER]);
        let mut command = self.command(&args);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        Process(child.unwrap())
    }

    fn enqueue_freezable(&self, payload: &str, more: &[&str]) {
        let mut args = vec!["enqueue", "q", "--name", "a", "--payload", payload];
        args.extend(more);
        self.ok(&args);
    }

    /// The process id of the worker that does the upkeep.
    fn upkeeper(&self) -> Option<u32> {
        let redis_cli = Command::new("redis-cli")
            .args(self.redis.cli_args())
            .args(["GET", "millstream:{q}:upkeep"])
            .output()
            .unwrap();
        // A worker's name begins with its process id.
        let name = String::from_utf8(redis_cli.stdout).unwrap();
        name.split('-').next()?.parse().ok()
    }
}

#[tokio::test]
async fn a_worker_that_wakes_after_its_leases_ended_settles_nothing_and_stops_its_program() {
    let cli = Cli::new();
    let mut frozen = cli.freezable_worker();
    cli.enqueue_freezable("running", &[]);
    cli.enqueue_freezable("ending", &[]);
    let programs = cli.wait_for_log(2);
    let program_of = |payload: &str| {
        let line = programs.iter().find(|line| line.starts_with(payload));
        line.unwrap().split(' ').nth(1).unwrap().to_owned()
    };

    frozen.signal("STOP");
    // One of its programs comes to its end meanwhile, and it will hear of that when it wakes.
    std::fs::write(cli.dir.path().join("end-ending"), "").unwrap();
    let _other = cli.freezable_worker();
    cli.wait_for("q", "the end of both jobs", |stats| {
        stats.completed_total == 2
    })
    .await;
    assert!(is_running(&program_of("running")));
    frozen.signal("CONT");

    let began = Instant::now();
    while is_running(&program_of("running")) {
        assert!(began.elapsed() < PATIENCE, "its program goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It is well and works, and it has nothing to say about the two.
    frozen.signal("TERM");
    assert_eq!(frozen.wait(PATIENCE), Some(0));
    let stats = cli.stats("q").await;
    let failures = stats.failed_total + stats.retried_total + stats.dead;
    assert_eq!((stats.completed_total, failures), (2, 0));
    assert_eq!(cli.log().len(), 4, "each ran twice: {:?}", cli.log());
}

#[tokio::test]
async fn a_due_job_is_promoted_though_the_worker_that_does_the_upkeep_is_frozen() {
    let cli = Cli::new();
    let workers = [cli.freezable_worker(), cli.freezable_worker()];
    let began = Instant::now();
    let leader = loop {
        assert!(began.elapsed() < PATIENCE, "nobody does the upkeep");
        let leader = cli.upkeeper();
        if let Some(worker) = workers.iter().find(|worker| Some(worker.0.id()) == leader) {
            break worker;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    cli.enqueue_freezable("due", &["--delay", "1s"]);
    std::fs::write(cli.dir.path().join("end-due"), "").unwrap();

    leader.signal("STOP");
    let began = Instant::now();
    cli.wait_for("q", "the promotion", |stats| stats.scheduled == 0)
        .await;

    // Due after a second; the lock of 200 ms and 2 s more; the rest is for a loaded machine.
    let took = began.elapsed();
    assert!(took < Duration::from_millis(3_200 + 7_000), "{took:?}");
    // It may have been delivered into the frozen worker's read: then it runs when that lease ends.
    cli.wait_for("q", "its end", |stats| stats.completed_total == 1)
        .await;
    leader.signal("CONT");
}
