//! The lines of docs/webhooks.md, run against a gateway that has the settings of docs/webhooks.md.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::pages::{blocks_of, steps_of};
use crate::support::{Cli, Served};

const PAGE: &str = include_str!("../../docs/webhooks.md");

/// What the page calls by name.
const SECRETS: &[(&str, &str)] = &[
    ("SHOPIFY_SECRET", "shpss_5ecret"),
    ("GITHUB_SECRET", "It's a Secret to Everybody"),
    ("STRIPE_SECRET", "whsec_5ecret"),
    ("SLACK_SECRET", "8f742231b10e8888abcd99yyyzzz85a5"),
    ("BILLING_SECRET", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
    ("LEDGER_SECRET", "ledger 5ecret"),
    ("APP_TOKEN", "a-token-of-some-length"),
];

/// Without the job ids, which are others every time.
fn without_ids(text: &str) -> String {
    let mut parts = text.split("\"id\":\"");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |whole, part| {
        let (_, rest) = part.split_once('"').unwrap();
        whole + "\"id\":\"…\"" + rest
    })
}

#[test]
fn every_console_line_prints_what_the_page_says() {
    let cli = Cli::new();
    let listen = "[gateway]\nlisten = \"127.0.0.1:0\"\n";
    let config = format!("{listen}{}", blocks_of(PAGE, "toml").concat());
    std::fs::write(cli.dir.path().join("mill.toml"), config).unwrap();
    let served = Served::start(&cli, "serve", SECRETS);
    let sessions = blocks_of(PAGE, "console");
    assert!(sessions.len() >= 8, "the page has lost its commands");

    for block in sessions {
        let steps = steps_of(&block);
        let commands = steps.iter().map(|step| format!("{}\n", step.command));
        let commands = commands.collect::<String>();
        let commands = commands.replace("127.0.0.1:8080", &served.address);
        let expected: Vec<&str> = steps
            .iter()
            .flat_map(|step| step.printed.iter().map(String::as_str))
            .collect();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &commands])
            .envs(SECRETS.iter().copied())
            .env("no_proxy", "*")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}: {said}");
        // The gateway's answers do not end in a newline.
        let printed = String::from_utf8(output.stdout).unwrap();
        let printed = without_ids(&printed.replace("}{", "}\n{"));
        assert_eq!(
            printed.trim_end(),
            without_ids(&expected.join("\n")),
            "{commands}"
        );
    }
}

/// Flags of `enqueue` that say nothing of a job, or say it as another option does.
const NOT_OF_A_JOB: &[&str] = &["count", "json", "payload_file", "wait"];

#[test]
fn what_can_be_said_on_the_command_line_can_be_said_over_http() {
    let cli = Cli::new();
    let config = "[gateway]\nlisten = \"127.0.0.1:0\"\n[tokens.app]\nsecrets = [\"env:APP_TOKEN\"]\nqueues = [\"*\"]\n";
    std::fs::write(cli.dir.path().join("mill.toml"), config).unwrap();
    let served = Served::start(&cli, "gateway", SECRETS);
    let url = format!("http://{}/openapi.json", served.address);
    let output = Command::new("curl")
        .args(["-s", "--noproxy", "*", &url])
        .output()
        .unwrap();
    let description: Value = serde_json::from_slice(&output.stdout).unwrap();
    let job = &description["components"]["schemas"]["OneJob"]["properties"];
    let described: BTreeSet<&String> = job.as_object().unwrap().keys().collect();

    let help = cli.ok(&["enqueue", "--help"]);
    let own = help.split("Global options").next().unwrap();
    let flags = own.lines().filter_map(|line| {
        let flag = line.trim_start().strip_prefix("--")?;
        let name = flag.split([' ', '=', '[']).next()?.replace('-', "_");
        (!NOT_OF_A_JOB.contains(&name.as_str())).then_some(name)
    });
    let flags: Vec<String> = flags.collect();

    assert!(flags.len() > 10, "{flags:?}");
    for flag in flags {
        assert!(
            described.contains(&flag),
            "{flag} is not in src/gateway/api/options.rs"
        );
    }
}
