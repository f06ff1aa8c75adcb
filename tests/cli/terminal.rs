//! What people see at a terminal: `top`, questions, tables. A terminal is a pane of tmux, whose screen the tests read; they wait for
//! what it shows.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Cli, PATIENCE, Process, bare};

/// A terminal with a command in it.
struct Screen {
    server: String,
}

impl Screen {
    /// Runs `script` in a shell, with `millstream` on its PATH.
    fn start(cli: &Cli, width: u16, script: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let screen = Self {
            server: format!("millstream-{}-{number}", std::process::id()),
        };
        let binary = bare(&[]).get_program().to_owned();
        let bin = std::path::Path::new(&binary).parent().unwrap().to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = screen.tmux();
        command
            .args([
                "-u",
                "-f",
                "/dev/null",
                "new-session",
                "-d",
                "-y",
                "40",
                "-x",
            ])
            .arg(width.to_string())
            .arg("env")
            .arg(format!("PATH={}:{path}", bin.display()))
            .arg(format!("MILLSTREAM_REDIS_URL={}", cli.redis.url()))
            .args(["sh", "-c", script])
            .current_dir(cli.dir.path());
        let began = command.status();
        let began = began.expect("tmux, for a terminal: .ci/ensure tmux installs it");
        assert!(began.success(), "tmux: {began}");
        screen
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.server]).env_remove("TMUX");
        command
    }

    fn text(&self) -> String {
        let shown = self.tmux().args(["capture-pane", "-p"]).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    /// Waits until the screen is as wanted, and returns it.
    fn until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let text = self.text();
            if is_so(&text) {
                return text;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "not on the screen: {what}\n{text}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn shows(&self, words: &[&str]) -> String {
        self.until(&words.join(", "), |text| {
            words.iter().all(|word| text.contains(word))
        })
    }

    fn press(&self, keys: &[&str]) {
        let sent = self.tmux().arg("send-keys").args(keys).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").output();
    }
}

impl Cli {
    fn worker_of(&self, queue: &str, script: &str) -> Process {
        let args = [
            "worker",
            "--queue",
            queue,
            "--command",
            "sh",
            "--",
            "-c",
            script,
        ];
        let mut command = self.command(&args);
        let quiet = std::process::Stdio::null;
        command.stdin(quiet()).stdout(quiet()).stderr(quiet());
        Process(command.spawn().unwrap())
    }
}

#[tokio::test]
async fn top_shows_queues_jobs_workers_and_failures_and_acts_when_asked_twice() {
    let cli = Cli::new();
    let enqueue = ["enqueue", "orders", "--name", "sleeper", "--payload"];
    let running = cli.ok(&[&enqueue[..], &["zzz"]].concat()).trim().to_owned();
    let worker = cli.worker_of(
        "orders",
        "read line; [ \"$line\" = zzz ] && exec sleep 600; echo no such order >&2; exit 65",
    );
    cli.wait_for("orders", "a running job", |stats| stats.running == 1)
        .await;
    let dead = cli
        .ok(&[&enqueue[..], &["hello payload"]].concat())
        .trim()
        .to_owned();
    cli.wait_for("orders", "a dead job", |stats| stats.dead == 1)
        .await;
    cli.ok(&["enqueue", "refunds", "--name", "a"]);

    let screen = Screen::start(
        &cli,
        150,
        "echo before; millstream top --interval 100ms; echo ended $?; stty -a; cat",
    );
    let pid = worker.0.id().to_string();
    let shown = screen.shows(&[
        "queues (2)",
        "orders",
        "refunds",
        &running,
        &dead,
        &pid,
        "held",
        "done/s",
        "q quit",
    ]);
    assert!(shown.contains("running jobs of orders (1)"), "{shown}");

    // Down, and up again: what is below belongs to the selected queue.
    screen.press(&["j"]);
    screen.shows(&["running jobs of refunds (0)"]);
    screen.press(&["k"]);
    screen.shows(&["running jobs of orders (1)"]);

    screen.press(&["p"]);
    screen.shows(&["Pause orders?"]);
    screen.press(&["n"]);
    screen.shows(&["nothing was changed"]);
    assert!(!cli.stats("orders").await.paused);
    screen.press(&["p"]);
    screen.shows(&["Pause orders?"]);
    screen.press(&["y"]);
    screen.shows(&["orders is paused"]);
    assert!(cli.stats("orders").await.paused);

    // Into the job that died.
    screen.press(&["Tab", "Tab", "Enter"]);
    let job = format!("job {dead}");
    screen.shows(&[&job, "hello payload", "no such order", "refused"]);
    screen.press(&["r"]);
    screen.shows(&["Redrive job"]);
    screen.press(&["y"]);
    screen.shows(&["is ready"]);
    assert_eq!(cli.stats("orders").await.dead, 0);

    screen.press(&["q"]);
    let after = screen.shows(&["before", "ended 0", "icanon"]);
    assert!(
        !after.contains("-icanon"),
        "the terminal is as it was: {after}"
    );
}

