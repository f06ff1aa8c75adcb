//! The demo, run as people run it.

use std::process::Stdio;

use serde_json::Value;

use crate::support::bare;

#[test]
fn the_demo_loses_nothing_though_it_kills_a_worker_and_says_so_in_json() {
    let output = bare(&["demo", "--jobs", "200", "--json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();

    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    // One object at the end; nothing else on stdout.
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |field: &str| {
        report[field]
            .as_u64()
            .unwrap_or_else(|| panic!("{field} is missing: {report}"))
    };
    assert_eq!(
        (
            count("accepted"),
            count("lost"),
            count("doubled"),
            count("workers_killed")
        ),
        (200, 0, 0, 1)
    );
    assert_eq!(count("completed") + count("dead"), 200);
    assert_eq!(count("sent"), 200 + count("duplicates") + count("refused"));
    assert!(
        count("dead") > 0
            && count("duplicates") > 0
            && count("refused") > 0
            && count("retried") > 0,
        "{report}"
    );
    let latency = &report["enqueue_to_start_ms"];
    assert!(
        latency["p50"].is_number() && latency["p99"].is_number(),
        "{report}"
    );
}

#[test]
fn the_demo_explains_itself_to_people() {
    let output = bare(&["demo", "--jobs", "100"])
        .stdin(Stdio::null())
        .output()
        .unwrap();

    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{table}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for word in [
        "sent",
        "accepted",
        "refused",
        "duplicates",
        "completed",
        "retried",
        "dead",
        "lost",
        "doubled",
        "p99",
        "millstream dev",
    ] {
        assert!(table.contains(word), "{word} is missing: {table}");
    }
}
