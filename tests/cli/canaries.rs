//! Tokens and jobs that pass through a gateway are found in none of its words, even when it logs all that it can.
//! (For webhooks see `tests/gateway/canary.rs`.)

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Cli, PATIENCE, Process};

/// What must not be told. The token is a good one, so that requests get as far as they can.
const TOKEN: &str = "canary-bearer-token";

fn ask(address: &str, path: &str, token: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST {path}?key=canary-query HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncookie: canary-cookie\r\n\
         x-unknown: canary-header\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn no_token_and_no_job_is_in_the_log_or_in_an_answer() {
    let cli = Cli::new();
    let config = "[gateway]\nlisten = \"127.0.0.1:0\"\n[tokens.app]\nsecrets = [\"env:T\"]\nqueues = [\"q\"]\n";
    std::fs::write(cli.dir.path().join("mill.toml"), config).unwrap();
    let path = cli.dir.path().join("log");
    let mut command = cli.command(&["gateway", "--config", "mill.toml", "-vv"]);
    command.env("T", TOKEN).env("NO_COLOR", "1");
    let command = command
        .stdin(Stdio::null())
        .stderr(File::create(&path).unwrap());
    let mut gateway = Process(command.spawn().unwrap());
    let began = Instant::now();
    let log = || std::fs::read_to_string(&path).unwrap();
    let address = loop {
        if let Some((_, address)) = log().split_once("the gateway listens address=") {
            break address.split_whitespace().next().unwrap().to_owned();
        }
        assert!(began.elapsed() < PATIENCE, "{}", log());
        std::thread::sleep(Duration::from_millis(10));
    };

    let job = r#"{"name":"a","payload_text":"canary-payload","group":"canary-group"}"#;
    let bad = r#"{"name":"a","payload":"canary-payload","delay":"canary"}"#;
    for (path, token, body, status) in [
        ("/queues/q/jobs", TOKEN, job, 201),
        ("/queues/q/jobs", TOKEN, bad, 400),
        ("/queues/q/jobs", TOKEN, "canary", 400),
        ("/queues/canary-queue/jobs", TOKEN, job, 403),
        ("/queues/q/jobs", "canary-wrong-token", job, 401),
        ("/canary-path", TOKEN, job, 404),
    ] {
        let answer = ask(&address, path, token, body);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {answer}"
        );
        assert!(!answer.contains("canary"), "{path}: {answer}");
    }
    gateway.signal("HUP");
    gateway.signal("TERM");
    assert_eq!(gateway.wait(PATIENCE), Some(0));

    let log = log();
    let requests = log.lines().filter(|line| line.contains("request method="));
    assert_eq!(requests.count(), 6, "{log}");
    assert!(
        log.contains("DEBUG"),
        "this is not all that it can log: {log}"
    );
    let told: Vec<&str> = log.lines().filter(|line| line.contains("canary")).collect();
    assert!(told.is_empty(), "{told:#?}");
    // The job has what was said of it and nothing else of the request.
    let jobs = cli.json(&["jobs", "list", "q", "--json"]);
    let shown = cli.ok(&[
        "jobs",
        "show",
        "q",
        jobs[0]["id"].as_str().unwrap(),
        "--json",
    ]);
    for canary in ["cookie", "header", "query", "token"] {
        assert!(!shown.contains(&format!("canary-{canary}")), "{shown}");
    }
}
