//! A trace that begins at the command line, and what a log tells of jobs, which is never their payload.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Cli, Process};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

impl Cli {
    /// A worker of `q` that runs `script`, and logs all that it can to `worker.log`.
    fn noisy_worker(&self, format: &str, script: &str) -> Process {
        let worker = [
            "worker",
            "--queue",
            "q",
            "--backoff",
            "fixed(1ms)",
            "-vv",
            "--log-format",
            format,
        ];
        let mut command = self.command(&worker);
        command.args(["--command", "sh", "--", "-c", script]);
        let log = std::fs::File::create(self.dir.path().join("worker.log")).unwrap();
        command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stderr(log);
        Process(command.spawn().unwrap())
    }

    fn worker_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("worker.log")).unwrap()
    }
}

#[test]
fn a_trace_that_was_given_at_the_command_line_reaches_the_program() {
    let cli = Cli::new();
    let traced = [
        "enqueue",
        "q",
        "--name",
        "a",
        "--traceparent",
        PARENT,
        "--tracestate",
        "vendor=1",
    ];
    cli.ok(&traced);
    let _worker = cli.noisy_worker("json", "echo \"$TRACEPARENT $TRACESTATE\" >> log");
    assert_eq!(cli.wait_for_log(1), [format!("{PARENT} vendor=1")]);

    for (flag, value) in [
        (
            "--traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ),
        (
            "--traceparent",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ),
        ("--traceparent", ""),
    ] {
        let output = cli.run(&["enqueue", "q", "--name", "a", flag, value]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{value}: {said}");
        assert!(said.contains("traceparent"), "{value}: {said}");
    }
    // A state without a trace says nothing.
    let output = cli.run(&["enqueue", "q", "--name", "a", "--tracestate", "vendor=1"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(cli.json(&["stats", "q", "--json"])["enqueued_total"], 1);
}

#[tokio::test]
async fn a_log_names_queue_job_attempt_and_trace_and_never_a_payload() {
    for format in ["text", "json"] {
        let cli = Cli::new();
        let job = |payload: &str| {
            let job = [
                "enqueue",
                "q",
                "--name",
                "a",
                "--max-attempts",
                "2",
                "--payload",
                payload,
            ];
            cli.ok(&[&job[..], &["--traceparent", PARENT]].concat())
                .trim()
                .to_owned()
        };
        let failing = "case $(cat) in *fail*) echo no luck >&2; exit 1;; *refuse*) exit 65;; *) exit 0;; esac";
        let mut worker = cli.noisy_worker(format, failing);
        let failed = job("canary-fail");
        job("canary-refuse");
        job("canary-done");
        let all =
            |stats: &millstream::inspect::Stats| stats.dead == 2 && stats.completed_total == 1;
        cli.wait_for("q", "the end of all", all).await;
        // Dead and then alive again, and looked at by an operator who logs all that there is as well.
        let mut told = String::new();
        for args in [
            &["dead", "redrive", "q", "--all", "-vv"][..],
            &["jobs", "list", "q", "-vv"],
            &["doctor", "q", "-vv"],
        ] {
            let output = cli
                .command(args)
                .args(["--log-format", format])
                .output()
                .unwrap();
            told += &String::from_utf8_lossy(&output.stderr);
            told += &String::from_utf8_lossy(&output.stdout);
        }
        cli.wait_for("q", "their second death", |stats| stats.dead_total == 4)
            .await;
        worker.signal("TERM");
        assert_eq!(worker.wait(crate::support::PATIENCE), Some(0));

        let log = cli.worker_log();
        assert!(log.contains("TRACE") && !log.contains('\u{1b}'), "{log}");
        for line in log.lines().chain(told.lines()) {
            assert!(!line.contains("canary"), "{format}: {line}");
        }
        let of_job: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(&failed) && line.contains(TRACE))
            .collect();
        assert!(!of_job.is_empty(), "{format}: {log}");
        if format == "json" {
            let lines = of_job
                .iter()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            let attempts: Vec<Value> = lines
                .filter(|line| {
                    line["job"] == failed.as_str()
                        && line["queue"] == "q"
                        && line["trace_id"] == TRACE
                })
                .map(|line| line["attempt"].clone())
                .collect();
            assert!(
                attempts.contains(&1.into()) && attempts.contains(&2.into()),
                "{attempts:?} in {log}"
            );
        }
    }
}
