//! Schedules from the command line and the config file, and worker processes that fire them while they are killed.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use millstream::Millstream;
use millstream::inspect::JobView;
use millstream::job::state::State;
use serde_json::Value;

use crate::support::{Cli, PATIENCE, Process};

impl Cli {
    fn service(&self, args: &[&str]) -> Process {
        let mut command = self.command(args);
        let command = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Process(command.spawn().unwrap())
    }

    fn write(&self, file: &str, text: &str) -> String {
        let path = self.dir.path().join(file);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn schedules(&self) -> Vec<Value> {
        let Value::Array(list) = self.json(&["cron", "list", "--json"]) else {
            panic!("no list");
        };
        list
    }

    fn ids(&self) -> Vec<String> {
        let ids = self.schedules();
        let mut ids: Vec<String> = ids
            .iter()
            .map(|view| view["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    }

    fn wait_for_ids(&self, wanted: &[&str]) {
        let began = Instant::now();
        while self.ids() != wanted {
            assert!(
                began.elapsed() < PATIENCE,
                "{:?} instead of {wanted:?}",
                self.ids()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_schedule_is_set_listed_paused_resumed_and_removed() {
    let cli = Cli::new();
    let set = |more: &[&str]| {
        let args = [
            "cron",
            "set",
            "nightly",
            "--queue",
            "tokens",
            "--cron",
            "0 3 * * *",
            "--zone",
            "Europe/Bucharest",
            "--name",
            "health",
        ];
        let args: Vec<&str> = args.iter().chain(more).copied().collect();
        cli.ok(&args)
    };

    let dry = set(&["--dry-run"]);
    assert!(
        dry.contains("would be set") && dry.lines().count() == 6,
        "{dry}"
    );
    assert_eq!(cli.ids(), [""; 0]);
    let created: Value = serde_json::from_str(&set(&["--json", "--runs", "2"])).unwrap();
    assert_eq!(
        (&created["change"], &created["queue"]),
        (&"created".into(), &"tokens".into())
    );
    assert_eq!(created["next_runs_ms"].as_array().unwrap().len(), 2);
    assert!(set(&[]).starts_with("nightly of tokens: unchanged"));
    assert!(set(&["--payload", "x"]).starts_with("nightly of tokens: changed"));
    assert_eq!(cli.schedules()[0]["priority"], "normal");
    assert!(set(&["--priority", "high"]).starts_with("nightly of tokens: changed"));
    assert_eq!(cli.schedules()[0]["priority"], "high");

    let list = cli.schedules();
    assert_eq!(
        (list.len(), &list[0]["cron"], &list[0]["paused"]),
        (1, &"0 3 * * *".into(), &false.into())
    );
    assert_eq!(list[0]["next_runs_ms"][0], list[0]["next_due_ms"]);
    let table = cli.ok(&["cron", "list", "tokens", "--runs", "3"]);
    assert!(
        table.contains("nightly") && table.contains("Europe/Bucharest"),
        "{table}"
    );

    assert!(cli.ok(&["cron", "pause", "nightly"]).contains("paused"));
    assert_eq!(cli.schedules()[0]["paused"], true);
    assert!(cli.ok(&["cron", "list"]).contains("paused"));
    assert!(
        cli.ok(&["cron", "resume", "nightly", "--queue", "tokens"])
            .contains("next at")
    );
    cli.ok(&[
        "cron", "set", "nightly", "--queue", "other", "--every", "10m", "--name", "a",
    ]);
    let unclear = cli.run(&["cron", "remove", "nightly"]);
    assert_eq!(unclear.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unclear.stderr).contains("other, tokens"));
    let other = ["cron", "remove", "nightly", "--queue", "other"];
    assert!(
        cli.ok(&[&other[..], &["--dry-run"]].concat())
            .contains("would be removed")
    );
    assert_eq!(cli.schedules().len(), 2, "nothing is removed yet");
    let removed = cli.json(&[&other[..], &["--json"]].concat());
    assert_eq!(
        removed,
        serde_json::json!({ "queue": "other", "id": "nightly", "dry_run": false })
    );
    let gone = cli.run(&[&other[..], &["--dry-run"]].concat());
    assert_eq!(gone.status.code(), Some(1));
    cli.ok(&["cron", "remove", "nightly"]);
    assert_eq!(
        cli.run(&["cron", "remove", "nightly"]).status.code(),
        Some(1)
    );
    assert_eq!(cli.ok(&["cron", "list"]), "no schedules\n");
}

#[test]
fn what_never_comes_is_refused_with_its_value_and_exit_code_2() {
    let cli = Cli::new();
    for (flag, value, said) in [
        ("--cron", "0 0 30 2 *", "never comes"),
        ("--cron", "*/0 * * * *", "*/0 * * * *"),
        ("--every", "1ms", "1s to 1year"),
    ] {
        let refused = cli.run(&[
            "cron", "set", "a", "--queue", "q", flag, value, "--name", "n",
        ]);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{words}");
        assert!(words.contains(said), "{words}");
    }
    for (text, said) in [
        ("cron = \"0 0 30 2 *\"", "never comes"),
        ("cron = \"@daily\"\nzone = \"Moon/Base\"", "Moon/Base"),
        ("cron = \"@daily\"\nevery = \"1h\"", "either"),
        ("every = \"1h\"\nzone = \"UTC\"", "zone belongs to cron"),
        ("every = \"1h\"\nmissed = \"all:0\"", "all:0"),
        ("every = \"1h\"\npriority = \"urgent\"", "urgent"),
    ] {
        let text = format!(
            "[queues.q]\nhandler = {{ command = [\"true\"] }}\n[schedules.a]\nqueue = \"q\"\nname = \"n\"\n{text}\n"
        );
        let file = cli.write("mill.toml", &text);
        let refused = cli.run(&["worker", "--config", &file]);
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{words}");
        assert!(
            words.contains(said) && words.contains("schedules.a"),
            "{words}"
        );
    }
}

#[tokio::test]
async fn schedules_of_the_config_file_come_go_and_come_back_after_redis_lost_them() {
    let cli = Cli::new();
    let queue = "[queues.q]\nhandler = { command = [\"true\"] }\n";
    let schedule = |id: &str| {
        format!(
            "[schedules.{id}]\nqueue = \"q\"\nname = \"n\"\nevery = \"1h\"\npriority = \"low\"\n"
        )
    };
    let both = cli.write(
        "both.toml",
        &(queue.to_owned() + &schedule("a") + &schedule("b")),
    );
    let one = cli.write("one.toml", &(queue.to_owned() + &schedule("b")));
    let none = cli.write("none.toml", queue);
    let empty = cli.write("empty.toml", &(queue.to_owned() + "[schedules]\n"));
    cli.ok(&[
        "cron", "set", "own", "--queue", "q", "--every", "1h", "--name", "n",
    ]);

    let worker = cli.service(&["worker", "--config", &both]);
    cli.wait_for_ids(&["a", "b", "own"]);
    let schedules = cli.schedules();
    let priority = |id: &str| &schedules.iter().find(|one| one["id"] == id).unwrap()["priority"];
    assert_eq!([priority("a"), priority("own")], ["low", "normal"]);
    drop(worker);
    let worker = cli.service(&["worker", "--config", &one]);
    cli.wait_for_ids(&["b", "own"]);

    let client = redis_cli(&cli, &["FLUSHALL"]);
    assert!(client.success());
    cli.wait_for_ids(&["b"]);
    // What was removed by hand stays so until the next start.
    cli.ok(&["cron", "remove", "b"]);
    drop(worker);
    let worker = cli.service(&["worker", "--config", &one]);
    cli.wait_for_ids(&["b"]);
    drop(worker);
    // A file that says nothing of schedules touches none; one that says there are none removes those of files.
    let worker = cli.service(&["worker", "--config", &none]);
    cli.ok(&["enqueue", "q", "--name", "n"]);
    cli.wait_for("q", "a worker", |stats| stats.completed_total == 1)
        .await;
    assert_eq!(cli.ids(), ["b"]);
    drop(worker);
    let _worker = cli.service(&["worker", "--config", &empty]);
    cli.wait_for_ids(&[]);
}

fn redis_cli(cli: &Cli, words: &[&str]) -> std::process::ExitStatus {
    let mut command = std::process::Command::new("redis-cli");
    command
        .args(cli.redis.cli_args())
        .args(words)
        .stdout(Stdio::null());
    command.status().unwrap()
}

async fn ready(cli: &Cli) -> Vec<JobView> {
    let client = Millstream::connect(&cli.redis.url()).await.unwrap();
    let inspector = client.inspect("q").unwrap();
    inspector.list(Some(State::Ready), 100_000).await.unwrap()
}

/// Five workers fire ten schedules of every second while one after the other is killed. The queue is paused, so every job
/// that was ever made is there to be counted.
#[tokio::test]
async fn workers_that_are_killed_all_the_time_leave_one_job_for_every_slot() {
    let cli = Cli::new();
    for number in 0..10 {
        let id = format!("schedule-{number}");
        cli.ok(&[
            "cron",
            "set",
            &id,
            "--queue",
            "q",
            "--every",
            "1s",
            "--name",
            "n",
            "--payload",
            &id,
        ]);
    }
    cli.ok(&["pause", "q"]);
    let worker = || {
        cli.service(&[
            "worker",
            "--queue",
            "q",
            "--lease",
            "2s",
            "--command",
            "true",
        ])
    };
    let mut workers: Vec<Process> = (0..5).map(|_| worker()).collect();
    let began = Instant::now();
    let mut kills = 0;
    while cli.stats("q").await.ready < 80 || kills < 20 {
        assert!(began.elapsed() < 4 * PATIENCE, "{:?}", cli.stats("q").await);
        drop(workers.remove(0));
        workers.push(worker());
        kills += 1;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    drop(workers);

    let mut slots: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for job in ready(&cli).await {
        let header = |name: &str| job.headers[name].clone();
        slots
            .entry(header("millstream-schedule"))
            .or_default()
            .push(header("millstream-slot"));
    }
    assert_eq!(slots.len(), 10);
    for (schedule, slots) in slots {
        let seconds = slots
            .iter()
            .map(|slot| humantime::parse_rfc3339(slot).unwrap());
        let seconds: Vec<u64> = seconds
            .map(|slot| {
                slot.duration_since(std::time::UNIX_EPOCH)
                    .unwrap()
                    .as_secs()
            })
            .collect();
        let (first, last) = (seconds[0], seconds[seconds.len() - 1]);
        assert_eq!(
            seconds,
            (first..=last).collect::<Vec<_>>(),
            "{schedule}: every slot once"
        );
    }
}
