//! What an operator watches: events, workers, counts that move; and the pages about the commands themselves.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Cli, PATIENCE, Process};

/// A command that goes on until it is stopped, and its lines.
struct Watched {
    _process: Process,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
}

impl Watched {
    fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            stdout: lines_of(child.stdout.take().unwrap()),
            stderr: lines_of(child.stderr.take().unwrap()),
            _process: Process(child),
        }
    }

    fn next(&self) -> String {
        self.stdout.recv_timeout(PATIENCE).expect("a line in time")
    }

    fn next_json(&self) -> Value {
        let line = self.next();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Waits for a line of the log that says so.
    fn warns(&self, of: &str) {
        while !self
            .stderr
            .recv_timeout(PATIENCE)
            .expect("a warning in time")
            .contains(of)
        {}
    }
}

fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

impl Cli {
    fn delayed(&self) -> String {
        let args = ["enqueue", "q", "--name", "a", "--delay", "1h"];
        self.ok(&args).trim().to_owned()
    }
}

#[test]
fn events_tell_what_happened_and_go_on_telling_when_followed() {
    let cli = Cli::new();
    cli.ok(&["pause", "q"]);
    let first = cli.delayed();
    cli.ok(&["jobs", "cancel", "q", &first]);

    let text = cli.ok(&["events", "q", "--json"]);
    let told: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let kinds: Vec<&Value> = told.iter().map(|event| &event["event"]).collect();
    assert_eq!(kinds, ["paused", "cancelled"]);
    assert_eq!(told[1]["job"], first.as_str());
    let newest = cli.ok(&["events", "q", "--limit", "1"]);
    assert!(
        newest.contains("cancelled") && !newest.contains("paused"),
        "{newest}"
    );

    let args = ["events", "q", "--follow", "--limit", "1", "--json"];
    let followed = Watched::start(cli.command(&args));
    assert_eq!(followed.next_json()["entry"], told[1]["entry"]);
    cli.ok(&["resume", "q"]);
    assert_eq!(followed.next_json()["event"], "resumed");
    let second = cli.delayed();
    cli.ok(&["jobs", "cancel", "q", &second]);
    assert_eq!(followed.next_json()["job"], second.as_str());
}

#[test]
fn events_are_followed_through_an_outage_and_a_gap_is_told() {
    let cli = Cli::new();
    let followed = Watched::start(cli.command(&["events", "q", "--follow", "--json"]));
    // Until it follows, what happens is not shown.
    let event = loop {
        cli.ok(&["pause", "q"]);
        if let Ok(line) = followed.stdout.recv_timeout(Duration::from_millis(300)) {
            break line;
        }
    };
    assert!(event.contains("paused"), "{event}");

    cli.redis.kill().unwrap();
    followed.warns("cannot look");
    // Without persistence Redis comes back empty: what the follower had seen is gone.
    cli.redis.restart().unwrap();
    cli.ok(&["resume", "q"]);
    while followed.next_json()["event"] != "resumed" {}
    followed.warns("some events are gone");
}

#[tokio::test]
async fn workers_are_listed_with_what_they_hold() {
    let cli = Cli::new();
    assert_eq!(cli.ok(&["workers", "q"]), "no workers\n");
    let args = ["worker", "--queue", "q", "--command", "sleep", "600"];
    let worker = Process(
        cli.command(&args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    cli.ok(&["enqueue", "q", "--name", "a", "--count", "3"]);
    cli.wait_for("q", "running jobs", |stats| stats.running == 3)
        .await;

    let workers = cli.json(&["workers", "--json"]);
    assert_eq!(workers.as_array().map(Vec::len), Some(1), "{workers}");
    let listed = &workers[0];
    assert_eq!(
        (&listed["queue"], &listed["pid"], &listed["running"]),
        (&"q".into(), &worker.0.id().into(), &3.into())
    );
    assert!(listed["idle_ms"].as_u64() < Some(60_000), "{listed}");
    let table = cli.ok(&["workers", "q"]);
    assert!(table.contains(&worker.0.id().to_string()), "{table}");
}

#[test]
fn counts_are_shown_again_and_again_with_rates() {
    let cli = Cli::new();
    cli.ok(&["enqueue", "q", "--name", "a"]);
    let flags = ["--watch", "--interval", "100ms"];
    let args = [&["stats", "q", "--json"], &flags[..]].concat();
    let watched = Watched::start(cli.command(&args));
    assert_eq!(watched.next_json()["ready"], 1);
    cli.ok(&["enqueue", "q", "--name", "a"]);
    while watched.next_json()["ready"] != 2 {}

    let table = Watched::start(cli.command(&[&["stats"], &flags[..]].concat()));
    while !table.next().contains("done/s") {}
    let one = Watched::start(cli.command(&[&["stats", "q"], &flags[..]].concat()));
    while !one.next().contains("enqueued per second") {}
    // Where there is no terminal, `top` is the same.
    let top = Watched::start(cli.command(&["top", "--interval", "100ms"]));
    while !top.next().contains("done/s") {}
}

#[test]
fn listings_go_beyond_one_look_at_a_stream_or_a_set() {
    let cli = Cli::new();
    let many = ["enqueue", "q", "--name", "a", "--count", "1200"];
    cli.ok(&many);
    cli.ok(&[&many[..], &["--delay", "1h"]].concat());
    for state in ["ready", "scheduled"] {
        let args = [
            "jobs", "list", "q", "--state", state, "--limit", "1150", "--json",
        ];
        let listed = cli.json(&args);
        let mut ids: Vec<&str> = listed
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_str().unwrap())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1150, "{state}");
    }
}

#[test]
fn shells_and_man_learn_every_command() {
    let cli = Cli::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = cli.ok(&["completions", shell]);
        for word in ["redrive", "forward", "run-now"] {
            assert!(script.contains(word), "{word} is not in that of {shell}");
        }
        // The shell itself, where it is here.
        let file = cli.dir.path().join(shell);
        std::fs::write(&file, &script).unwrap();
        if let ("bash" | "zsh" | "fish", Ok(read)) =
            (shell, Command::new(shell).arg("-n").arg(&file).output())
        {
            let said = String::from_utf8_lossy(&read.stderr);
            assert!(read.status.success() && said.is_empty(), "{shell}: {said}");
        }
    }
    let page = cli.ok(&["man"]);
    assert!(page.contains(".TH millstream 1"), "{page}");
    cli.ok(&["man", "--dir", "."]);
    for name in ["millstream.1", "millstream-dead-redrive.1"] {
        assert!(cli.dir.path().join(name).is_file(), "{name}");
    }
    let refused = cli.run(&["man", "--dir", "missing"]);
    assert_eq!(refused.status.code(), Some(1));
}
