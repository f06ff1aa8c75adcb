//! Each way in which a config file or the flags can be wrong: the message names file, line, key and value, and the way out.

use std::time::Duration;

use clap::Parser as _;

use super::*;
use crate::cli::args::{Cli, Command};

/// What `serve` would do with this file: an error's whole chain, or the queues.
fn serve(text: &str, plain: Plain) -> Result<Vec<QueueSettings>, String> {
    let place = SourceText {
        path: "mill.toml".into(),
        text: text.into(),
    };
    let file = ConfigFile::parse(place)?;
    let both = || {
        gateway(
            &GatewayFlags::default(),
            &SourceFlags::default(),
            None,
            Some(&file),
            plain,
        )?;
        queues(&QueueFlags::default(), Some(&file), plain)
    };
    both().map_err(|error: anyhow::Error| format!("{error:#}"))
}

fn refusal(text: &str) -> String {
    serve(text, Plain::Refused).expect_err("it was accepted")
}

const QUEUE: &str = "[queues.webhooks]\nhandler = { forward = \"http://127.0.0.1:3000/hooks\" }\n";

#[test]
fn the_file_of_the_contract_is_read() {
    let text = r#"
        [redis]
        url = "redis://127.0.0.1:6379"
        [gateway]
        listen = "127.0.0.1:8080"
        max_body = "64KiB"
        [sources.shop]
        scheme = "shopify"
        secrets = ["plain"]
        queue = "webhooks"
        group = "header:x-shopify-shop-domain"
        dedupe = "72h"
        [sources.own]
        scheme = "hmac"
        header = "x-signature"
        prefix = "sha512="
        algorithm = "sha512"
        encoding = "base64"
        id_header = "x-id"
        secrets = ["plain"]
        queue = "webhooks"
        [queues.webhooks]
        handler = { forward = "http://127.0.0.1:3000/hooks", dead_on = [404, 422] }
        concurrency = 50
        max_attempts = 10
        backoff = "exponential(1s, 5m)"
        timeout = "30s"
        lease = "30s"
        retain_completed = "0s"
        retain_dead = "30d"
        [queues.thumbs]
        handler = { command = ["cat", "-"], kill_grace = "1s" }
    "#;
    let queues = serve(text, Plain::Allowed).unwrap();
    let [thumbs, webhooks] = queues.as_slice() else {
        panic!("{queues:?}")
    };
    assert!(matches!(thumbs.handler, HandlerSettings::Command(_)) && thumbs.lease.is_none());
    assert!(matches!(webhooks.handler, HandlerSettings::Forward(_)));
    assert_eq!(webhooks.concurrency, Some(50));
    assert_eq!(
        webhooks.retain_dead,
        Some(Duration::from_secs(30 * 24 * 3600))
    );
}

#[test]
fn a_bad_value_is_refused_with_its_line_and_key() {
    for (line, key, fix) in [
        ("lease = \"10x\"", "lease", "250ms"),
        ("lease = \"10ms\"", "lease", "1s to 1day"),
        ("timeout = \"0s\"", "timeout", "1ms"),
        ("backoff = \"linear(1s)\"", "backoff", "fixed(5s)"),
        ("concurrency = 0", "concurrency", "1 to 100000"),
        ("concurrency = -3", "concurrency", "1 to 100000"),
        ("concurrency = \"many\"", "concurrency", "many"),
        ("max_attempts = 0", "max_attempts", "1 to 1000000"),
        ("retain_dead = \"500000d\"", "retain_dead", "10years"),
        ("colour = \"red\"", "colour", "concurrency"),
        ("group_concurrency = -1", "group_concurrency", "0 to 100000"),
        ("group_order = \"strict\"", "group_order", "block"),
        ("group_rate = \"50\"", "group_rate", "50/s"),
        ("queue_rate = \"50/d\"", "queue_rate", "50/s"),
        ("queue_concurrency = -1", "queue_concurrency", "0 to 100000"),
        ("group_burst = 100001", "group_burst", "0 to 100000"),
        ("group_max_backlog = -1", "group_max_backlog", "0 to"),
    ] {
        let said = refusal(&format!("{QUEUE}{line}\n"));
        for part in ["mill.toml:3", key, fix] {
            assert!(said.contains(part), "{line}: {part:?} is not in {said:?}");
        }
    }
}

