//! Waiting for a job from the command line.

use std::process::Stdio;

use crate::support::{Cli, Process};

fn worker(cli: &Cli, script: &str) -> Process {
    let args = [
        "worker",
        "--queue",
        "q",
        "--max-attempts",
        "1",
        "--command",
        "sh",
        "--",
        "-c",
        script,
    ];
    let mut command = cli.command(&args);
    let command = command.stdin(Stdio::null()).stderr(Stdio::null());
    Process(command.spawn().unwrap())
}

#[test]
fn whoever_waits_hears_that_the_job_is_done_or_dead_or_unknown() {
    let cli = Cli::new();
    let _worker = worker(&cli, "test \"$MILLSTREAM_JOB_NAME\" = good");

    let done = cli.json(&[
        "enqueue",
        "q",
        "--name",
        "good",
        "--keep-result",
        "1h",
        "--wait",
        "--json",
    ]);
    assert_eq!(
        (&done["name"], &done["attempt"], &done["result"]),
        (&"good".into(), &1.into(), &serde_json::Value::Null)
    );
    let id = done["id"].as_str().unwrap();
    assert_eq!(cli.ok(&["jobs", "wait", "q", id]), "");

    let bad = cli.ok(&["enqueue", "q", "--name", "bad", "--keep-result", "1h"]);
    for (id, said) in [(bad.trim(), "is dead (attempts)"), ("1-0", "has no result")] {
        let output = cli.run(&["jobs", "wait", "q", id, "--timeout", "30s"]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains(said), "{words}");
    }
}

#[test]
fn a_job_that_is_not_finished_in_time_goes_on_and_the_command_says_so() {
    let cli = Cli::new();
    let id = cli.ok(&["enqueue", "q", "--name", "a", "--keep-result", "1h"]);

    let output = cli.run(&["jobs", "wait", "q", id.trim(), "--timeout", "50ms"]);

    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("is not finished after 50ms"), "{words}");
    let list = cli.json(&["jobs", "list", "q", "--json"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
}
