//! Commands that work through many jobs, and listings that go on: filters, dry runs, cursors, JSON.

use serde_json::{Value, json};

use crate::support::Cli;

impl Cli {
    /// Dead jobs of two names, groups and errors, each an hour old, and one from just now.
    async fn plant_dead(&self) {
        let client = fred(self).await;
        let ages = [
            ("1", 3_600_000),
            ("2", 3_600_000),
            ("3", 3_600_000),
            ("4", 0),
        ];
        for (id, age_ms) in ages {
            let odd = id == "1" || id == "3";
            let meta = json!({"id": id, "group": if odd { "odd.example" } else { "even.example" }});
            let error = if odd {
                "connection refused"
            } else {
                "no such order"
            };
            let record = json!({
                "state": "dead", "name": if odd { "orders" } else { "refunds" }, "attempt": 3, "meta": meta.to_string(),
                "reason": if id == "2" { "crash_loop" } else { "attempts" }, "payload_bytes": 4,
                "errors": [{"at_ms": 1, "attempt": 3, "error": error}],
            });
            let script = "redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) redis.call('HSET', KEYS[3], ARGV[1], 'body')
                local time = redis.call('TIME')
                redis.call('HINCRBY', KEYS[4], 'enqueued', 1)
                return redis.call('ZADD', KEYS[1], time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[3], ARGV[1])";
            let keys =
                ["dead", "jobs", "payloads", "stats"].map(|key| format!("millstream:{{q}}:{key}"));
            let args = vec![id.to_owned(), record.to_string(), age_ms.to_string()];
            use ::fred::interfaces::LuaInterface as _;
            let _: () = client.eval(script, keys.to_vec(), args).await.unwrap();
        }
    }

    fn matched(&self, flags: &[&str]) -> u64 {
        let all = ["dead", "redrive", "q", "--all", "--dry-run", "--json"];
        let would = self.json(&[&all[..], flags].concat());
        assert_eq!(
            (&would["redriven"], &would["dry_run"]),
            (&0.into(), &true.into())
        );
        would["matched"].as_u64().unwrap()
    }

    fn refused(&self, args: &[&str], code: i32, told: &str) {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(told), "{args:?}: {told:?} is not in {said}");
    }
}

/// A client for what no command does.
pub(crate) async fn fred(cli: &Cli) -> ::fred::prelude::Client {
    use ::fred::prelude::{Builder, ClientLike as _, Config};
    let url = cli.redis.url().replace("unix://", "redis+unix://");
    let client = Builder::from_config(Config::from_url(&url).unwrap())
        .build()
        .unwrap();
    client.init().await.unwrap();
    client
}

