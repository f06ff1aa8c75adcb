//! Redis behind TLS.

use std::net::TcpListener;
use std::process::Stdio;

use millstream::private_redis::{Options, PrivateRedis};

use crate::support::{Process, bare, stderr};

/// A certificate for `localhost` that nobody signed. It protects nothing but these tests.
const CERT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/tls/localhost.cert.pem"
);
const KEY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/tls/localhost.key.pem"
);

/// A server and its TLS port; none where the program was built without TLS.
fn server() -> Option<(PrivateRedis, u16)> {
    let start = |_| {
        // It wants to be told its port, free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let number = port.to_string();
        let args = [
            "--tls-port",
            &number,
            "--tls-cert-file",
            CERT,
            "--tls-key-file",
            KEY,
            "--tls-ca-cert-file",
            CERT,
            "--tls-auth-clients",
            "no",
        ];
        let args = args.map(str::to_owned).into();
        PrivateRedis::start(Options {
            args,
            ..Options::default()
        })
        .map(|redis| (redis, port))
    };
    let mut failed = String::new();
    for tried in (0..5).map(start) {
        match tried {
            Ok(started) => return Some(started),
            Err(error) => failed = error.to_string(),
        }
        if ["TLS support", "Bad directive"]
            .iter()
            .any(|words| failed.contains(words))
        {
            eprintln!("not run: this redis-server was built without TLS");
            return None;
        }
    }
    panic!("{failed}");
}

#[test]
fn redis_is_reached_over_tls_where_its_certificate_is_trusted_and_else_the_way_out_is_named() {
    let Some((_redis, port)) = server() else {
        return;
    };
    let command = |args: &[&str], url: &str, trusted: Option<&str>| {
        let mut command = bare(&[args, &["--redis-url", url]].concat());
        command.envs(trusted.map(|file| ("SSL_CERT_FILE", file)));
        command
    };
    let job = ["enqueue", "q", "--name", "a", "--keep-result", "1m"];
    let enqueue = |url, trusted| command(&job, url, trusted).output().unwrap();
    let url = format!("rediss://localhost:{port}");

    let stored = enqueue(&url, Some(CERT));
    assert!(stored.status.success(), "{}", stderr(&stored));
    let id = String::from_utf8(stored.stdout).unwrap();
    let worker = ["worker", "--queue", "q", "--command", "true"];
    let mut worker = command(&worker, &url, Some(CERT));
    let _worker = Process(worker.stdin(Stdio::null()).spawn().unwrap());
    let wait = ["jobs", "wait", "q", id.trim()];
    let done = command(&wait, &url, Some(CERT)).output().unwrap();
    assert!(done.status.success(), "{}", stderr(&done));

    let refused = enqueue(&url, None);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("SSL_CERT_FILE"),
        "{}",
        stderr(&refused)
    );
}
