//! SIGHUP: the gateway reads its secrets again while it serves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millstream::gateway::signature::Scheme;

use crate::support::{Cli, PATIENCE, Served};

impl Served {
    fn status(&self, secret: &str) -> u16 {
        status(&self.address, secret)
    }
}

/// The status that a Shopify webhook gets which is signed by `secret`.
fn status(address: &str, secret: &str) -> u16 {
    let scheme = Scheme::shopify();
    let signature = scheme.sign(&scheme.secret("s", secret).unwrap(), "", 0, b"{}");
    let mut stream = TcpStream::connect(address).unwrap();
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
    let mut served = Served::start(&cli, "gateway", &[]);
    assert_eq!(
        (served.status("hunter1"), served.status("hunter2")),
        (200, 401)
    );

    // Another secret in the same file.
    write("one", "hunter2\n");
    served.process.signal("HUP");
    served.line("were read again");
    assert_eq!(
        (served.status("hunter1"), served.status("hunter2")),
        (401, 200)
    );

    // A secret more, to overlap.
    write("two", "hunter3\n");
    config("[\"file:one\", \"file:two\"]");
    served.process.signal("HUP");
    served.line("were read again");
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
        let line = served.line("stay in force");
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

#[test]
fn no_request_is_dropped_while_secrets_are_read_again() {
    let cli = Cli::new();
    let config = "[gateway]\nlisten = \"127.0.0.1:0\"\n[sources.shop]\nscheme = \"shopify\"\nqueue = \"q\"\n\
        secrets = [\"file:new\", \"file:old\"]\n";
    let write = |name: &str, text: &str| std::fs::write(cli.dir.path().join(name), text).unwrap();
    write("mill.toml", config);
    write("old", "hunter1");
    write("new", "hunter2");
    let mut served = Served::start(&cli, "gateway", &[]);
    let over = Arc::new(AtomicBool::new(false));
    let (address, stop) = (served.address.clone(), over.clone());
    let sender = std::thread::spawn(move || {
        let mut statuses = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            statuses.push(status(&address, "hunter1"));
        }
        statuses
    });

    for turn in 0..20 {
        write("new", &format!("hunter2-{turn}"));
        served.process.signal("HUP");
        served.line("were read again");
        assert_eq!(served.status(&format!("hunter2-{turn}")), 200);
    }
    over.store(true, Ordering::Relaxed);

    let statuses = sender.join().unwrap();
    assert!(
        !statuses.is_empty() && statuses.iter().all(|status| *status == 200),
        "{statuses:?}"
    );
}
