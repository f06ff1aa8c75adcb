//! What a worker writes into its log while Redis refuses everything: that something is wrong, and little of it.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::sleep;

use super::errors::{Row, cases, until_completed};
use super::{Scene, job, run_all};

/// How long everything is refused.
const LASTS: Duration = Duration::from_secs(4);
/// Lines of one worker.
const PER_SECOND: usize = 5;

/// `millstream worker` behind the scene's proxy, with its log. Killed when it is dropped.
struct Program {
    process: Child,
    log: tempfile::NamedTempFile,
}

impl Program {
    fn start(scene: &Scene) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["worker", "--redis-url", &scene.proxy.url()]);
        command.args(["--queue", &scene.t.queue, "--command", "true"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(log.path()).unwrap());
        let process = command.spawn().unwrap();
        Self { process, log }
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.log.path()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn a_worker_whom_redis_refuses_everything_says_so_in_few_lines_and_works_on_afterwards() {
    run_all(cases(|row: &'static Row| async {
        let scene = Scene::new().await;
        let program = Program::start(&scene);
        scene.t.enqueue(job()).await;
        until_completed(&scene, 1).await;
        let before = program.lines().len();

        scene.refuse(row, &["*"]);
        scene.t.enqueue(job()).await;
        sleep(LASTS).await;
        let lines = program.lines().split_off(before);
        scene.proxy.heal();

        let most = PER_SECOND * LASTS.as_secs() as usize;
        let first = lines
            .iter()
            .take(10)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        assert!(lines.len() <= most, "{} lines:\n{first}", lines.len());
        if !row.has_a_way_around() {
            assert!(!lines.is_empty(), "not a word");
        }
        until_completed(&scene, 2).await;
        scene.is_sound().await;
    }))
    .await;
}