#[tokio::test]
async fn top_redrives_all_dead_jobs_and_gives_the_terminal_back_however_it_ends() {
    let cli = Cli::new();
    let failing = cli.worker_of("q", "exit 65");
    cli.ok(&["enqueue", "q", "--name", "a", "--count", "150"]);
    cli.wait_for("q", "dead jobs", |stats| stats.dead == 150)
        .await;
    drop(failing);
    let script = "millstream top --interval 100ms; echo ended $?; stty -a; cat";
    let screen = Screen::start(&cli, 100, script);
    screen.shows(&["150"]);
    screen.press(&["r"]);
    screen.shows(&["Redrive 150 dead jobs of q?"]);
    screen.press(&["y"]);
    screen.shows(&["redriven 150 jobs of q"]);
    assert_eq!(cli.stats("q").await.ready, 150);
    screen.press(&["C-c"]);
    let after = screen.shows(&["ended 0", "icanon"]);
    assert!(!after.contains("-icanon"), "{after}");

    let screen = Screen::start(&cli, 100, &format!("echo $$ > pid; {script}"));
    screen.shows(&["queues (1)"]);
    let shell = std::fs::read_to_string(cli.dir.path().join("pid")).unwrap();
    let stopped = Command::new("pkill")
        .args(["-TERM", "-P", shell.trim()])
        .status();
    assert!(stopped.unwrap().success());
    let after = screen.shows(&["ended 0", "icanon"]);
    assert!(!after.contains("-icanon"), "{after}");
}

#[test]
fn top_shows_what_is_held_and_keeps_to_a_narrow_screen() {
    let cli = Cli::new();
    cli.ok(&["groups", "set", "orders", "--concurrency", "1"]);
    let of_group = ["--group", "a.example", "--count", "1234"];
    cli.ok(&[&["enqueue", "orders", "--name", "a"], &of_group[..]].concat());
    for (width, left_out) in [(150, ""), (80, "failed/s")] {
        let screen = Screen::start(&cli, width, "millstream top --interval 100ms");
        let shown = screen.shows(&["queues (1)", "held", "1,233", "orders", "oldest"]);
        let row = shown.lines().find(|line| line.contains("1,233")).unwrap();
        // One of the group may run: the ready one. All others wait for it.
        let words: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(words[..7], ["orders", "open", "1", "0", "0", "1,233", "0"]);
        assert_eq!(shown.contains("failed/s"), left_out.is_empty(), "{shown}");
    }
}

#[test]
fn top_stays_on_the_screen_while_redis_is_away() {
    let cli = Cli::new();
    cli.ok(&["enqueue", "q", "--name", "a"]);
    let screen = Screen::start(&cli, 150, "millstream top --interval 100ms");
    screen.shows(&["queues (1)"]);
    cli.redis.kill().unwrap();
    screen.shows(&["queues (1)", "cannot look"]);
    cli.redis.restart().unwrap();
    screen.until("it looks again", |text| !text.contains("cannot look"));
}

#[tokio::test]
async fn whoever_removes_jobs_at_a_terminal_is_asked_and_no_answer_but_yes_will_do() {
    let cli = Cli::new();
    let failing = cli.worker_of("q", "exit 65");
    cli.ok(&["enqueue", "q", "--name", "a", "--count", "3"]);
    cli.wait_for("q", "dead jobs", |stats| stats.dead == 3)
        .await;
    drop(failing);
    let id = cli.ok(&["enqueue", "q", "--name", "a", "--delay", "1h"]);
    let commands = [
        (
            "millstream dead redrive q --all --rate 1/s",
            "Redrive 3 dead jobs of q?, in 3s or more",
        ),
        (
            "millstream dead purge q --all",
            "Remove 3 dead jobs of q for good?",
        ),
        (
            "millstream prune q --dead-older-than 1ms",
            "3 dead jobs of q for good?",
        ),
        (
            &format!("millstream jobs cancel q {}", id.trim()),
            "Cancel 1 job of q?",
        ),
        ("millstream doctor q --repair", "Repair q?"),
    ];
    for (command, question) in commands {
        let screen = Screen::start(&cli, 100, &format!("{command}; echo ended $?; cat"));
        screen.shows(&[question, "[y/N]"]);
        screen.press(&["maybe", "Enter"]);
        screen.shows(&["not confirmed: nothing was changed", "ended 1"]);
        let stats = cli.stats("q").await;
        assert_eq!(
            (stats.dead, stats.scheduled, stats.ready),
            (3, 1, 0),
            "{command}"
        );
    }
    let screen = Screen::start(
        &cli,
        100,
        "millstream dead purge q --all; echo ended $?; cat",
    );
    screen.shows(&["[y/N]"]);
    screen.press(&["y", "Enter"]);
    screen.shows(&["purged 3 jobs", "ended 0"]);
}

#[test]
fn tables_fit_the_terminal() {
    let cli = Cli::new();
    let group = ["--group", "a-rather-long-name-of-a-shop.example"];
    cli.ok(&[
        &["enqueue", "q", "--name", "orders/create", "--delay", "1h"],
        &group[..],
    ]
    .concat());
    for command in ["jobs list q", "stats", "stats q", "workers"] {
        let screen = Screen::start(
            &cli,
            70,
            &format!("millstream {command}; echo ended $?; cat"),
        );
        let shown = screen.shows(&["ended 0"]);
        let wrapped = shown.lines().any(|line| line.chars().count() > 70);
        assert!(!wrapped, "{command}: {shown}");
        // A rule that does not fit would go on in the next line.
        let rules = shown.lines().filter(|line| line.starts_with('─')).count();
        assert!(rules == 3 || command == "workers", "{command}: {shown}");
    }
}
