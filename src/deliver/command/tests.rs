//! Real programs: `sh` with a script as its argument, so that nothing executable has to be written.
//! A fifo carries the events: a line says that the script is ready, its end that every process holding it is gone.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::deliver::testing::{attempt, context};
use crate::worker::handler::{Attempt, JobErrorKind};

const LONG: Duration = Duration::from_secs(60);

fn sh(script: &str, args: &[&Path]) -> CommandSettings {
    let fixed = ["-c", script, "sh"].map(OsString::from);
    CommandSettings::new(
        "sh",
        fixed.into_iter().chain(args.iter().map(OsString::from)),
    )
}

async fn run(script: &str) -> Result<(), JobError> {
    let handler = CommandHandler::new(sh(script, &[])).unwrap();
    handler.run(context(attempt("payload"))).await
}

struct Fifo {
    directory: tempfile::TempDir,
}

impl Fifo {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(directory.path().join("fifo"))
            .status();
        assert!(made.unwrap().success());
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("fifo")
    }

    /// Waits for the script to open the fifo and to write its first line.
    async fn ready(&self) -> BufReader<File> {
        let path = self.path();
        aside("the script is not ready", move || {
            let mut reader = BufReader::new(File::open(path).unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            reader
        })
        .await
    }
}

/// Waits until no process holds the fifo any more.
async fn all_gone(mut reader: BufReader<File>) {
    aside("a process is left", move || {
        reader.read_to_end(&mut Vec::new()).unwrap();
    })
    .await;
}

/// Waits for `work` in a thread that a failing test leaves behind, where a runtime's own would hold the test up.
async fn aside<T: Send + 'static>(
    problem: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, waiting) = oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    timeout(LONG, waiting).await.expect(problem).unwrap()
}

/// Starts `script`, which gets the fifo as `$1`, and waits until it is ready.
async fn start(
    script: &str,
    grace: Duration,
    job: Attempt,
) -> (
    JoinHandle<Result<(), JobError>>,
    CommandHandler,
    BufReader<File>,
) {
    let fifo = Fifo::new();
    let handler = CommandHandler::new(sh(script, &[&fifo.path()]).kill_grace(grace)).unwrap();
    let running = tokio::spawn(handler.run(context(job)));
    let reader = fifo.ready().await;
    (running, handler, reader)
}

