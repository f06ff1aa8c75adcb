//! The bench: that it measures everything, finds every job once, and leaves nothing on a server that is not its own. What it
//! measures is no matter of tests.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Cli, bare};

const TINY: &[&str] = &[
    "bench",
    "--jobs",
    "200",
    "--producers",
    "4",
    "--concurrency",
    "4",
    "--turns",
    "1",
    "--json",
];

#[test]
fn the_bench_measures_everything_beside_a_bare_client_and_finds_every_job_once() {
    let output = bare(TINY).stdin(Stdio::null()).output().unwrap();

    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["throughput"].as_array().unwrap();
    let names: Vec<_> = rows.iter().map(|row| &row["scenario"]).collect();
    assert_eq!(names, ["enqueue", "bulk", "drain", "both"]);
    for row in rows {
        for field in ["jobs_per_second", "bare_jobs_per_second", "ratio"] {
            assert!(row[field].as_f64() > Some(0.0), "{field} of {row}");
        }
    }
    let times = report["latency"].as_array().unwrap();
    // At two fixed rates, and at half of what went in and out at once.
    assert_eq!(times.len(), 3);
    for time in times.iter().chain([&report["call"]]) {
        for side in ["millstream_us", "bare_us"] {
            let told = |share: &str| time[side][share].as_f64();
            assert!(told("p50") > Some(0.0), "{time}");
            assert!(told("p50") <= told("p99_9"), "{time}");
        }
    }
    assert!(report["delayed"]["millstream_us"]["p50"].is_number());
    assert!(report["memory"]["bytes_per_waiting_job"].as_f64() > Some(200.0));
    assert!(report["idle_commands_per_second"].as_f64() > Some(0.0));
    assert_eq!(report["server"]["persistence"], "none");
    assert_eq!(report["problems"], Value::Array(vec![]));
}

#[test]
fn the_bench_leaves_nothing_on_a_server_that_it_is_given_and_does_not_touch_the_queues_there() {
    let cli = Cli::new();
    cli.ok(&["enqueue", "mail", "--name", "a"]);
    let url = cli.redis.url();
    let tiny = TINY.iter().copied();
    let args: Vec<&str> = tiny
        .chain([
            "--only",
            "bulk,drain,latency,delayed",
            "--queue-depth",
            "50",
            "--rate",
            "300,400",
        ])
        .chain(["--workers", "2", "--redis-url", &url])
        .collect();

    let report = cli.json(&args);

    assert_eq!(report["server"]["private"], false);
    assert_eq!(report["throughput"].as_array().map(Vec::len), Some(2));
    let rates = report["latency"].as_array().unwrap().iter();
    let rates: Vec<_> = rates.map(|row| row["jobs_per_second"].as_u64()).collect();
    assert_eq!(rates, [Some(300), Some(400)]);
    let keys = cli.json(&["stats", "--json"]);
    assert!(!keys.to_string().contains("bench"), "{keys}");
    assert_eq!(cli.json(&["stats", "mail", "--json"])["ready"], 1);
}

#[test]
fn processes_of_workers_empty_several_queues_and_every_job_is_found_once() {
    let spread = ["--processes", "2", "--queues", "3", "--queue-depth", "30"];
    let args = [TINY, &["--only", "bulk,drain,both"], &spread].concat();
    let output = bare(&args).stdin(Stdio::null()).output().unwrap();

    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["settings"]["processes"], 2);
    assert_eq!(report["settings"]["queues"], 3);
    let memory = &report["worker_memory"];
    assert!(memory["end_bytes"].as_u64() > Some(1 << 20), "{memory}");
    assert!(memory["end_bytes"].as_u64() <= memory["most_bytes"].as_u64());
    assert_eq!(report["problems"], Value::Array(vec![]));
}

#[test]
fn a_url_of_the_environment_is_not_where_the_bench_works() {
    let cli = Cli::new();
    let args: Vec<&str> = TINY.iter().copied().chain(["--only", "call"]).collect();

    let report = cli.json(&args);

    assert_eq!(report["server"]["private"], true);
    assert!(report["call"].is_object() && report["throughput"] == Value::Array(vec![]));
}

