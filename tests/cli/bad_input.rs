//! What bad input gets: a clear error that names the value and the way out, exit code 2, and nothing half done.

use std::process::Stdio;

use millstream::private_redis::{Options, PrivateRedis};

use crate::support::{Cli, bare, stderr};

/// Without Redis: whatever is wrong must be said before the first connection.
fn refused(args: &[&str], told: &[&str]) {
    let mut command = bare(args);
    command.env("MILLSTREAM_REDIS_URL", "unix:/nonexistent/redis.sock");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    for word in told {
        assert!(
            text.contains(word),
            "{args:?} does not say {word:?}: {text}"
        );
    }
    assert!(output.stdout.is_empty(), "{args:?}");
}

#[test]
fn wrong_words_are_refused_before_anything_is_connected() {
    refused(
        &["enqueue", "q", "--name", "a", "--frobnicate"],
        &["--frobnicate"],
    );
    refused(&["frobnicate"], &["frobnicate"]);
    refused(&["enqueue", "q"], &["--name"]);
    refused(
        &["enqueue", "q", "--name", "a\nb"],
        &["name", "control characters"],
    );
    refused(
        &["enqueue", "q", "--name", "a", "--delay", "5 parsecs"],
        &["5 parsecs", "--delay"],
    );
    refused(
        &["enqueue", "q", "--name", "a", "--delay", "200000d"],
        &["200000", "delay"],
    );
    refused(
        &["enqueue", "q", "--name", "a", "--max-attempts", "0"],
        &["--max-attempts", "0"],
    );
    refused(
        &["enqueue", "q", "--name", "a", "--at", "tomorrow"],
        &["tomorrow", "--at"],
    );
    refused(
        &["enqueue", "q", "--name", "a", "--durability", "replicas:0"],
        &["replicas:0"],
    );
    refused(
        &["enqueue", "a{b}", "--name", "a"],
        &["a{b}", "not allowed"],
    );
    refused(
        &["enqueue", "a\nb", "--name", "a"],
        &["a\\nb", "not allowed"],
    );
    refused(&["stats", "a/b"], &["a/b", "not allowed"]);
    refused(&["worker", "--queue", "q"], &["--forward", "--command"]);
    for flag in [
        "--sign-with=env:S",
        "--refuse-private",
        "--circuit-failures=5",
    ] {
        let name = flag.split('=').next().unwrap();
        refused(
            &["worker", "--queue", "q", flag, "--command", "true"],
            &[name, "--forward"],
        );
    }
    refused(
        &["worker", "--queue", "q", "--forward", "ftp://x"],
        &["ftp://x", "http"],
    );
    refused(
        &["worker", "--queue", "q", "--command", "/no/such/program"],
        &["/no/such/program"],
    );
    refused(
        &[
            "worker",
            "--queue",
            "q",
            "--forward",
            "http://x",
            "--backoff",
            "sometimes",
        ],
        &["sometimes", "fixed(5s)"],
    );
    refused(
        &[
            "worker",
            "--queue",
            "q",
            "--forward",
            "http://x",
            "--concurrency",
            "0",
        ],
        &["concurrency", "0"],
    );
    refused(
        &[
            "worker",
            "--queue",
            "q",
            "--forward",
            "http://x",
            "--lease",
            "1ms",
        ],
        &["lease", "1ms", "1s"],
    );
    refused(
        &["serve", "--config", "/no/such/file.toml"],
        &["/no/such/file.toml"],
    );
    refused(
        &["--redis-url", "http://x", "stats", "q"],
        &["http://x", "redis://"],
    );
    refused(&["--namespace", "a b", "stats", "q"], &["a b", "namespace"]);
    let own = "starts a Redis of its own";
    refused(&["dev", "--redis-url", "redis://a"], &[own, "--redis-url"]);
    refused(&["--redis-url", "redis://a", "demo"], &[own, "--redis-url"]);
}

#[test]
fn a_config_file_with_a_fault_is_refused_with_place_and_fix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("millstream.toml");
    let queue = "[queues.w]\nhandler = { forward = \"http://127.0.0.1:3000/\" }\n";
    let source = |scheme: &str, secret: &str| {
        format!(
            "[sources.shop]\nscheme = \"{scheme}\"\nsecrets = [\"{secret}\"]\nqueue = \"w\"\n{queue}"
        )
    };
    for (text, told) in [
        (format!("{queue}colour = \"red\"\n"), vec!["colour"]),
        (
            format!("{queue}timeout = \"soon\"\n"),
            vec!["timeout", "soon"],
        ),
        (format!("{queue}lease = \"1ms\"\n"), vec!["lease", "1ms"]),
        (
            "[queues.w]\n".to_owned(),
            vec!["handler", "forward", "command"],
        ),
        (
            source("shopify", "env:MILLSTREAM_NO_SUCH_SECRET"),
            vec!["MILLSTREAM_NO_SUCH_SECRET"],
        ),
        (
            source("shopify", "file:/no/such/secret"),
            vec!["/no/such/secret"],
        ),
        (source("morse", "env:PATH"), vec!["morse", "shopify"]),
        ("= 1\n".to_owned(), vec!["millstream.toml"]),
    ] {
        std::fs::write(&path, &text).unwrap();
        let mut told = told;
        told.push("millstream.toml");
        refused(&["serve", "--config", path.to_str().unwrap()], &told);
    }
}

#[test]
fn secrets_are_refused_in_plain_text_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("millstream.toml");
    let queue = "queue = \"w\"\n[queues.w]\nhandler = { forward = \"http://127.0.0.1:3000/\" }\n";
    for (scheme, secret, told) in [
        ("shopify", "hunter2hunter2", "env:"),
        // Not base64, where it must be.
        ("standard", "env:CANARY", "base64"),
    ] {
        let text =
            format!("[sources.shop]\nscheme = \"{scheme}\"\nsecrets = [\"{secret}\"]\n{queue}");
        std::fs::write(&path, text).unwrap();
        let mut command = bare(&["serve", "--config", path.to_str().unwrap()]);
        let output = command
            .env("CANARY", "whsec_hunter2!!!!")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("shop") && text.contains(told), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn an_unreachable_redis_is_named_without_its_password_and_exits_1() {
    let url = "redis://user:hunter2@127.0.0.1:1/0";
    let output = bare(&["--redis-url", url, "stats", "q"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("127.0.0.1:1") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_redis_that_would_drop_jobs_is_refused_with_the_way_out() {
    let args = ["--maxmemory-policy", "allkeys-lru"]
        .map(str::to_owned)
        .into();
    let redis = PrivateRedis::start(Options {
        args,
        ..Options::default()
    })
    .unwrap();
    let stats = |flags: &[&str]| {
        let mut command = bare(flags);
        command
            .env("MILLSTREAM_REDIS_URL", redis.url())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };

    let output = stats(&["stats", "q"]);

    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("allkeys-lru") && text.contains("CONFIG SET maxmemory-policy noeviction"),
        "{text}"
    );
    assert!(stats(&["stats", "q", "--allow-eviction"]).status.success());
}

#[test]
fn a_payload_over_the_limit_is_refused_and_nothing_is_stored() {
    let cli = Cli::new();
    std::fs::write(cli.dir.path().join("big"), vec![b'x'; (1 << 20) + 1]).unwrap();

    let output = cli.run(&["enqueue", "q", "--name", "a", "--payload-file", "big"]);

    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("1048577"), "{}", stderr(&output));
    assert_eq!(cli.json(&["stats", "q", "--json"])["ready"], 0);
}