#[test]
fn a_handler_is_exactly_one_of_forward_and_command() {
    for (handler, fix) in [
        ("", "missing"),
        ("handler = {}", "neither"),
        (
            "handler = { forward = \"http://a/\", command = [\"cat\"] }",
            "both",
        ),
        ("handler = { command = [] }", "empty"),
        (
            "handler = { command = [\"cat\"], sign_with = \"env:X\" }",
            "sign_with",
        ),
        (
            "handler = { forward = \"http://a/\", kill_grace = \"1s\" }",
            "kill_grace",
        ),
        (
            "handler = { command = [\"cat\"], circuit_failures = 5 }",
            "circuit_failures",
        ),
        (
            "handler = { command = [\"cat\"], refuse_private = true }",
            "refuse_private",
        ),
        (
            "handler = { forward = \"http://10.0.0.1/\", refuse_private = true }",
            "10.0.0.1 is a private address",
        ),
        ("handler = { forward = \"ftp://a/\" }", "http://"),
        (
            "handler = { command = [\"/no/such/program\"] }",
            "/no/such/program",
        ),
        (
            "handler = { forward = \"http://a/\", sign_with = \"whsec_hunter2\" }",
            "env:NAME",
        ),
    ] {
        let said = refusal(&format!("[queues.webhooks]\n{handler}\n"));
        assert!(
            said.contains("mill.toml:") && said.contains("queues.webhooks"),
            "{said}"
        );
        assert!(said.contains(fix), "{handler}: {fix:?} is not in {said:?}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// The limits of the targets, in the order of the queues.
fn limits(queues: &[QueueSettings]) -> Vec<Option<usize>> {
    let limit = |queue: &QueueSettings| match &queue.handler {
        HandlerSettings::Forward(plan) => plan.limit.as_ref().map(millstream::SharedLimit::at_once),
        _ => None,
    };
    queues.iter().map(limit).collect()
}

#[test]
fn a_limit_of_a_target_is_that_of_all_queues_that_forward_there() {
    let queue = |name: &str, rest: &str| {
        format!("[queues.{name}]\nhandler = {{ forward = \"http://{rest} }}\n")
    };
    let named = queue("a", "h:80/x\", target_concurrency = 7");
    let same = queue("b", "h/y\"");
    let other = queue("c", "h:81/\"");
    let text = format!("{named}{same}{other}");
    let queues = serve(&text, Plain::Refused).unwrap();
    assert_eq!(limits(&queues), [Some(7), Some(7), None]);

    let differs = queue("d", "h/z\", target_concurrency = 8");
    let said = refusal(&format!("{text}{differs}"));
    assert!(
        said.contains("h:80")
            && said.contains('7')
            && said.contains('8')
            && said.contains("queues.d"),
        "{said}"
    );
}

#[test]
fn a_bad_source_is_refused_and_its_secret_is_not_shown() {
    for (lines, fix) in [
        (
            "scheme = \"shopfy\"\nsecrets = [\"hunter2\"]\nqueue = \"q\"",
            "shopify",
        ),
        (
            "scheme = \"stripe\"\nsecrets = [\"hunter2\"]\nqueue = \"q\"",
            "env:NAME",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"hunter2\"]\nqueue = \"q\"",
            "env:NAME",
        ),
        (
            "scheme = \"shopify\"\nsecrets = \"hunter2\"\nqueue = \"q\"",
            "env:NAME",
        ),
        (
            "scheme = \"shopify\"\nsecrets = { hunter2 = 1 }\nqueue = \"q\"",
            "list of strings",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"hunter2\", 7]\nqueue = \"q\"",
            "list of strings",
        ),
        (
            "scheme = \"shopify\"\nsecrets = []\nqueue = \"q\"",
            "without a secret",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:MILLSTREAM_TEST_NO_SUCH\"]\nqueue = \"q\"",
            "MILLSTREAM_TEST_NO_SUCH",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:PATH\"]\nqueue = \"a{b}\"",
            "a{b}",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\ngroup = \"x-shop\"",
            "header:NAME",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\ntopic = \"json:type\"",
            "json:/shop/id",
        ),
        (
            "scheme = \"github\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\nid = \"none\"\nid_header = \"x\"",
            "not both",
        ),
        (
            "scheme = \"standard\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\nid = \"json:/id\"",
            "base64",
        ),
        (
            "scheme = \"hmac\"\nheader = \"x\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\ntimestamp_prefix = \"t=\"",
            "separator",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\nprefix = \"v1=\"",
            "hmac",
        ),
        (
            "scheme = \"hmac\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"",
            "header",
        ),
        ("scheme = \"shopify\"\nsecrets = [\"env:PATH\"]", "queue"),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\ndedupe = \"72\"",
            "250ms",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\nrate = \"fast\"",
            "600/m",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\nburst = 5",
            "needs a rate",
        ),
        (
            "scheme = \"shopify\"\nsecrets = [\"env:PATH\"]\nqueue = \"q\"\npriority = \"urgent\"",
            "high",
        ),
    ] {
        let said = refusal(&format!("[sources.shop]\n{lines}\n"));
        assert!(
            said.contains("mill.toml:") && said.contains("sources.shop"),
            "{said}"
        );
        assert!(said.contains(fix), "{lines}: {fix:?} is not in {said:?}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_bad_token_is_refused_and_not_shown() {
    for (lines, fix) in [
        (
            "secrets = [\"hunter2hunter2hunter2\"]\nqueues = [\"q\"]",
            "env:NAME",
        ),
        (
            "secrets = [\"env:MILLSTREAM_TEST_NO_SUCH\"]\nqueues = [\"q\"]",
            "MILLSTREAM_TEST_NO_SUCH",
        ),
        ("secrets = []\nqueues = [\"q\"]", "at least one"),
        ("secrets = [\"env:PATH\"]", "queues"),
        ("secrets = [\"env:PATH\"]\nqueues = []", "\"*\""),
        ("secrets = [\"env:PATH\"]\nqueues = [\"a{b}\"]", "a{b}"),
        (
            "secrets = [\"env:PATH\"]\nqueues = [\"q\"]\ncolour = 1",
            "colour",
        ),
    ] {
        let said = refusal(&format!("[tokens.app]\n{lines}\n"));
        assert!(
            said.contains("mill.toml") && said.contains(fix),
            "{lines}: {said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
    let short = "[tokens.app]\nsecrets = [\"hunter2\"]\nqueues = [\"*\"]\n";
    let said = serve(short, Plain::Allowed).unwrap_err();
    assert!(
        said.contains("tokens.app.secrets[0]") && said.contains("16 to 512"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_secret_that_is_no_base64_is_refused_where_it_must_be() {
    let text =
        "[sources.shop]\nscheme = \"standard\"\nsecrets = [\"whsec_hunter2!\"]\nqueue = \"q\"\n";
    let said = serve(text, Plain::Allowed).unwrap_err();
    assert!(
        said.contains("mill.toml:3: sources.shop.secrets[0]") && said.contains("base64"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn broken_toml_is_refused_with_its_line_but_without_quoting_it() {
    let said = refusal("[sources.shop]\nsecrets = [\"hunter2\"\nqueue = \"q\"\n");
    assert!(
        said.contains("mill.toml:") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn a_queue_or_address_that_cannot_be_is_refused() {
    let said = refusal("[queues.\"a b\"]\nhandler = { forward = \"http://a/\" }\n");
    assert!(
        said.contains("mill.toml:1") && said.contains("not allowed in a queue name"),
        "{said}"
    );
    let said = refusal("[gateway]\nlisten = \"8080\"\n");
    assert!(
        said.contains("mill.toml:2: gateway.listen") && said.contains("127.0.0.1:8080"),
        "{said}"
    );
    for (line, key) in [
        ("header_timeout = \"0s\"", "gateway.header_timeout"),
        ("write_timeout = \"2h\"", "gateway.write_timeout"),
        ("drain = \"2h\"", "gateway.drain"),
        ("max_connections = 0", "gateway.max_connections"),
        ("min_body_rate = \"fast\"", "gateway.min_body_rate"),
    ] {
        let said = refusal(&format!("[gateway]\n{line}\n"));
        assert!(
            said.contains("mill.toml") && said.contains(key),
            "{line}: {said}"
        );
    }
    let said = refusal("[gateway]\nmax_body = \"1GiB\"\n");
    assert!(
        said.contains("mill.toml:2") && said.contains("max_body") && said.contains("64"),
        "{said}"
    );
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let place = SourceText {
        path: "mill.toml".into(),
        text: format!("[redis]\nurl = \"redis://file\"\n{QUEUE}lease = \"20s\"\nconcurrency = 7\n"),
    };
    let file = ConfigFile::parse(place).unwrap();
    let cli = Cli::try_parse_from([
        "millstream",
        "worker",
        "--queue",
        "webhooks",
        "--lease",
        "3s",
        "--redis-url",
        "redis://flag",
    ]);
    let cli = cli.unwrap();
    let Command::Worker(worker) = &cli.command else {
        panic!("{:?}", cli.command)
    };

    let queues = queues(worker.queue_flags(), Some(&file), Plain::Refused).unwrap();
    let redis = RedisSettings::merge(&cli.globals, Some(&file));

    assert_eq!(queues[0].lease, Some(Duration::from_secs(3)));
    assert_eq!(queues[0].concurrency, Some(7));
    assert_eq!(queues[0].timeout, None);
    assert_eq!(
        (redis.url.as_str(), redis.namespace.as_str()),
        ("redis://flag", "millstream")
    );
    let redis = RedisSettings::merge(&Globals::default(), Some(&file));
    assert_eq!(redis.url, "redis://file");
}

#[test]
fn a_queue_that_the_file_does_not_have_is_refused_with_those_it_has() {
    let file = ConfigFile::parse(SourceText {
        path: "mill.toml".into(),
        text: QUEUE.into(),
    })
    .unwrap();
    let flags = QueueFlags {
        queue: Some(millstream::QueueName::new("hooks").unwrap()),
        ..QueueFlags::default()
    };
    let said = queues(&flags, Some(&file), Plain::Refused)
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("hooks") && said.contains("webhooks"),
        "{said}"
    );
}

#[test]
fn the_keys_of_an_encrypted_queue_are_needed_to_store_and_not_to_look() {
    let parse = |keys: &str| {
        let text = format!("{QUEUE}encrypt_with = {keys}\n");
        let path = "mill.toml".into();
        ConfigFile::parse(SourceText { path, text }).unwrap()
    };
    let merged = |file: &ConfigFile| RedisSettings::merge(&Globals::default(), Some(file));
    let missing = parse(r#"["env:MILLSTREAM_TEST_NO_SUCH_KEY"]"#);
    let refused = merged(&missing).with_keys(Some(&missing), Plain::Refused);
    let said = format!("{:#}", refused.err().expect("it was accepted"));
    assert!(
        said.contains("queues.webhooks.encrypt_with") && said.contains("NO_SUCH_KEY"),
        "{said}"
    );
    assert!(
        merged(&missing)
            .with_keys_at_hand(Some(&missing))
            .rings
            .is_empty()
    );

    let malformed = parse(r#"["hunter2"]"#);
    let refused = merged(&malformed).with_keys(Some(&malformed), Plain::Allowed);
    let said = format!("{:#}", refused.err().expect("it was accepted"));
    assert!(
        said.contains("ID:BASE64") && !said.contains("hunter2"),
        "{said}"
    );

    let file = parse(r#"["2026:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]"#);
    let redis = merged(&file)
        .with_keys(Some(&file), Plain::Allowed)
        .unwrap();
    assert_eq!(redis.rings[0].0, "webhooks");
}