#[test]
fn the_bench_writes_tables_for_people_and_refuses_what_cannot_be() {
    let args: Vec<&str> = TINY
        .iter()
        .copied()
        .filter(|arg| *arg != "--json")
        .collect();
    let args = [
        &args[..],
        &["--only", "enqueue,call", "--persistence", "always"],
    ]
    .concat();
    let output = bare(&args).stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    for word in [
        "persistence always",
        "4 callers",
        "ratio",
        "p99.9",
        "ran once",
    ] {
        assert!(told.contains(word), "{word} is not in {told}");
    }

    let cli = Cli::new();
    let url = cli.redis.url();
    let refused = cli.run(&["bench", "--persistence", "always", "--redis-url", &url]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("--persistence"), "{told}");
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn the_gateway_is_measured_beside_a_bare_server_and_every_answer_is_a_job() {
    let args = "bench gateway --connections 4 --turn 300ms --turns 1 --idle 50 --json";
    let args: Vec<&str> = args.split(' ').collect();
    let output = bare(&args).stdin(Stdio::null()).output().unwrap();

    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let requests = &report["requests"];
    for field in [
        "per_second",
        "bare_per_second",
        "ratio",
        "ceiling",
        "answered",
    ] {
        assert!(requests[field].as_f64() > Some(0.0), "{field} of {report}");
    }
    let loads = report["latency"].as_array().unwrap().iter();
    let loads: Vec<_> = loads.map(|row| row["load"].as_str().unwrap()).collect();
    assert_eq!(
        loads,
        ["gateway, full", "gateway, half", "bare server, full"]
    );
    assert!(report["redis_cpu_us_per_webhook"].is_number());
    assert_eq!(report["problems"], Value::Array(vec![]));
}

#[test]
fn jobs_of_groups_are_measured_beside_others_and_every_one_runs_once() {
    let args =
        "bench groups --jobs 300 --groups 20 --group-concurrency 2 --batch 10 --turns 1 --json";
    let args: Vec<&str> = args.split(' ').collect();
    let output = bare(&args).stdin(Stdio::null()).output().unwrap();

    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kinds = report["kinds"].as_array().unwrap();
    let names: Vec<_> = kinds.iter().map(|kind| &kind["kind"]).collect();
    assert_eq!(names, ["plain", "no_limit", "room", "held"]);
    for kind in kinds {
        assert!(kind["redis_cpu_us_per_job"].as_f64() > Some(0.0), "{kind}");
    }
    assert_eq!(report["problems"], Value::Array(vec![]));
}

#[test]
fn the_limits_of_redis_are_measured_by_hand_on_a_redis_of_their_own() {
    let args = "bench limits --jobs 1000 --turns 1 --json";
    let args: Vec<&str> = args.split(' ').collect();
    let output = bare(&args).stdin(Stdio::null()).output().unwrap();

    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let limits = report["limits"].as_array().unwrap();
    let names: Vec<_> = limits.iter().map(|row| &row["limit"]).collect();
    assert_eq!(
        names,
        [
            "xadd_alone",
            "xadd_together",
            "evalsha_together",
            "evalsha_of_100",
            "drain_by_100"
        ]
    );
    for row in limits {
        assert!(row["jobs_per_second"].as_f64() > Some(0.0), "{row}");
        assert!(row["redis_cpu_us_per_job"].as_f64() > Some(0.0), "{row}");
    }
    let starts = report["starts"].as_array().unwrap();
    let rates: Vec<_> = starts.iter().map(|row| &row["jobs_per_second"]).collect();
    assert_eq!(rates, [200, 2_000]);
    for row in starts {
        assert!(row["us"]["p50"].as_f64() > Some(0.0), "{row}");
    }

    let elsewhere = bare(&["bench", "limits", "--redis-url", "redis://127.0.0.1:1"]);
    let refused = { elsewhere }.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("leave --redis-url out"), "{told}");
    assert_eq!(refused.status.code(), Some(2));
}
