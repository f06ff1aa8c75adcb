//! SIGHUP: the gateway reads its secrets again while it serves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{ChildStderr, Stdio};

use millstream::gateway::signature::Scheme;
use serde_json::Value;

use crate::support::{Cli, PATIENCE, Process};

/// A gateway whose log is read line by line.
struct Served {
    process: Process,
    log: BufReader<ChildStderr>,
    address: String,
}

impl Served {
    fn start(cli: &Cli) -> Self {
        let args = ["gateway", "--config", "mill.toml", "--log-format", "json"];
        let mut command = cli.command(&args);
        let command = command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut served = Self {
            process: Process(child),
            log,
            address: String::new(),
        };
        let listens = served.line("the gateway listens");
        served.address = listens["address"].as_str().unwrap().to_owned();
        served
    }

    /// The next line of the log that says this.
    fn line(&mut self, says: &str) -> Value {
        let mut seen = String::new();
        loop {
            let from = seen.len();
            assert!(
                self.log.read_line(&mut seen).unwrap() > 0,
                "{says:?} is not in {seen}"
            );
            let line: Value = serde_json::from_str(&seen[from..]).unwrap();
            if line["message"].as_str().unwrap().contains(says) {
                return line;
            }
        }
    }

    /// The status that a Shopify webhook gets which is signed by `secret`.
    fn status(&self, secret: &str) -> u16 {
        let scheme = Scheme::shopify();
        let signature = scheme.sign(&scheme.secret("s", secret).unwrap(), "", 0, b"{}");
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "POST /webhooks/shop HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\
             x-shopify-hmac-sha256: {signature}\r\n\r\n{{}}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

#[test]
fn sighup_takes_new_secrets_over_and_a_bad_one_keeps_the_old_and_says_so() {
    let cli = Cli::new();
    let write = |name: &str, text: &str| std::fs::write(cli.dir.path().join(name), text).unwrap();
    let config = |secrets: &str| {
        let listen = "[gateway]\nlisten = \"127.0.0.1:0\"\n";
        let source = "[sources.shop]\nscheme = \"shopify\"\nqueue = \"q\"\n";
        write(
            "mill.toml",
            &format!("{listen}{source}secrets = {secrets}\n"),
        );
    };
    write("one", "hunter1\n");
    config("[\"file:one\"]");
    let mut served = Served::start(&cli);
    assert_eq!(
        (served.status("hunter1"), served.status("hunter2")),
        (200, 401)
    );

    // Another secret in the same file.
    write("one", "hunter2\n");
    served.process.signal("HUP");
    served.line("the secrets were read again");
    assert_eq!(
        (served.status("hunter1"), served.status("hunter2")),
        (401, 200)
    );

    // A secret more, to overlap.
    write("two", "hunter3\n");
    config("[\"file:one\", \"file:two\"]");
    served.process.signal("HUP");
    served.line("the secrets were read again");
    assert_eq!(
        (served.status("hunter2"), served.status("hunter3")),
        (200, 200)
    );

    // What cannot be taken over changes nothing, not even what beside it could be.
    write("one", "hunter4\n");
    for (name, text, place) in [
        ("two", "", "secrets[1]"),
        ("two", "hunter5 \n", "secrets[1]"),
        ("mill.toml", "[sources", "mill.toml:1"),
    ] {
        write(name, text);
        served.process.signal("HUP");
        let line = served.line("the old secrets stay in force");
        let said = line["message"].as_str().unwrap();
        assert!(said.contains(place) && !said.contains("hunter"), "{said}");
        assert_eq!(
            (served.status("hunter3"), served.status("hunter4")),
            (200, 401)
        );
    }
    served.process.signal("TERM");
    assert_eq!(served.process.wait(PATIENCE), Some(0));
}