fn ids(jobs: &Value) -> Vec<&str> {
    let jobs = jobs.as_array().unwrap().iter();
    jobs.map(|job| job["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_dead_are_chosen_by_name_group_error_reason_and_age() {
    let cli = Cli::new();
    cli.plant_dead().await;
    for (flags, fit) in [
        (&[][..], vec!["1", "2", "3", "4"]),
        (&["--name", "orders"], vec!["1", "3"]),
        (&["--group", "even.example"], vec!["2", "4"]),
        (&["--error", "refused"], vec!["1", "3"]),
        (&["--reason", "crash_loop"], vec!["2"]),
        (&["--older-than", "30m"], vec!["1", "2", "3"]),
        (&["--newer-than", "30m"], vec!["4"]),
        (&["--older-than", "30m", "--name", "refunds"], vec!["2"]),
    ] {
        let listed = cli.json(&[&["dead", "list", "q", "--json"], flags].concat());
        assert_eq!(ids(&listed), fit, "{flags:?}");
        assert_eq!(cli.matched(flags), fit.len() as u64, "{flags:?}");
    }
    let stats = cli.json(&["stats", "q", "--json"]);
    assert_eq!(stats["dead"], 4, "a dry run moves nothing");

    let rate = [
        "dead", "redrive", "q", "--all", "--error", "refused", "--rate", "1000/s", "--json",
    ];
    let done = cli.json(&rate);
    assert_eq!(
        (&done["matched"], &done["redriven"]),
        (&2.into(), &2.into())
    );
    let done = cli.json(&[
        "dead",
        "purge",
        "q",
        "--all",
        "--older-than",
        "30m",
        "--json",
    ]);
    assert_eq!(done["purged"], 1);
    let prune = [
        "prune",
        "q",
        "--dead-older-than",
        "1ms",
        "--rate",
        "1000/s",
        "--json",
    ];
    assert_eq!(cli.json(&prune)["dead"], 1);
    let stats = cli.json(&["stats", "q", "--json"]);
    assert_eq!((&stats["dead"], &stats["ready"]), (&0.into(), &2.into()));
}

#[tokio::test]
async fn what_cannot_be_chosen_is_refused_with_the_way_out() {
    let cli = Cli::new();
    let dead = ["dead", "redrive", "q"];
    let refused = |more: &[&str], told: &str| cli.refused(&[&dead[..], more].concat(), 2, told);
    refused(&["1-0", "--error", "x"], "--all");
    refused(&["1-0", "--older-than", "1h"], "--all");
    refused(
        &["--all", "--older-than", "2h", "--newer-than", "1h"],
        "swap",
    );
    refused(&["--all", "--older-than", "old"], "30m");
    cli.refused(&["jobs", "list", "q", "--after", "there"], 2, "cursor");
    cli.refused(
        &[
            "dead",
            "list",
            "q",
            "--after",
            "dead.1.1",
            "--older-than",
            "1h",
        ],
        2,
        "--after",
    );
}

#[tokio::test]
async fn a_listing_is_filtered_and_goes_on_behind_a_cursor() {
    let cli = Cli::new();
    cli.plant_dead().await;
    for (name, group) in [
        ("orders", "a.example"),
        ("refunds", "a.example"),
        ("orders", "b.example"),
    ] {
        cli.ok(&[
            "enqueue", "q", "--name", name, "--group", group, "--delay", "1h",
        ]);
        cli.ok(&["enqueue", "q", "--name", name, "--group", group]);
    }
    let list = ["jobs", "list", "q", "--json"];
    let count = |flags: &[&str]| ids(&cli.json(&[&list[..], flags].concat())).len();
    assert_eq!(count(&[]), 10);
    assert_eq!(count(&["--name", "orders"]), 6);
    assert_eq!(count(&["--group", "a.example"]), 4);
    assert_eq!(count(&["--group", "a.example", "--state", "ready"]), 2);
    assert_eq!(
        count(&[
            "--group",
            "a.example",
            "--state",
            "scheduled",
            "--name",
            "refunds"
        ]),
        1
    );

    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let mut args = [&list[..], &["--limit", "3"]].concat();
        if !after.is_empty() {
            args.extend(["--after", &after]);
        }
        let page = cli.json(&args);
        let Some(last) = page.as_array().unwrap().last() else {
            break;
        };
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        after = last["cursor"].as_str().unwrap().to_owned();
    }
    assert_eq!(seen.len(), 10);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10);
    let text = cli.ok(&["jobs", "list", "q", "--limit", "3"]);
    assert!(
        text.contains("a.example") && text.contains("--after ready."),
        "{text}"
    );
}

#[test]
fn everything_that_is_done_can_be_told_as_json_and_tried_dry() {
    let cli = Cli::new();
    assert_eq!(
        cli.json(&["pause", "q", "--json"]),
        json!({"queue": "q", "paused": true})
    );
    assert_eq!(
        cli.json(&["resume", "q", "--json"]),
        json!({"queue": "q", "paused": false})
    );
    let delayed = |cli: &Cli| {
        let id = cli.ok(&["enqueue", "q", "--name", "a", "--delay", "1h"]);
        id.trim().to_owned()
    };
    let id = delayed(&cli);
    for command in ["cancel", "run-now"] {
        let would = cli.json(&["jobs", command, "q", &id, "--dry-run", "--json"]);
        assert_eq!(would["dry_run"], true);
        let scheduled = cli.json(&["stats", "q", "--json"])["scheduled"].clone();
        assert_eq!(scheduled, 1, "a dry run of {command} moves nothing");
    }
    let ran = cli.json(&["jobs", "run-now", "q", &id, "--json"]);
    assert_eq!(ran, json!({"ready": [id], "failed": [], "dry_run": false}));
    let args = ["jobs", "cancel", "q", &id, "0-1", "--json"];
    let output = cli.run(&args);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["cancelled"], json!([{"id": id, "was": "ready"}]));
    assert_eq!(told["failed"][0]["id"], "0-1");
    cli.refused(&["jobs", "run-now", "q", "0-1", "--dry-run"], 1, "0-1");
}

