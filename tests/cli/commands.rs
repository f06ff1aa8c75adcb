//! Commands as people script them.

use std::io::Write;
use std::process::Stdio;

use millstream::{Context, JobError, Millstream};
use serde_json::Value;

use crate::support::{Cli, PATIENCE, Process};

const ENQUEUE: &[&str] = &["enqueue", "q", "--name", "a"];

impl Cli {
    fn enqueued(&self, flags: &[&str]) -> String {
        let args: Vec<&str> = ENQUEUE.iter().chain(flags).copied().collect();
        self.ok(&args).trim().to_owned()
    }

    fn counts(&self) -> [u64; 4] {
        let stats = self.json(&["stats", "q", "--json"]);
        ["ready", "scheduled", "running", "dead"].map(|state| stats[state].as_u64().unwrap())
    }

    /// A worker whose handler ends with `code`.
    fn worker_that_exits(&self, code: &str) -> Process {
        let script = format!("echo no good >&2; exit {code}");
        let args = [
            "worker",
            "--queue",
            "q",
            "--backoff",
            "fixed(1ms)",
            "--command",
            "sh",
            "--",
            "-c",
            &script,
        ];
        Process(
            self.command(&args)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

#[test]
fn stats_json_has_every_field_of_the_contract() {
    let cli = Cli::new();
    let stats = cli.json(&["stats", "q", "--json"]);
    for field in [
        "queue",
        "ready",
        "ready_by_lane",
        "scheduled",
        "held",
        "running",
        "dead",
        "completed_total",
        "failed_total",
        "retried_total",
        "dead_total",
        "stalled_total",
        "enqueued_total",
        "oldest_ready_ms",
        "paused",
        "open_circuits",
    ] {
        assert!(stats.get(field).is_some(), "{field} is missing: {stats}");
    }
    assert!(cli.ok(&["stats", "q"]).contains("ready"));
}

#[test]
fn an_enqueued_job_can_be_listed_shown_and_cancelled() {
    let cli = Cli::new();
    let id = cli.enqueued(&["--payload", "hello"]);

    let jobs = cli.json(&["jobs", "list", "q", "--json"]);
    assert_eq!(
        (&jobs[0]["id"], &jobs[0]["state"]),
        (&Value::from(id.as_str()), &Value::from("ready"))
    );
    assert!(cli.ok(&["jobs", "list", "q"]).contains(&id));
    assert!(cli.ok(&["jobs", "show", "q", &id]).contains("hello"));

    cli.ok(&["jobs", "cancel", "q", &id]);
    assert_eq!(cli.counts(), [0, 0, 0, 0]);
    let output = cli.run(&["jobs", "show", "q", &id]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&id));
}

#[tokio::test]
async fn what_a_job_has_told_is_shown() {
    let cli = Cli::new();
    let id = cli.enqueued(&[]);
    assert!(!cli.ok(&["jobs", "show", "q", &id]).contains("progress"));
    let client = Millstream::connect(&cli.redis.url()).await.unwrap();
    let worker = client
        .worker("q")
        .unwrap()
        .handle_raw("a", |job: Context| async move {
            job.progress((2, 5), "importing");
            job.log("row 1\nrow 2");
            Err(JobError::refuse("enough"))
        });
    let worker = worker.start().await.unwrap();
    cli.wait_for("q", "the job's death", |stats| stats.dead == 1)
        .await;
    worker.stop().await;

    let shown = cli.ok(&["jobs", "show", "q", &id]);
    assert!(shown.contains("40 % (2 of 5): importing"), "{shown}");
    assert!(
        shown.contains("row 1") && shown.contains("row 2"),
        "{shown}"
    );
    let progress = cli.json(&["dead", "show", "q", &id, "--json"])["progress"].clone();
    let numbers = ["done", "total", "attempt"].map(|field| progress[field].as_u64());
    assert_eq!(numbers, [Some(2), Some(5), Some(1)]);
    assert_eq!(progress["note"], "importing");
    assert_eq!(progress["log"][1]["line"], "row 2");
    let events = cli.ok(&["events", "q", "--json"]);
    assert!(
        events.contains(r#""event":"progress""#) && events.contains("25%"),
        "{events}"
    );
}

#[test]
fn a_priority_is_given_listed_shown_and_changed() {
    let cli = Cli::new();
    let normal = cli.enqueued(&[]);
    assert!(!cli.ok(&["jobs", "list", "q"]).contains("priority"));
    let id = cli.enqueued(&["--priority", "high"]);

    let lanes = |cli: &Cli| cli.json(&["stats", "q", "--json"])["ready_by_lane"].clone();
    assert_eq!(
        lanes(&cli),
        serde_json::json!({"next": 0, "high": 1, "normal": 1, "low": 0, "suspect": 0})
    );
    assert!(cli.ok(&["stats", "q"]).contains("high 1, normal 1"));
    let priority = |id: &str| cli.json(&["jobs", "show", "q", id, "--json"])["priority"].clone();
    assert_eq!(
        (priority(&id), priority(&normal)),
        ("high".into(), "normal".into())
    );
    assert!(cli.ok(&["jobs", "show", "q", &id]).contains("high"));
    let listed = cli.ok(&["jobs", "list", "q"]);
    assert!(
        listed.contains("priority") && listed.contains("high"),
        "{listed}"
    );

    cli.ok(&["jobs", "update", "q", &id, "--priority", "low"]);
    assert_eq!(
        (priority(&id), &lanes(&cli)["low"]),
        ("low".into(), &Value::from(1))
    );
    let changed = cli.json(&[
        "jobs",
        "update",
        "q",
        &normal,
        "--priority",
        "high",
        "--json",
    ]);
    assert_eq!(changed["state"], "ready");

    for command in [
        &["enqueue", "q", "--name", "a", "--priority", "urgent"][..],
        &["jobs", "update", "q", &id, "--priority", "1"],
        &[
            "cron",
            "set",
            "s",
            "--queue",
            "q",
            "--name",
            "a",
            "--every",
            "1m",
            "--priority",
            "",
        ],
    ] {
        let output = cli.run(command);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("high, normal or low"), "{told}");
    }
}

#[test]
fn a_job_that_waits_can_be_changed_and_one_that_is_dead_cannot() {
    let cli = Cli::new();
    let id = cli.enqueued(&["--payload", "hello", "--deadline", "2h"]);

    let changed = cli.json(&["jobs", "update", "q", &id, "--payload", "bye", "--json"]);
    assert_eq!(
        (&changed["id"], &changed["state"]),
        (&Value::from(id.as_str()), &Value::from("ready"))
    );
    cli.ok(&["jobs", "update", "q", &id, "--delay", "1h"]);

    let job = cli.json(&["jobs", "show", "q", &id, "--json"]);
    assert_eq!(
        (&job["payload"], &job["state"]),
        (&Value::from("bye"), &Value::from("scheduled"))
    );
    assert!(cli.ok(&["jobs", "show", "q", &id]).contains("deadline"));
    cli.ok(&["jobs", "cancel", "q", &id]);
    let output = cli.run(&["jobs", "update", "q", &id, "--delay", "1h"]);
    assert_eq!(output.status.code(), Some(1));
    let nothing = cli.run(&["jobs", "update", "q", &id]);
    assert_eq!(nothing.status.code(), Some(2));
}

#[test]
fn payloads_come_from_arguments_files_and_stdin_byte_for_byte() {
    let cli = Cli::new();
    let bytes = [0xff, 0xfe, 0, b'r', b'a', b'w', b'\n'];
    std::fs::write(cli.dir.path().join("body"), bytes).unwrap();
    cli.enqueued(&["--payload-file", "body"]);
    let mut child = cli
        .command(&["enqueue", "q", "--name", "a", "--payload-file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(child.wait().unwrap().success());

    let args = [
        "worker",
        "--queue",
        "q",
        "--command",
        "sh",
        "--",
        "-c",
        "cat > \"$MILLSTREAM_JOB_ID\"; echo done >> log",
    ];
    let _worker = Process(
        cli.command(&args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    cli.wait_for_log(2);

    let stored = std::fs::read_dir(cli.dir.path())
        .unwrap()
        .map(|file| file.unwrap());
    let jobs = stored.filter(|file| file.file_name().to_string_lossy().contains('-'));
    let bodies: Vec<Vec<u8>> = jobs
        .map(|file| std::fs::read(file.path()).unwrap())
        .collect();
    assert_eq!(bodies, [bytes, bytes]);
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_printing_and_not_the_storing() {
    let cli = Cli::new();
    let mut child = cli
        .command(&["enqueue", "q", "--name", "a", "--count", "5000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());

    assert!(child.wait().unwrap().success());

    assert_eq!(cli.counts(), [5000, 0, 0, 0]);
}

#[test]
fn a_delayed_job_waits_and_can_be_run_now() {
    let cli = Cli::new();
    let id = cli.enqueued(&["--delay", "1h30m"]);
    assert_eq!(cli.counts(), [0, 1, 0, 0]);
    let job = &cli.json(&["jobs", "list", "q", "--state", "scheduled", "--json"])[0];
    assert!(job["due_ms"].as_u64().is_some());

    cli.ok(&["jobs", "run-now", "q", &id]);

    assert_eq!(cli.counts(), [1, 0, 0, 0]);
    let again = cli.run(&["jobs", "run-now", "q", &id]);
    assert_eq!(
        again.status.code(),
        Some(1),
        "only a scheduled job can be run now"
    );
}

#[test]
fn a_time_in_the_past_is_now() {
    let cli = Cli::new();
    cli.enqueued(&["--at", "2020-01-01T00:00:00Z"]);
    assert_eq!(cli.counts(), [1, 0, 0, 0]);
}

#[test]
fn a_unique_key_makes_one_job() {
    let cli = Cli::new();
    let enqueue = |flags: &[&str]| {
        let args: Vec<&str> = ENQUEUE
            .iter()
            .chain(flags)
            .chain(&["--json"])
            .copied()
            .collect();
        cli.json(&args)
    };
    let first = enqueue(&["--unique", "k"]);
    let second = enqueue(&["--unique", "k"]);

    assert_eq!(first["id"], second["id"]);
    assert_eq!(
        (&first["duplicate"], &second["duplicate"]),
        (&Value::Bool(false), &Value::Bool(true))
    );
    assert_eq!(cli.counts(), [1, 0, 0, 0]);
}

#[test]
fn a_durability_that_is_not_reached_is_told_and_the_job_is_stored_all_the_same() {
    let cli = Cli::new();
    let args = ["enqueue", "q", "--name", "a", "--durability", "replicas:1"];

    let output = cli.run(&args);

    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("replicas:1") && text.contains("memory"),
        "{text}"
    );
    assert_eq!(cli.counts(), [1, 0, 0, 0]);
}

#[test]
fn a_paused_queue_is_left_alone_until_it_is_resumed() {
    let cli = Cli::new();
    cli.ok(&["pause", "q"]);
    assert_eq!(cli.json(&["stats", "q", "--json"])["paused"], true);
    let args = [
        "worker",
        "--queue",
        "q",
        "--command",
        "sh",
        "--",
        "-c",
        "echo ran >> log",
    ];
    let _worker = Process(
        cli.command(&args)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    // The worker is up once it has made its lanes.
    let began = std::time::Instant::now();
    while cli.json(&["keys", "q", "--json"])[0]["kind"] != "stream" {
        assert!(began.elapsed() < PATIENCE, "the worker did not come up");
    }
    cli.enqueued(&[]);
    // Nothing tells that nothing happens: long enough for a worker that does not heed the pause.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(cli.counts(), [1, 0, 0, 0]);

    cli.ok(&["resume", "q"]);
    cli.wait_for_log(1);
}

#[tokio::test]
async fn dead_jobs_can_be_listed_shown_redriven_and_purged() {
    let cli = Cli::new();
    let failing = cli.worker_that_exits("65");
    let id = cli.enqueued(&["--payload", "hello"]);
    cli.wait_for("q", "a dead job", |stats| stats.dead == 1)
        .await;
    drop(failing);

    let dead = cli.json(&["dead", "list", "q", "--json"]);
    assert_eq!(
        (&dead[0]["id"], &dead[0]["reason"]),
        (&Value::from(id.as_str()), &Value::from("refused"))
    );
    let shown = cli.ok(&["dead", "show", "q", &id]);
    assert!(
        shown.contains("no good") && shown.contains("hello"),
        "{shown}"
    );
    cli.ok(&["dead", "redrive", "q", "--all", "--dry-run"]);
    assert_eq!(cli.counts(), [0, 0, 0, 1], "a dry run moves nothing");

    cli.ok(&["dead", "redrive", "q", "--all", "--yes"]);
    assert_eq!(cli.counts(), [1, 0, 0, 0]);

    let failing = cli.worker_that_exits("65");
    cli.wait_for("q", "a dead job", |stats| stats.dead == 1)
        .await;
    drop(failing);
    let said = cli.ok(&["dead", "purge", "q", &id, "--yes"]);
    assert_eq!(said, "purged 1 job\n");
    assert_eq!(cli.counts(), [0, 0, 0, 0]);
}

#[tokio::test]
async fn dead_jobs_of_one_group_can_be_listed_and_redriven_alone() {
    let cli = Cli::new();
    let failing = cli.worker_that_exits("65");
    let shop = cli.enqueued(&["--group", "shop-1.example"]);
    cli.enqueued(&["--group", "shop-2.example"]);
    cli.enqueued(&[]);
    cli.wait_for("q", "dead jobs", |stats| stats.dead == 3)
        .await;
    drop(failing);

    let of_shop = ["--group", "shop-1.example"];
    let listed = cli.json(&[&["dead", "list", "q", "--json"], &of_shop[..]].concat());
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["group"]),
        (&shop.clone().into(), &"shop-1.example".into())
    );
    let shown = cli.ok(&["jobs", "show", "q", &shop]);
    assert!(shown.contains("shop-1.example"), "{shown}");
    let redrive = ["dead", "redrive", "q", "--all", "--dry-run", "--json"];
    let would = cli.json(&[&redrive[..], &of_shop].concat());
    assert_eq!(would["matched"], 1);
    cli.ok(&[&redrive[..4], &["--yes"], &of_shop].concat());
    assert_eq!(cli.counts(), [1, 0, 0, 2]);

    let refused = cli.run(&["dead", "purge", "q", &shop, "--group", "shop-2.example"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("go with --all"), "{said}");
    assert_eq!(cli.counts(), [1, 0, 0, 2]);
}

#[tokio::test]
async fn ids_that_are_not_dead_are_told_and_the_others_are_dealt_with() {
    let cli = Cli::new();
    let failing = cli.worker_that_exits("65");
    let dead = cli.enqueued(&[]);
    cli.wait_for("q", "a dead job", |stats| stats.dead == 1)
        .await;
    drop(failing);
    let scheduled = cli.enqueued(&["--delay", "1h"]);
    let refused = |args: &[&str], named: &str| {
        let output = cli.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(named), "{args:?}: {said}");
    };
    let not_dead = format!("not in the dead letter: {scheduled}\n");

    let shown = format!("job {scheduled} is scheduled, not dead; see `millstream jobs show`");
    refused(&["dead", "show", "q", &scheduled], &shown);
    refused(&["dead", "purge", "q", &scheduled], &not_dead);
    refused(
        &["dead", "purge", "q", "--dry-run", &dead, &scheduled],
        &not_dead,
    );
    assert_eq!(cli.counts(), [0, 1, 0, 1]);
    refused(&["dead", "redrive", "q", &dead, &scheduled], &not_dead);
    assert_eq!(cli.counts(), [1, 1, 0, 0]);
}

#[tokio::test]
async fn a_failing_program_is_retried_until_its_attempts_are_used_up() {
    let cli = Cli::new();
    let _failing = cli.worker_that_exits("1");
    let id = cli.enqueued(&["--max-attempts", "3"]);

    let stats = cli
        .wait_for("q", "a dead job", |stats| stats.dead == 1)
        .await;

    assert_eq!((stats.failed_total, stats.retried_total), (3, 2));
    let dead = cli.json(&["dead", "list", "q", "--json"]);
    assert_eq!(
        (&dead[0]["id"], &dead[0]["reason"]),
        (&Value::from(id.as_str()), &Value::from("attempts"))
    );
    assert_eq!(dead[0]["errors"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn prune_drops_what_is_old_enough_and_a_dry_run_only_counts() {
    let cli = Cli::new();
    let _failing = cli.worker_that_exits("65");
    cli.enqueued(&["--count", "5"]);
    cli.wait_for("q", "dead jobs", |stats| stats.dead == 5)
        .await;
    let prune = |flags: &[&str]| {
        let args: Vec<&str> = ["prune", "q", "--json"]
            .iter()
            .chain(flags)
            .copied()
            .collect();
        cli.json(&args)["dead"].as_u64().unwrap()
    };

    assert_eq!(prune(&["--dead-older-than", "1h", "--yes"]), 0);
    assert_eq!(prune(&["--dead-older-than", "1ms", "--dry-run"]), 5);
    assert_eq!(cli.counts(), [0, 0, 0, 5]);
    assert_eq!(prune(&["--dead-older-than", "1ms", "--yes"]), 5);
    assert_eq!(cli.counts(), [0, 0, 0, 0]);
}

#[test]
fn keys_explains_every_key_with_a_redis_cli_line() {
    let cli = Cli::new();
    cli.enqueued(&[]);
    let keys = cli.json(&["keys", "q", "--json"]);
    assert_eq!(keys[0]["key"], "millstream:{q}:ready");
    assert_eq!(keys[0]["size"], 1);
    let text = cli.ok(&["keys", "q"]);
    assert!(
        text.contains("redis-cli") && text.contains("XRANGE 'millstream:{q}:ready'"),
        "{text}"
    );
}

#[test]
fn every_command_has_help() {
    let cli = Cli::new();
    for command in [
        "demo",
        "dev",
        "serve",
        "gateway",
        "worker",
        "enqueue",
        "stats",
        "jobs",
        "dead",
        "pause",
        "resume",
        "prune",
        "workers",
        "events",
        "keys",
        "completions",
        "man",
    ] {
        let help = cli.ok(&[command, "--help"]);
        assert!(help.contains("Usage:"), "{command}: {help}");
    }
    for words in [&["dead", "redrive"][..], &["dead", "purge"], &["prune"]] {
        let args: Vec<&str> = words.iter().chain(&["--help"]).copied().collect();
        let usage = format!("millstream {} [OPTIONS] <QUEUE> ", words.join(" "));
        let help = cli.ok(&args);
        assert!(help.contains(&usage), "{words:?}: {help}");
    }
}

#[test]
fn dev_names_the_queues_and_the_namespace_of_its_file() {
    let cli = Cli::new();
    let file =
        "[redis]\nnamespace = \"shop\"\n[queues.orders]\nhandler = { command = [\"cat\"] }\n";
    std::fs::write(cli.dir.path().join("f.toml"), file).unwrap();
    let args = ["dev", "--config", "f.toml", "--listen", "127.0.0.1:0"];

    // Its stdin is closed, so that it stops as soon as it has begun.
    let said = cli.ok(&[&args[..], &["--stop-with-stdin"]].concat());

    for hint in [
        "'shop:*'",
        "MILLSTREAM_NAMESPACE=shop",
        "millstream stats orders",
    ] {
        assert!(said.contains(hint), "{hint}: {said}");
    }
    assert!(!said.contains("demo"), "{said}");
}

/// The examples as they are, and with every setting that is commented out (`#key`, while prose is `# Text`).
#[test]
fn the_example_files_can_be_served() {
    let cli = Cli::new();
    for name in ["millstream.toml", "docker.toml"] {
        let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let uncommented = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => setting.to_owned(),
            _ => line.to_owned(),
        };
        let mut full: Vec<String> = text.lines().map(uncommented).collect();
        // The certificate of the example is on no machine; `tests/gateway/tls.rs` has one.
        full.retain(|line| !line.starts_with("tls_"));
        for text in [&text, &full.join("\n")] {
            std::fs::write(cli.dir.path().join("f.toml"), text).unwrap();
            let args = ["serve", "--config", "f.toml", "--listen", "127.0.0.1:0"];
            let output = cli
                .command(&[&args[..], &["--stop-with-stdin"]].concat())
                .env("SHOPIFY_SECRET", "secret")
                .env("BILLING_SECRET", "secret")
                .env("APP_TOKEN", "0123456789abcdef")
                .env(
                    "WEBHOOKS_KEY",
                    "1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
                )
                .env("FORWARD_SECRET", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3")
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{name}: {said}\n{text}");
        }
    }
}

#[test]
fn groups_are_listed_limited_and_purged() {
    let cli = Cli::new();
    let said = cli.ok(&["groups", "set", "q", "--concurrency", "1"]);
    assert_eq!(said, "the limits of the groups of q are set\n");
    for group in ["shop-1", "shop-1", "shop-1", "shop-2"] {
        cli.ok(&[
            "enqueue",
            "q",
            "--name",
            "n",
            "--payload",
            "x",
            "--group",
            group,
        ]);
    }
    let listed = cli.json(&["groups", "list", "q", "--json"]);
    assert_eq!(listed["groups"][0]["group"], "shop-1");
    assert_eq!(listed["groups"][0]["held"], 2);
    assert_eq!(cli.json(&["stats", "q", "--json"])["held"], 2);
    let held = cli.json(&[
        "jobs", "list", "q", "--state", "held", "--group", "shop-1", "--json",
    ]);
    assert_eq!(
        held.as_array().or(held["jobs"].as_array()).map(Vec::len),
        Some(2)
    );

    let said = cli.ok(&["groups", "set", "q", "shop-1", "--concurrency", "2"]);
    assert_eq!(
        said,
        "the limits of group shop-1 of q are set; 1 held job had room\n"
    );
    cli.ok(&["groups", "set", "q", "shop-2", "--pause"]);
    let table = cli.ok(&["groups", "list", "q"]);
    assert!(
        table.contains("2 (its own)") && table.contains("paused"),
        "{table}"
    );

    let counted = cli.json(&["groups", "purge", "q", "shop-1", "--dry-run", "--json"]);
    assert_eq!(
        (&counted["total"], &counted["dry_run"]),
        (&3.into(), &true.into())
    );
    let said = cli.ok(&["groups", "purge", "q", "shop-1", "--yes"]);
    assert!(
        said.starts_with("removed 3 jobs of group shop-1: 1 held, 0 scheduled, 2 ready"),
        "{said}"
    );
    let stats = cli.json(&["stats", "q", "--json"]);
    assert_eq!((&stats["ready"], &stats["held"]), (&1.into(), &0.into()));

    let nothing = cli.run(&["groups", "set", "q", "shop-1"]);
    assert_eq!(nothing.status.code(), Some(2));
}

#[test]
fn groups_have_a_rate_and_a_backlog() {
    let cli = Cli::new();
    let enqueue = |group: &str, cost: &str| {
        let job = ["enqueue", "q", "--name", "n", "--payload", "x"];
        cli.run(&[&job[..], &["--group", group, "--cost", cost]].concat())
    };
    cli.ok(&[
        "groups",
        "set",
        "q",
        "--rate",
        "2/h",
        "--burst",
        "10",
        "--max-backlog",
        "1",
    ]);
    cli.ok(&["groups", "set", "q", "free", "--rate", "600/m"]);
    for cost in ["9", "2"] {
        assert!(enqueue("shop", cost).status.success());
    }

    let full = enqueue("shop", "1");
    let said = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(1));
    assert!(said.contains("group shop of queue q is full: 1 "), "{said}");
    let listed = cli.json(&["groups", "list", "q", "--json"]);
    let [shop, free] = [0, 1].map(|nth| &listed["groups"][nth]);
    assert_eq!((&shop["rate"], &shop["burst"]), (&"2/h".into(), &10.into()));
    assert_eq!(
        (&shop["held"], &shop["max_backlog"]),
        (&1.into(), &1.into())
    );
    assert_eq!(
        (&free["rate"], &free["burst"]),
        (&"600/m".into(), &10.into())
    );
    assert_eq!(listed["rate"], "2/h");
    let table = cli.ok(&["groups", "list", "q"]);
    assert!(
        table.contains("2/h, 10 at once") && table.contains("600/m"),
        "{table}"
    );

    let said = cli.ok(&["groups", "set", "q", "--rate", "none"]);
    assert!(said.ends_with("1 held job had room\n"), "{said}");
    for (flag, value, hint) in [
        ("--rate", "50", "50/s"),
        ("--rate", "0/s", "1 to 1000000"),
        ("--burst", "100001", "100000"),
        ("--max-backlog", "-1", "a whole number"),
    ] {
        let refused = cli.run(&["groups", "set", "q", &format!("{flag}={value}")]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{flag} {value}: {said}");
        assert!(said.contains(hint), "{flag} {value}: {said}");
    }
}

#[test]
fn a_queue_has_a_concurrency_and_a_rate_over_all_workers() {
    let cli = Cli::new();
    let said = cli.ok(&["queue", "set", "q", "--concurrency", "5", "--rate", "600/m"]);
    assert!(said.contains("within a second"), "{said}");
    cli.ok(&["queue", "set", "q", "--max-depth", "7"]);

    let shown = cli.json(&["queue", "show", "q", "--json"]);

    let limits = ["concurrency", "rate", "burst", "max_depth", "running"].map(|of| &shown[of]);
    let told = limits.map(ToString::to_string);
    assert_eq!(told, ["5", "\"600/m\"", "10", "7", "0"]);
    cli.ok(&["queue", "set", "q", "--concurrency", "0", "--rate", "none"]);
    let shown = cli.json(&["queue", "show", "q", "--json"]);
    assert!(shown["concurrency"].is_null() && shown["rate"].is_null() && shown["burst"].is_null());
    assert_eq!(shown["max_depth"], 7);
    for bad in [&["--concurrency", "100001"][..], &["--rate", "5"], &[]] {
        let refused = cli.run(&[&["queue", "set", "q"], bad].concat());
        assert_eq!(refused.status.code(), Some(2), "{bad:?}");
    }
}
