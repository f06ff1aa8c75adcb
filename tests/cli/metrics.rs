//! `/metrics` of the binary, and what is made of it: the dashboard, the alert rules.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use millstream::metrics::{ALL, Kind};
use serde_json::Value;
use sha2::Sha256;

use crate::support::{Cli, PATIENCE, Process};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A service that listens, and its address.
struct Service {
    address: String,
    _process: Process,
}

impl Service {
    fn start(cli: &Cli, args: &[&str]) -> Self {
        let log = cli.dir.path().join("service.log");
        let process = Process(
            cli.command(args)
                .args(["--log-format", "json"])
                .env("HUB_SECRET", SECRET)
                .stdin(Stdio::null())
                .stderr(std::fs::File::create(&log).unwrap())
                .spawn()
                .unwrap(),
        );
        let began = Instant::now();
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let listening = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["message"] == "the gateway listens");
            if let Some(line) = listening {
                let address = line["address"].as_str().unwrap().to_owned();
                return Self {
                    address,
                    _process: process,
                };
            }
            assert!(began.elapsed() < PATIENCE, "it does not listen: {text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    fn page(&self) -> String {
        let (status, page) =
            self.ask("GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert_eq!(status, 200, "{page}");
        page
    }

    fn samples(&self) -> BTreeMap<String, f64> {
        samples(&self.page())
    }

    /// Scrapes until it is so; a page is good for a second.
    fn until(
        &self,
        what: &str,
        is_so: impl Fn(&BTreeMap<String, f64>) -> bool,
    ) -> BTreeMap<String, f64> {
        let began = Instant::now();
        loop {
            let samples = self.samples();
            if is_so(&samples) {
                return samples;
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}: {samples:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Series -> value.
fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn promtool(args: &[&str], input: &str) -> Option<String> {
    let child = Command::new("promtool")
        .args(args)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!(
            "skipped: promtool is not here; Debian and Ubuntu have it in the package prometheus"
        );
        return None;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {args:?}: {said}");
    Some(said)
}

/// The metrics that a text names, histograms without their endings.
fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(word)
        .filter(|word| word.starts_with("millstream_") && !word.ends_with('_'))
        .map(|word| {
            let known = |name: &str| {
                ALL.iter()
                    .any(|m| m.name == name && m.kind == Kind::Histogram)
            };
            ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|ending| word.strip_suffix(ending))
                .find(|name| known(name))
                .unwrap_or(word)
                .to_owned()
        })
        .collect()
}

/// A gateway that takes from `hub`, and a worker that does what the body says.
fn serve(cli: &Cli) -> Service {
    let config = r#"
        [gateway]
        listen = "127.0.0.1:0"
        [sources.hub]
        scheme = "github"
        secrets = ["env:HUB_SECRET"]
        queue = "q"
        [queues.q]
        handler = { command = ["sh", "-c", "case $(cat) in done*) exit 0;; fail*) exit 1;; *) exit 65;; esac"] }
        backoff = "fixed(1h)"
        max_attempts = 2
    "#;
    std::fs::write(cli.dir.path().join("mill.toml"), config).unwrap();
    Service::start(cli, &["serve", "--config", "mill.toml"])
}

const SECRET: &str = "an-example-secret-of-some-length";

fn webhook(delivery: &str, body: &str, secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    let signature = hex::encode(mac.finalize().into_bytes());
    format!(
        "POST /webhooks/hub HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-github-event: push\r\nx-github-delivery: {delivery}\r\n\
         x-hub-signature-256: sha256={signature}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn a_service_shows_what_it_did_and_what_its_queues_hold() {
    let cli = Cli::new();
    // Another process's jobs are not this one's to count, and its queue holds them all the same.
    cli.ok(&[
        "enqueue",
        "q",
        "--name",
        "n",
        "--payload",
        "done",
        "--delay",
        "1h",
    ]);
    let service = serve(&cli);
    for (delivery, body, secret, status) in [
        ("1", "done", SECRET, 200),
        ("2", "done 2", SECRET, 200),
        ("2", "done 2", SECRET, 200),
        ("3", "fail", SECRET, 200),
        ("4", "refuse", SECRET, 200),
        ("5", "done", "not-the-secret-but-as-long-as-it", 401),
    ] {
        let (given, answer) = service.ask(&webhook(delivery, body, secret));
        assert_eq!(given, status, "{answer}");
    }
    let settled = |outcome: &str| {
        format!("millstream_settled_attempts_total{{queue=\"q\",outcome=\"{outcome}\"}}")
    };
    let completed = settled("completed");
    let samples = service.until("all are settled", |samples| {
        samples.get(&completed) == Some(&2.0)
            && samples.get(&settled("retried")) == Some(&1.0)
            && samples.get(&settled("dead")) == Some(&1.0)
            && samples["millstream_queue_jobs{queue=\"q\",state=\"running\"}"] == 0.0
    });

    for (series, value) in [
        ("millstream_enqueued_jobs_total{queue=\"q\"}", 4.0),
        ("millstream_duplicate_jobs_total{queue=\"q\"}", 1.0),
        ("millstream_started_attempts_total{queue=\"q\"}", 4.0),
        (
            "millstream_dead_jobs_total{queue=\"q\",outcome=\"refused\"}",
            1.0,
        ),
        ("millstream_handler_seconds_count{queue=\"q\"}", 4.0),
        ("millstream_queue_wait_seconds_count{queue=\"q\"}", 4.0),
        ("millstream_worker_running_jobs{queue=\"q\"}", 0.0),
        ("millstream_worker_slots{queue=\"q\"}", 10.0),
        (
            "millstream_gateway_requests_total{source=\"hub\",outcome=\"stored\"}",
            4.0,
        ),
        (
            "millstream_gateway_requests_total{source=\"hub\",outcome=\"duplicate\"}",
            1.0,
        ),
        (
            "millstream_gateway_requests_total{source=\"hub\",outcome=\"unauthorized\"}",
            1.0,
        ),
        (
            "millstream_gateway_request_seconds_count{source=\"hub\"}",
            6.0,
        ),
        ("millstream_redis_reconnects_total", 0.0),
        ("millstream_redis_up", 1.0),
        (
            "millstream_queue_jobs{queue=\"q\",state=\"scheduled\"}",
            2.0,
        ),
        ("millstream_queue_jobs{queue=\"q\",state=\"dead\"}", 1.0),
        ("millstream_queue_paused{queue=\"q\"}", 0.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}: {samples:#?}");
    }
    assert!(samples["millstream_redis_calls_total"] > 5.0);
    assert!(samples["millstream_queue_wait_seconds_sum{queue=\"q\"}"] < 60.0);

    // What is on the page is on the list, with its kind and its words; nothing else is.
    let page = service.page();
    for line in page.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').unwrap();
        let metric = ALL.iter().find(|metric| metric.name == name).expect(name);
        assert_eq!(metric.help, help);
        let kind = format!("# TYPE {name} {}", metric.kind.name());
        assert!(page.contains(&kind), "{kind}");
    }
    for name in named(&page) {
        assert!(ALL.iter().any(|metric| metric.name == name), "{name}");
    }
    promtool(&["check", "metrics"], &page);
    // No name of a job, no delivery, no secret.
    for leak in ["push", "refuse\"", SECRET] {
        assert!(!page.contains(leak), "{leak}");
    }
}

#[test]
fn without_redis_the_queues_are_absent_and_not_empty() {
    let cli = Cli::new();
    cli.ok(&[
        "enqueue",
        "q",
        "--name",
        "n",
        "--payload",
        "done",
        "--delay",
        "1h",
    ]);
    let service = serve(&cli);
    let scheduled = "millstream_queue_jobs{queue=\"q\",state=\"scheduled\"}";
    let before = service.until("it looks", |samples| samples["millstream_redis_up"] == 1.0);
    assert_eq!(before.get(scheduled), Some(&1.0));

    cli.redis.freeze().unwrap();
    let during = service.until("it sees", |samples| samples["millstream_redis_up"] == 0.0);
    assert!(
        !during
            .keys()
            .any(|series| series.starts_with("millstream_queue_jobs")),
        "{during:#?}"
    );
    // What this process did it still knows.
    assert!(during.contains_key("millstream_started_attempts_total{queue=\"q\"}"));
    cli.redis.thaw().unwrap();
    let after = service.until("it sees again", |samples| {
        samples["millstream_redis_up"] == 1.0
    });
    assert_eq!(after.get(scheduled), Some(&1.0));

    cli.redis.kill().unwrap();
    service.until("it is gone", |samples| {
        samples["millstream_redis_up"] == 0.0
    });
    cli.redis.restart().unwrap();
    let after = service.until("it is back", |samples| {
        samples["millstream_redis_up"] == 1.0 && samples["millstream_redis_reconnects_total"] >= 1.0
    });
    assert!(
        after["millstream_redis_errors_total{outcome=\"away\"}"] >= 1.0,
        "{after:#?}"
    );
}

#[test]
fn a_trace_leads_from_the_webhook_into_the_log() {
    let cli = Cli::new();
    let service = serve(&cli);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("traceparent: 00-{trace}-b7ad6b7169203331-01\r\ncontent-length:");
    let request = webhook("1", "fail", SECRET).replacen("content-length:", &parent, 1);
    assert_eq!(service.ask(&request).0, 200);
    let retried = "millstream_settled_attempts_total{queue=\"q\",outcome=\"retried\"}";
    service.until("it failed", |samples| samples.get(retried) == Some(&1.0));

    let log = std::fs::read_to_string(cli.dir.path().join("service.log")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_the_trace: Vec<Value> = lines.filter(|line| line["trace_id"] == trace).collect();
    let [line] = of_the_trace.as_slice() else {
        panic!("{log}");
    };
    assert_eq!((&line["queue"], &line["attempt"]), (&"q".into(), &1.into()));
    assert!(
        line["job"].as_str().is_some_and(|job| !job.is_empty()),
        "{line}"
    );
}

#[test]
fn a_worker_shows_its_metrics_where_it_listens() {
    let cli = Cli::new();
    let args = [
        "worker",
        "--queue",
        "q",
        "--listen",
        "127.0.0.1:0",
        "--forward",
        "http://127.0.0.1:1/",
    ];
    let service = Service::start(&cli, &args);
    cli.ok(&[
        "enqueue",
        "q",
        "--name",
        "n",
        "--payload",
        "x",
        "--max-attempts",
        "1",
    ]);
    let unconnected = "millstream_forwarded_requests_total{queue=\"q\",outcome=\"unconnected\"}";
    let samples = service.until("it tried", |samples| samples.get(unconnected) == Some(&1.0));
    assert_eq!(samples["millstream_circuit_open{queue=\"q\"}"], 0.0);
    let (status, _) = service.ask("POST /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert_eq!(status, 405);
}

#[test]
fn the_dashboard_and_the_alerts_name_only_metrics_that_exist() {
    let files = [
        "docs/ops/grafana/millstream.json",
        "docs/ops/prometheus/millstream.rules.yml",
        "docs/ops/prometheus/millstream.rules.test.yml",
        "docs/metrics.md",
    ];
    for file in files {
        let names = named(&read(file));
        assert!(names.len() > 5, "{file}: {names:?}");
        for name in names {
            assert!(
                ALL.iter().any(|metric| metric.name == name) || name == "millstream_queue",
                "{file} names {name}"
            );
        }
    }
}

#[test]
fn the_dashboard_shows_every_metric_that_there_is() {
    let shown = named(&read("docs/ops/grafana/millstream.json"));
    let missing: Vec<_> = ALL
        .iter()
        .filter(|metric| !shown.contains(metric.name))
        .collect();
    assert!(
        missing.is_empty(),
        "put these on the dashboard: {missing:#?}"
    );
}

/// Every `expr` of the dashboard, with Grafana's variables filled in.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(expr)) = fields.get("expr") {
                found.push(
                    expr.replace("$__rate_interval", "5m")
                        .replace("$queue", ".*"),
                );
            }
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn prometheus_accepts_the_alerts_and_the_dashboards_queries() {
    if promtool(
        &["check", "rules", "docs/ops/prometheus/millstream.rules.yml"],
        "",
    )
    .is_none()
    {
        return;
    }
    promtool(
        &[
            "test",
            "rules",
            "docs/ops/prometheus/millstream.rules.test.yml",
        ],
        "",
    );
    // Each alert is tried.
    let (rules, tests) = (
        read("docs/ops/prometheus/millstream.rules.yml"),
        read("docs/ops/prometheus/millstream.rules.test.yml"),
    );
    for alert in rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
    {
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{alert} is not tried"
        );
    }

    let dashboard: Value = serde_json::from_str(&read("docs/ops/grafana/millstream.json")).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 20, "{found:?}");
    let mut recorded = String::from("groups:\n- name: dashboard\n  rules:\n");
    for (number, expr) in found.iter().enumerate() {
        let quoted = serde_json::to_string(expr).unwrap();
        recorded.push_str(&format!(
            "  - record: dashboard:query:{number}\n    expr: {quoted}\n"
        ));
    }
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("dashboard.yml");
    std::fs::write(&path, recorded).unwrap();
    promtool(&["check", "rules", path.to_str().unwrap()], "");
}
