//! Limits, with worker processes that are killed all the time: as the handlers see it, no more ran at once than may, on no lane.

use std::collections::{BTreeMap, HashSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Cli, PATIENCE, Process};

/// Seventeen of each group and priority.
const JOBS: u64 = 153;
const PRIORITIES: [&str; 3] = ["low", "normal", "high"];
const OF_A_GROUP: usize = 2;
const OF_THE_QUEUE: usize = 5;
const KILLS: usize = 8;

/// Tells when a job begins and ends, and of which worker process it is.
const HANDLER: &str = r#"
line() { echo "$1 $PPID $MILLSTREAM_JOB_ID $MILLSTREAM_JOB_GROUP" >> "$LOG"; }
line begin; sleep 0.02; line end
"#;

#[tokio::test]
async fn workers_that_are_killed_all_the_time_keep_to_every_limit_and_lose_no_place() {
    let cli = Cli::new();
    let log = cli.dir.path().join("handlers.log");
    std::fs::write(&log, "").unwrap();
    let read = || std::fs::read_to_string(&log).unwrap();
    let (of_a_group, of_the_queue) = (OF_A_GROUP.to_string(), OF_THE_QUEUE.to_string());
    cli.ok(&["groups", "set", "q", "--concurrency", &of_a_group]);
    cli.ok(&["queue", "set", "q", "--concurrency", &of_the_queue]);
    let enqueue = |count: u64, priority: &str, more: &[&str]| {
        let count = count.to_string();
        let job = ["enqueue", "q", "--name", "n", "--payload", "x"];
        let how = ["--count", &count, "--priority", priority];
        cli.ok(&[&job[..], &how, more].concat());
    };
    for group in ["a", "b", "c"] {
        for priority in PRIORITIES {
            enqueue(JOBS / 9, priority, &["--group", group]);
        }
    }
    let worker = || {
        let args = [
            "worker",
            "--queue",
            "q",
            "--concurrency",
            "4",
            "--lease",
            "1s",
        ];
        let handler = ["--command", "sh", "--", "-c", HANDLER];
        let mut command = cli.command(&[&args[..], &handler].concat());
        command.env("LOG", &log).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Process(command.spawn().unwrap())
    };
    let mut workers: Vec<Process> = (0..3).map(|_| worker()).collect();

    for kill in 0..KILLS {
        let (began, seen) = (Instant::now(), read().lines().count());
        while read().lines().count() < seen + 12 {
            assert!(
                began.elapsed() < PATIENCE,
                "nothing goes on after {kill} kills"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut victim = workers.remove(0);
        let pid = victim.0.id();
        victim.signal("KILL");
        victim.wait(PATIENCE);
        append(&log, &format!("kill {pid}\n"));
        workers.push(worker());
    }
    let is_over =
        |stats: &millstream::inspect::Stats| stats.completed_total + stats.dead_total == JOBS;
    let stats = cli.wait_for("q", "the end", is_over).await;

    let begun = assert_limits(&read());
    assert!(
        begun > JOBS as usize,
        "no kill has hit a job: {begun} begun"
    );
    let left = [stats.ready, stats.running, stats.held];
    assert_eq!(left, [0; 3]);
    let groups = cli.json(&["groups", "list", "q", "--json"]);
    assert_eq!(groups["total"], 0, "every slot is free: {groups}");
    // And so is every place of the queue, whatever the lane of those who want it.
    for priority in PRIORITIES {
        enqueue(5, priority, &[]);
    }
    let stats = cli
        .wait_for("q", "the end", |stats| {
            stats.completed_total + stats.dead_total == JOBS + 15
        })
        .await;
    assert_eq!([stats.ready, stats.running], [0; 2]);
    let told = cli.run(&["doctor", "q", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let findings = told["findings"].as_array().unwrap().iter();
    // Of the server there may be some.
    let of_queue = findings.filter(|one| one["queue"] == "q" && one["level"] != "note");
    assert_eq!(
        of_queue.collect::<Vec<_>>(),
        [""; 0],
        "the doctor finds something"
    );
}

fn append(log: &std::path::Path, line: &str) {
    use std::io::Write as _;
    let file = std::fs::OpenOptions::new().append(true).open(log);
    file.unwrap().write_all(line.as_bytes()).unwrap();
}

/// Goes through what the handlers told; returns how many attempts were begun. What a worker ran when it was killed ended with it.
fn assert_limits(log: &str) -> usize {
    let mut running: BTreeMap<(String, String), String> = BTreeMap::new();
    let (mut killed, mut begun) = (HashSet::new(), 0);
    let (mut most, mut most_of_a_group) = (0, 0);
    for line in log.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["kill", pid] => {
                killed.insert(pid.to_owned());
                running.retain(|(of, _), _| of != pid);
            }
            ["begin", pid, job, group] if !killed.contains(pid) => {
                begun += 1;
                running.insert((pid.to_owned(), job.to_owned()), group.to_owned());
                let of_group = running.values().filter(|of| *of == group).count();
                assert!(of_group <= OF_A_GROUP, "{line}: {running:?}");
                assert!(running.len() <= OF_THE_QUEUE, "{line}: {running:?}");
                most = most.max(running.len());
                most_of_a_group = most_of_a_group.max(of_group);
            }
            ["end", pid, job, _] => {
                running.remove(&(pid.to_owned(), job.to_owned()));
            }
            _ => {}
        }
    }
    assert_eq!(
        (most, most_of_a_group),
        (OF_THE_QUEUE, OF_A_GROUP),
        "the limits were never met"
    );
    begun
}