#[tokio::test]
async fn the_payload_arrives_on_stdin_byte_for_byte() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy");
    // More than a pipe holds, and every byte there is.
    let payload: Vec<u8> = (0..=255).cycle().take(300_001).collect();
    let handler = CommandHandler::new(sh(r#"cat > "$1""#, &[&copy])).unwrap();

    handler
        .run(context(attempt(payload.clone())))
        .await
        .unwrap();

    assert_eq!(std::fs::read(copy).unwrap(), payload);
}

#[tokio::test]
async fn a_program_that_does_not_read_its_stdin_neither_hangs_nor_fails() {
    let handler = CommandHandler::new(sh("exit 0", &[])).unwrap();
    let run = handler.run(context(attempt(vec![b'x'; 1 << 20])));
    timeout(LONG, run).await.expect("hangs").unwrap();
}

#[tokio::test]
async fn the_exit_code_decides() {
    run("exit 0").await.unwrap();
    for (script, kind, message) in [
        (
            "echo why >&2; exit 65",
            JobErrorKind::Refused,
            "sh failed (exit status: 65): why",
        ),
        (
            "echo why >&2; exit 3",
            JobErrorKind::Failed { after: None },
            "sh failed (exit status: 3): why",
        ),
        (
            "echo no; exit 1",
            JobErrorKind::Failed { after: None },
            "sh failed (exit status: 1)",
        ),
    ] {
        let error = run(script).await.unwrap_err();
        assert_eq!((error.kind, error.message()), (kind, message), "{script}");
    }
}

#[tokio::test]
async fn a_signal_is_named() {
    let error = run("kill -TERM $$").await.unwrap_err();
    assert_eq!(error.kind, JobErrorKind::Failed { after: None });
    assert!(error.message().contains("SIGTERM"), "{error:?}");
}

#[tokio::test]
async fn the_end_of_a_long_stderr_is_kept() {
    let error = run("i=0; while [ $i -lt 3000 ]; do echo line-$i >&2; i=$((i+1)); done; exit 1")
        .await
        .unwrap_err();
    let message = error.message();
    assert!(
        message.starts_with("sh failed (exit status: 1): "),
        "{message}"
    );
    assert!(message.ends_with("line-2998\nline-2999"), "{message}");
    assert!(!message.contains("line-100\n"), "{message}");
    assert_eq!(message.len(), ERROR_BYTES_MAX);
}

#[tokio::test]
async fn stderr_is_harmless_on_a_terminal() {
    let error = run(r"printf 'a\n\tb \033[2J \377' >&2; exit 1")
        .await
        .unwrap_err();
    assert_eq!(
        error.message(),
        "sh failed (exit status: 1): a\n\tb \\u{1b}[2J \u{fffd}"
    );
}

#[tokio::test]
async fn a_process_left_behind_does_not_hold_up_the_answer() {
    let fifo = Fifo::new();
    let handler = CommandHandler::new(sh(
        r#"(read line < "$1") & echo bad >&2; exit 1"#,
        &[&fifo.path()],
    ))
    .unwrap();

    let run = handler.run(context(attempt("")));
    let error = timeout(LONG, run).await.expect("hangs").unwrap_err();

    assert!(error.message().ends_with(": bad"), "{error:?}");
    // It is still there, and ends now that somebody opens the other side.
    aside("it is gone", move || File::create(fifo.path()).unwrap()).await;
}

#[tokio::test]
async fn a_cancelled_program_gets_sigterm_and_counts_as_failed_whatever_it_answers() {
    let job = attempt("");
    let cancel = job.cancel.clone();
    let script =
        r#"trap 'echo bye >&2; exit 0' TERM; echo ready > "$1"; while :; do sleep 0.05; done"#;
    let (running, _, _reader) = start(script, LONG, job).await;

    cancel.cancel();

    let error = running.await.unwrap().unwrap_err();
    assert_eq!(error.kind, JobErrorKind::Failed { after: None });
    let message = error.message();
    assert!(
        message.starts_with("sh was stopped, the attempt was given up (exit status: 0): "),
        "{message}"
    );
    // Some shells say before it that their `sleep` was terminated.
    assert!(message.ends_with("bye"), "{message}");
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_after_the_grace() {
    let job = attempt("");
    let cancel = job.cancel.clone();
    let script = r#"trap '' TERM; exec 3> "$1"; echo ready >&3; while :; do sleep 1; done"#;
    let (running, _, reader) = start(script, Duration::from_millis(50), job).await;

    cancel.cancel();

    let error = running.await.unwrap().unwrap_err();
    assert!(error.message().contains("SIGKILL"), "{error:?}");
    all_gone(reader).await;
}

#[tokio::test]
async fn a_grandchild_that_ignores_sigterm_dies_though_its_parent_left_early() {
    let job = attempt("");
    let cancel = job.cancel.clone();
    let script = r#"
        exec 3> "$1"
        sh -c 'trap "" TERM; echo ready >&3; while :; do sleep 1; done' &
        wait"#;
    let (running, _, reader) = start(script, Duration::from_millis(100), job).await;

    cancel.cancel();

    assert!(running.await.unwrap().is_err());
    all_gone(reader).await;
}

#[tokio::test]
async fn a_program_is_stopped_when_its_time_is_up() {
    let job = Attempt {
        deadline: std::time::Instant::now() + Duration::from_millis(50),
        ..attempt("")
    };
    let handler = CommandHandler::new(sh("exec sleep 1000", &[])).unwrap();
    let error = handler.run(context(job)).await.unwrap_err();
    assert_eq!(
        error.message(),
        "sh was stopped, its time was up (signal: 15 (SIGTERM))"
    );
}

#[tokio::test]
async fn a_dropped_attempt_takes_its_processes_along() {
    let script = r#"exec 3> "$1"; trap '' TERM; echo ready >&3; sleep 1000 & wait; sleep 1000"#;
    let (running, handler, reader) = start(script, Duration::from_millis(50), attempt("")).await;

    running.abort();

    timeout(LONG, handler.finished())
        .await
        .expect("never finished");
    all_gone(reader).await;
}

#[test]
fn the_end_of_the_runtime_takes_the_processes_along() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let script = r#"exec 3> "$1"; trap '' TERM; echo ready >&3; while :; do sleep 1; done"#;
    let (_running, _, reader) = first.block_on(start(script, LONG, attempt("")));

    drop(first);

    runtime().block_on(all_gone(reader));
}

#[tokio::test]
async fn an_attempt_that_is_given_up_already_starts_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mark = directory.path().join("mark");
    let job = attempt("");
    job.cancel.cancel();
    let handler = CommandHandler::new(sh(r#": > "$1""#, &[&mark])).unwrap();
    assert!(handler.run(context(job)).await.is_err());
    assert!(!mark.exists());
}

#[test]
fn the_program_is_told_about_its_job_and_not_about_our_settings() {
    // The test runs itself with the variables set: they are read from our own environment.
    if std::env::var_os("MILLSTREAM_REDIS_URL").is_none() {
        let name =
            "deliver::command::tests::the_program_is_told_about_its_job_and_not_about_our_settings";
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env("MILLSTREAM_REDIS_URL", "redis://:hunter2@localhost")
            .env("MILLSTREAM_TOKEN", "hunter2")
            .env("OF_THE_USER", "kept")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(
            again.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let seen = directory.path().join("seen");
    let handler = CommandHandler::new(sh(r#"env > "$1""#, &[&seen])).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(handler.run(context(attempt("")))).unwrap();

    let seen = std::fs::read_to_string(seen).unwrap();
    let mut ours: Vec<&str> = seen
        .lines()
        .filter(|line| line.starts_with("MILLSTREAM_"))
        .collect();
    ours.sort_unstable();
    assert_eq!(
        ours,
        [
            "MILLSTREAM_JOB_ATTEMPT=3",
            "MILLSTREAM_JOB_ID=1700000000000-7",
            "MILLSTREAM_JOB_NAME=shop/orders/create",
            "MILLSTREAM_JOB_QUEUE=webhooks",
        ]
    );
    assert!(seen.contains("OF_THE_USER=kept\n"), "{seen}");
    assert!(!seen.contains("hunter2"), "{seen}");
}

#[test]
fn a_program_that_cannot_run_is_refused_by_name_before_any_job() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "text").unwrap();
    for (program, reason) in [
        ("no-such-program-anywhere", "PATH"),
        ("./no/such/program", "No such file"),
        (plain.to_str().unwrap(), "not executable"),
        (directory.path().to_str().unwrap(), "directory"),
        ("", "give a program"),
    ] {
        let refused = CommandHandler::new(CommandSettings::new(program, [""; 0]));
        match refused {
            Err(Error::Setting {
                name,
                value,
                reason: given,
            }) => {
                assert_eq!((name.as_str(), value.as_str()), ("command", program));
                assert!(given.contains(reason), "{program:?}: {given}");
            }
            other => panic!("{program:?}: {other:?}"),
        }
    }
}

#[test]
fn a_grace_out_of_range_is_refused() {
    let settings = sh("", &[]).kill_grace(KILL_GRACE_MAX + Duration::from_secs(1));
    assert!(
        matches!(CommandHandler::new(settings), Err(Error::Setting { name, .. }) if name == "kill_grace")
    );
}
