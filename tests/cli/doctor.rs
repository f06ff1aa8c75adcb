//! `millstream doctor` as people and scripts see it.

use ::fred::interfaces::{ClientLike as _, HashesInterface as _, KeysInterface as _};
use ::fred::types::{ClusterHash, CustomCommand};

use crate::bulk::fred;
use crate::support::Cli;

#[tokio::test]
async fn damage_is_named_with_what_to_do_and_mended_on_request() {
    let cli = Cli::new();
    cli.ok(&["enqueue", "q", "--name", "a"]);
    let id = cli.ok(&["enqueue", "q", "--name", "a", "--delay", "1h"]);
    let healthy = cli.ok(&["doctor"]);
    assert!(
        healthy.contains("1 queue") && healthy.contains("healthy"),
        "{healthy}"
    );
    assert_eq!(cli.json(&["doctor", "q", "--json"])["clean"], true);

    let redis = fred(&cli).await;
    let _: () = redis
        .hdel("millstream:{q}:payloads", id.trim())
        .await
        .unwrap();
    let _: () = redis
        .set("millstream:{q}:unique:k", "nobody", None, None, false)
        .await
        .unwrap();
    let output = cli.run(&["doctor", "q"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    for told in [
        "fault",
        "missing-payload",
        "means:",
        "doctor --repair",
        id.trim(),
        "unique-forever",
    ] {
        assert!(said.contains(told), "{told} is not in {said}");
    }
    let output = cli.run(&["doctor", "q", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["clean"], false);
    let findings = told["findings"].as_array().unwrap();
    let finding = findings
        .iter()
        .find(|one| one["code"] == "missing-payload")
        .unwrap();
    assert_eq!(
        (&finding["count"], &finding["repaired"]),
        (&1.into(), &0.into())
    );

    let mended = cli.ok(&["doctor", "q", "--repair"]);
    assert!(
        mended.contains("mended: 1 of 1") && mended.contains("healthy now"),
        "{mended}"
    );
    cli.ok(&["doctor"]);
    let dead = cli.json(&["dead", "list", "q", "--json"]);
    assert_eq!(
        (&dead[0]["id"], &dead[0]["reason"]),
        (&id.trim().into(), &"orphaned".into())
    );
    let told = cli.ok(&["events", "q", "--json"]);
    assert!(told.contains("\"mended\""), "{told}");
}

#[tokio::test]
async fn a_server_that_is_not_fit_for_jobs_is_told_of_and_not_refused() {
    let cli = Cli::new();
    let redis = fred(&cli).await;
    let command = CustomCommand::new_static("CONFIG", ClusterHash::Random, false);
    let args = vec!["SET", "maxmemory-policy", "allkeys-lru"];
    let _: () = redis.custom(command, args).await.unwrap();

    let output = cli.run(&["doctor"]);

    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("eviction-policy") && said.contains("noeviction"),
        "{said}"
    );
}
