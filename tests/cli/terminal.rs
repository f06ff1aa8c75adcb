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

    /// What is shown, with the lines that the terminal has wrapped in one piece.
    fn unwrapped(&self) -> String {
        let args = ["capture-pane", "-p", "-J", "-S", "-500"];
        let shown = self.tmux().args(args).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    /// Waits until the screen is as wanted, and returns it.
    fn until(&self, what: &str, mut is_so: impl FnMut(&str) -> bool) -> String {
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
    let grouped = ["--group", "shop", "--delay", "1h"];
    let id = cli.ok(&[&["enqueue", "q", "--name", "a"], &grouped[..]].concat());
    let every = ["--name", "a", "--every", "10m"];
    cli.ok(&[&["cron", "set", "nightly", "--queue", "q"], &every[..]].concat());
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
        (
            "millstream groups purge q shop --rate 1/m",
            "Remove 1 job of group shop from q, in 1m or more?",
        ),
        (
            "millstream cron remove nightly",
            "Remove schedule nightly of q?",
        ),
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
    assert_eq!(cli.json(&["cron", "list", "--json"])[0]["id"], "nightly");
    let screen = Screen::start(
        &cli,
        100,
        "millstream dead purge q --all; echo ended $?; cat",
    );
    screen.shows(&["[y/N]"]);
    screen.press(&["y", "Enter"]);
    screen.shows(&["purged 3 jobs", "ended 0"]);
}

#[tokio::test]
async fn tables_fit_the_terminal_and_every_row_has_one_line() {
    let cli = Cli::new();
    let failing = cli.worker_of(
        "q",
        "echo no such order, and a long story about why >&2; exit 65",
    );
    let group = ["--group", "a-rather-long-name-of-a-shop.example"];
    let enqueue = ["enqueue", "q", "--name", "orders/create"];
    cli.ok(&enqueue);
    cli.wait_for("q", "a dead job", |stats| stats.dead == 1)
        .await;
    drop(failing);
    cli.ok(&[
        &enqueue[..],
        &["--delay", "1h", "--priority", "high"],
        &group,
    ]
    .concat());
    cli.ok(&[
        "groups",
        "set",
        "q",
        group[1],
        "--concurrency",
        "5",
        "--rate",
        "600/m",
    ]);
    let every = ["--every", "10m", "--payload", "x"];
    cli.ok(&[
        &[
            "cron",
            "set",
            "token-health-of-every-shop",
            "--queue",
            "q",
            "--name",
            "token-health",
        ],
        &every[..],
    ]
    .concat());
    for command in [
        "jobs list q",
        "dead list q",
        "stats",
        "stats q",
        "workers",
        "cron list",
        "groups list q",
        "queue show q",
        "keys q",
        "events q",
    ] {
        for width in [70, 40] {
            let screen = Screen::start(
                &cli,
                width,
                &format!("millstream {command}; echo ended $?; cat"),
            );
            screen.shows(&["ended 0"]);
            // What the terminal has wrapped is one line again, and longer than the terminal is wide.
            let shown = screen.unwrapped();
            let rules: Vec<_> = shown.lines().filter(|line| line.starts_with('─')).collect();
            assert_eq!(rules.len(), 3, "{command} at {width}: {shown}");
            for rule in rules {
                let long = rule.chars().count();
                assert!(
                    long <= width.into(),
                    "{command} at {width}: {long}\n{shown}"
                );
            }
        }
    }
}

/// `12/400` and `1m` on the line of a progress bar: done, all, seconds to go.
fn progress_in(screen: &str) -> Option<(u64, u64, f64)> {
    let line = screen.lines().find(|line| line.starts_with("redriving "))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let (done, all) = words
        .iter()
        .find_map(|word| word.split_once('/').filter(|_| !word.ends_with("/s")))?;
    let eta = words.last()?;
    let (number, unit) = eta.split_at(eta.find(|c: char| !c.is_ascii_digit())?);
    let seconds = match unit {
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let number_of = |text: &str| text.replace(',', "").parse().ok();
    Some((
        number_of(done)?,
        number_of(all)?,
        number.parse::<f64>().ok()? * seconds,
    ))
}

#[tokio::test]
async fn progress_says_how_long_it_will_take_and_means_it() {
    let cli = Cli::new();
    let failing = cli.worker_of("q", "exit 65");
    cli.ok(&["enqueue", "q", "--name", "a", "--count", "400"]);
    cli.wait_for("q", "dead jobs", |stats| stats.dead == 400)
        .await;
    drop(failing);
    // The shell outlives the signal.
    let script =
        "trap : INT; millstream dead redrive q --all --yes --rate 20/s; echo ended $?; cat";
    let screen = Screen::start(&cli, 100, script);
    // Once it has seen some of its own pace, nothing that it says is less than the rate allows; a busy machine is slower.
    let mut seen = 0;
    screen.until("twenty times that", |text| {
        if let Some((done, all, eta)) = progress_in(text)
            && (60..360).contains(&done)
        {
            let least = (all - done) as f64 / 20.0;
            assert!(
                eta >= 0.8 * least - 1.0,
                "{eta} s for {} jobs:\n{text}",
                all - done
            );
            assert!(
                eta <= 20.0 * least + 5.0,
                "{eta} s for {} jobs:\n{text}",
                all - done
            );
            seen += 1;
        }
        seen >= 20
    });
    screen.press(&["C-c"]);
    screen.shows(&[
        "stopped: ",
        "jobs redriven so far; the same command again does the rest",
        "ended 1",
    ]);
    let stats = cli.stats("q").await;
    assert!(
        stats.dead > 0 && stats.dead + stats.ready == 400,
        "{stats:?}"
    );
}

#[test]
fn top_on_a_terminal_that_is_no_screen_writes_line_after_line() {
    let cli = Cli::new();
    cli.ok(&["enqueue", "q", "--name", "a"]);
    let script = "TERM=dumb millstream top --interval 100ms 2>&1 | head -1; TERM=dumb millstream top --interval 100ms";
    let screen = Screen::start(&cli, 100, script);
    // More than one table below another: nothing was cleared away.
    let shown = screen.until("two tables", |text| text.matches("done/s").count() >= 2);
    assert!(!shown.contains("q quit"), "{shown}");
}

#[test]
fn colours_are_for_terminals_unless_somebody_says_otherwise() {
    let cli = Cli::new();
    let colours = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = cli.command(args);
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        let output = command.envs(env.iter().copied()).output().unwrap();
        let both = [output.stdout, output.stderr].concat();
        String::from_utf8(both).unwrap().contains('\u{1b}')
    };
    cli.ok(&["enqueue", "q", "--name", "a"]);
    for args in [
        &["stats", "q"][..],
        &["jobs", "show", "q", "1-0"],
        &["--help"],
        &["frobnicate"],
    ] {
        let force = ("CLICOLOR_FORCE", "1");
        assert!(!colours(args, &[]), "{args:?}");
        assert!(colours(args, &[force]), "{args:?}");
        assert!(!colours(args, &[force, ("NO_COLOR", "1")]), "{args:?}");
    }
    // A terminal has them, one with NO_COLOR has not; `cat -v` shows what does not show.
    for (env, wanted) in [("", true), ("NO_COLOR=1 ", false)] {
        let script =
            format!("{env}script -qec 'millstream stats q' /dev/null | cat -v; echo ended; cat");
        let shown = Screen::start(&cli, 100, &script).shows(&["ended", "oldest ready job"]);
        assert_eq!(shown.contains("^[["), wanted, "{shown}");
    }
}