#[test]
fn what_is_set_can_be_told_as_json() {
    let cli = Cli::new();
    cli.ok(&["groups", "set", "q", "--concurrency", "1"]);
    cli.ok(&[
        "enqueue", "q", "--name", "a", "--group", "shop", "--count", "3",
    ]);
    let set = ["groups", "set", "q", "shop", "--concurrency", "2", "--json"];
    assert_eq!(
        cli.json(&set),
        json!({"queue": "q", "group": "shop", "admitted": 1})
    );
    let set = [
        "queue",
        "set",
        "q",
        "--max-depth",
        "7",
        "--rate",
        "600/m",
        "--json",
    ];
    let shown = cli.json(&set);
    assert_eq!(
        (&shown["max_depth"], &shown["rate"], &shown["depth"]),
        (&7.into(), &"600/m".into(), &3.into())
    );
    assert_eq!(cli.json(&["queue", "show", "q", "--json"]), shown);

    cli.ok(&[
        "cron", "set", "s", "--queue", "q", "--name", "a", "--every", "10m",
    ]);
    let paused = json!({"queue": "q", "id": "s", "paused": true});
    assert_eq!(cli.json(&["cron", "pause", "s", "--json"]), paused);
    let resumed = cli.json(&["cron", "resume", "s", "--json"]);
    assert_eq!(resumed["paused"], false);
    assert!(resumed["next_due_ms"].is_u64(), "{resumed}");
}

#[test]
fn a_change_can_be_tried_dry_and_a_group_is_purged_at_a_rate() {
    let cli = Cli::new();
    let id = cli.ok(&["enqueue", "q", "--name", "a", "--payload", "old"]);
    let change = [
        "jobs",
        "update",
        "q",
        id.trim(),
        "--payload",
        "new",
        "--delay",
        "1h",
    ];
    let would = cli.json(&[&change[..], &["--dry-run", "--json"]].concat());
    assert_eq!(
        would,
        json!({"id": id.trim(), "state": "ready", "dry_run": true})
    );
    let job = cli.json(&["jobs", "show", "q", id.trim(), "--json"]);
    assert_eq!(
        (&job["payload"], &job["state"]),
        (&"old".into(), &"ready".into())
    );
    let done = cli.json(&[&change[..], &["--json"]].concat());
    assert_eq!(
        done,
        json!({"id": id.trim(), "state": "scheduled", "dry_run": false})
    );
    let nobody = ["jobs", "update", "q", "0-1", "--payload", "x", "--dry-run"];
    cli.refused(&nobody, 1, "0-1");

    let shop = [
        "enqueue", "q", "--name", "a", "--group", "shop", "--count", "30",
    ];
    cli.ok(&shop);
    cli.ok(&[&shop[..], &["--delay", "1h"]].concat());
    let began = std::time::Instant::now();
    let purge = ["groups", "purge", "q", "shop", "--rate", "100/s", "--json"];
    let purged = cli.json(&purge);
    assert_eq!(
        (&purged["total"], &purged["ready"], &purged["scheduled"]),
        (&60.into(), &30.into(), &30.into())
    );
    // The last step begins no sooner than the rate lets it: 50 jobs are removed by then.
    assert!(began.elapsed() >= std::time::Duration::from_millis(500));
    assert_eq!(cli.json(&["stats", "q", "--json"])["scheduled"], 1);
}
