//! Jobs that kill the worker that runs them, among jobs that do not.

use std::process::Stdio;
use std::time::Instant;

use crate::support::{Cli, PATIENCE, Process};

/// A payload `poison` kills the worker; every other job takes a moment.
const HANDLER: &str = r#"read -r payload
if [ "$payload" = poison ]; then kill -9 $PPID; fi
sleep 0.1"#;

impl Cli {
    fn fragile_worker(&self) -> Process {
        let mut args = vec!["worker", "--queue", "q", "--lease", "1s"];
        args.extend(["--concurrency", "8", "--command", "sh", "--", "-c", HANDLER]);
        let mut command = self.command(&args);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        Process(child.unwrap())
    }

    fn enqueue_fragile(&self, payload: &str, count: &str) {
        let mut args = vec!["enqueue", "q", "--name", "a", "--payload", payload];
        args.extend(["--count", count]);
        self.ok(&args);
    }

    /// Starts a worker, and another one whenever it is killed, until nothing is left to run; returns how many were killed.
    async fn run_to_the_end(&self, jobs: u64) -> usize {
        let (began, mut killed) = (Instant::now(), 0);
        let mut worker = self.fragile_worker();
        loop {
            if worker.0.try_wait().unwrap().is_some() {
                killed += 1;
                worker = self.fragile_worker();
            }
            let stats = self.stats("q").await;
            if stats.completed_total + stats.dead == jobs {
                return killed;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "after {killed} kills: {stats:?}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_job_that_kills_its_worker_dies_as_a_crash_loop_and_takes_no_other_along() {
    let cli = Cli::new();
    cli.enqueue_fragile("good", "4");
    cli.enqueue_fragile("poison", "1");
    cli.enqueue_fragile("good", "20");

    let killed = cli.run_to_the_end(25).await;

    assert_eq!(killed, 3, "one kill for each stall that it is allowed");
    let dead = cli.json(&["dead", "list", "q", "--json"]);
    let dead = dead.as_array().unwrap();
    assert_eq!(dead.len(), 1, "{dead:?}");
    let id = dead[0]["id"].as_str().unwrap();
    let shown = cli.json(&["dead", "show", "q", id, "--json"]);
    assert_eq!(shown["reason"], "crash_loop");
    assert_eq!(shown["payload"], "poison");
    let stats = cli.stats("q").await;
    assert_eq!((stats.completed_total, stats.failed_total), (24, 0));
}
