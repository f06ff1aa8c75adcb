//! An encrypted queue from the command line: jobs go in sealed, come out plain for who has the key, and nothing goes in without it.

use std::process::Stdio;

use crate::support::Cli;

const KEY: &str = "2026:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

#[test]
fn only_who_has_the_key_puts_jobs_in_and_reads_them() {
    let cli = Cli::new();
    let file = "[queues.q]\nhandler = { command = [\"sh\", \"-c\", \"cat >> log\"] }\nencrypt_with = [\"env:QUEUE_KEY\"]\n";
    std::fs::write(cli.dir.path().join("mill.toml"), file).unwrap();
    let with_key = |args: &[&str]| {
        let mut command = cli.command(args);
        command
            .args(["--config", "mill.toml"])
            .env("QUEUE_KEY", KEY);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let enqueue = ["enqueue", "q", "--name", "a", "--payload", "hunter2"];

    let refused = cli.run(&[&enqueue[..], &["--config", "mill.toml"]].concat());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("QUEUE_KEY") && said.contains("encrypt_with"),
        "{said}"
    );

    let stored = with_key(&enqueue);
    let id = String::from_utf8(stored.stdout).unwrap().trim().to_owned();
    let show = ["jobs", "show", "q", &id];

    let shown = String::from_utf8(with_key(&show).stdout).unwrap();
    assert!(
        shown.contains("hunter2") && shown.contains("2026"),
        "{shown}"
    );
    let hidden = cli.ok(&show);
    assert!(
        !hidden.contains("hunter2") && hidden.contains("--config"),
        "{hidden}"
    );
    let bytes = cli.run(&[&show[..], &["--payload"]].concat());
    assert_eq!((bytes.status.code(), bytes.stdout.len()), (Some(1), 0));
    let json = cli.json(&[&show[..], &["--json"]].concat());
    assert_eq!(json["sealed_with"], "2026");
    assert!(
        json.get("payload").is_none() && json.get("payload_hex").is_none(),
        "{json}"
    );

    let mut worker = cli.command(&["worker", "--config", "mill.toml"]);
    worker
        .env("QUEUE_KEY", KEY)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let worker = crate::support::Process(worker.spawn().unwrap());
    assert_eq!(cli.wait_for_log(1), ["hunter2"]);
    drop(worker);
}
