//! The README's section on redis-cli, and the lines that `millstream keys` prints, on a queue that has something of everything.

use std::time::Duration;

use fred::prelude::{Builder, Client, ClientLike, Config, Value};
use fred::types::{ClusterHash, CustomCommand};
use millstream::broker::{Broker, Caller, DeathReason, Patience};
use millstream::private_redis::{Options, PrivateRedis};
use millstream::schedule::Schedule;
use millstream::{Millstream, NewJob};

const PATIENCE: Patience = Patience::brief(Duration::from_secs(5));

/// A queue called `webhooks`, as in the README, with a job in every state.
async fn queue_with_something_of_everything(redis: &PrivateRedis) {
    let client = Millstream::connect(&redis.url()).await.unwrap();
    let queue = client.queue("webhooks").unwrap();
    let broker = Broker::connect(&redis.url(), "millstream", "webhooks")
        .await
        .unwrap();
    broker.create_groups(PATIENCE).await.unwrap();
    for _ in 0..3 {
        queue
            .enqueue(NewJob::raw("shop/orders/create", "{}"))
            .await
            .unwrap();
    }
    queue
        .enqueue(NewJob::raw("late", "{}").delay(Duration::from_secs(3600)))
        .await
        .unwrap();
    queue
        .enqueue(NewJob::raw("once", "{}").unique("delivery-1"))
        .await
        .unwrap();
    let hourly = Schedule::cron("@hourly", NewJob::raw("tick", "{}"));
    let schedules = client.schedules("webhooks").unwrap();
    schedules.set("hourly", hourly).await.unwrap();
    let claimed = broker.claim("a-worker", 2, PATIENCE).await.unwrap();
    let mut caller = Caller::new("a-worker/0");
    broker
        .dead_letter(
            &mut caller,
            &claimed[0],
            DeathReason::Refused,
            "no",
            PATIENCE,
        )
        .await
        .unwrap();
}

/// Splits a line as a shell does, as far as the README needs it: words and single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    assert!(!quoted, "{line}: a quote is not closed");
    words
}

/// What redis-cli would send.
async fn send(client: &Client, line: &str) -> Value {
    let mut words = words(line);
    if let [scan, pattern, key] = words.as_slice()
        && scan == "--scan"
        && pattern == "--pattern"
    {
        words = ["SCAN", "0", "MATCH", key, "COUNT", "10000"]
            .map(str::to_owned)
            .into();
    }
    let command = CustomCommand::new(words[0].clone(), ClusterHash::Random, false);
    let reply: Result<Value, _> = client.custom(command, words[1..].to_vec()).await;
    reply.unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn is_empty(reply: &Value) -> bool {
    match reply {
        Value::Null => true,
        Value::Array(items) => items.is_empty() || items.iter().all(is_empty),
        _ => false,
    }
}

async fn connected(redis: &PrivateRedis) -> Client {
    let config = Config::from_url(&redis.url().replace("unix://", "redis+unix://")).unwrap();
    let client = Builder::from_config(config).build().unwrap();
    client.init().await.unwrap();
    client
}

#[tokio::test]
async fn every_redis_cli_line_of_the_readme_shows_something() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    queue_with_something_of_everything(&redis).await;
    let client = connected(&redis).await;
    let readme = include_str!("../../README.md");
    let section = readme
        .split("## Looking inside with redis-cli")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let lines: Vec<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("$ redis-cli "))
        .collect();
    assert!(
        lines.len() >= 5,
        "the section has lost its commands: {lines:?}"
    );

    for line in lines {
        assert!(
            !is_empty(&send(&client, line).await),
            "{line} shows nothing"
        );
    }
}

#[tokio::test]
async fn every_key_in_redis_is_explained_and_its_line_shows_something() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    queue_with_something_of_everything(&redis).await;
    let client = connected(&redis).await;
    let inspector = Millstream::connect(&redis.url())
        .await
        .unwrap()
        .inspect("webhooks")
        .unwrap();
    let explained = inspector.keys().await.unwrap();

    for view in explained.iter().filter(|view| view.size > 0) {
        assert!(
            !is_empty(&send(&client, &view.look).await),
            "{} shows nothing",
            view.look
        );
    }
    let found = send(&client, "--scan --pattern 'millstream:{webhooks}:*'")
        .await
        .into_array()
        .remove(1)
        .into_array();
    for key in found.iter().map(|key| key.as_string().unwrap()) {
        let known = key.contains(":unique:") || explained.iter().any(|view| view.key == key);
        assert!(known, "{key} is in Redis and `keys` does not explain it");
    }
}

#[test]
fn every_test_that_the_page_on_reliability_names_exists() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let named: Vec<&str> = page
        .split('`')
        .filter(|code| code.contains("::") && code.len() > 40 && !code.contains(' '))
        .collect();
    assert!(named.len() > 50, "the page names its tests: {named:?}");
    for name in named {
        let (path, test) = name.rsplit_once("::").unwrap();
        let path = match path.split_once("::") {
            Some(("cli" | "gateway" | "soak" | "protocol" | "mutants", _)) => path.to_owned(),
            _ if ["cli", "gateway", "soak", "protocol", "mutants"].contains(&path) => {
                format!("{path}::main")
            }
            _ => format!("it::{path}"),
        };
        let file = root.join("tests").join(path.replace("::", "/"));
        let texts = [file.with_extension("rs"), file.join("mod.rs")].map(std::fs::read_to_string);
        let is_there = texts
            .iter()
            .flatten()
            .any(|text| text.contains(&format!("fn {test}()")));
        assert!(is_there, "there is no test {name}");
    }
}

#[test]
fn everything_that_the_doctor_finds_has_a_section_in_the_page_on_operating() {
    let page = include_str!("../../docs/operating.md");
    let codes = millstream::inspect::Doctor::codes();
    assert!(codes.len() > 30, "{codes:?}");
    for code in &codes {
        let heading = format!("\n### `{code}`\n");
        assert!(page.contains(&heading), "{code} has no section");
    }
    let sections = page.matches("\n### `").count();
    assert_eq!(sections, codes.len(), "a section is about nothing any more");
}
