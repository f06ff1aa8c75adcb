//! Seeds the mutants in a copy of the tree, one at a time, builds it, and runs the tests that should notice.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::list::{Catcher, Mutant, root};

/// What the tests of one mutant may take together. A test that waits in vain gives up by itself sooner.
const LIMIT: Duration = Duration::from_secs(180);

/// What a build needs.
const TREE: [&str; 9] = [
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "docs",
    "src",
    "lua",
    "tests",
    "benches",
    "examples",
];

/// Runs every mutant, prints a table, and returns the names of those that were not caught.
pub(crate) fn report(mutants: &[Mutant]) -> Vec<String> {
    let scratch = Scratch::new();
    let named = || mutants.iter().flat_map(|mutant| &mutant.caught_by);
    // A test that fails anyway catches nothing.
    let sound = scratch.test(named()).expect("the sound tree builds");
    let failing: Vec<&String> = named()
        .map(|catcher| &catcher.test)
        .filter(|test| sound.get(*test) != Some(&End::Passed))
        .collect();
    assert!(
        failing.is_empty(),
        "fail without any mutant, or do not run: {failing:#?}"
    );

    let mut survivors = Vec::new();
    let mut table = Vec::new();
    for (index, mutant) in mutants.iter().enumerate() {
        let began = Instant::now();
        let verdict = scratch.verdict(mutant);
        let seconds = began.elapsed().as_secs();
        let line = match &verdict {
            Ok(caught) => format!("{:36} {seconds:4} s  {}", mutant.name, caught.join(", ")),
            Err(why) => format!("{:36} {seconds:4} s  SURVIVED: {why}", mutant.name),
        };
        eprintln!("[{}/{}] {line}", index + 1, mutants.len());
        table.push(line);
        if verdict.is_err() {
            survivors.push(mutant.name.clone());
        }
    }
    table.sort_unstable();
    eprintln!("\nmutant, seconds, caught by\n{}", table.join("\n"));
    survivors
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    /// Had not ended when the time was up.
    Hung,
}

/// A copy of the tree with a build of its own.
struct Scratch {
    tree: PathBuf,
    build: PathBuf,
}

impl Scratch {
    /// The tree as it is now; what is alike already is left alone, so that cargo does too.
    fn new() -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants");
        let (tree, build) = (home.join("tree"), home.join("build"));
        fs::create_dir_all(&tree).expect("a place for the copy");
        for name in TREE {
            copy(&root().join(name), &tree.join(name));
        }
        Self { tree, build }
    }

    /// The tests that caught it; `Err` says why it was not caught.
    fn verdict(&self, mutant: &Mutant) -> Result<Vec<String>, String> {
        let file = self.tree.join(&mutant.file);
        let sound = fs::read_to_string(&file).expect("a file of the copy");
        fs::write(&file, mutant.seeded(&sound)?).expect("the copy can be written");
        let ends = self.test(mutant.caught_by.iter());
        fs::write(&file, sound).expect("the copy can be written");

        let ends = ends?;
        let mut caught = Vec::new();
        for Catcher { test, .. } in &mutant.caught_by {
            match ends.get(test) {
                Some(End::Failed) => caught.push(test.clone()),
                Some(End::Hung) if mutant.hangs => caught.push(format!("{test} (hangs)")),
                Some(end) => return Err(format!("{test}: {end:?}; {}", mutant.what)),
                None => return Err(format!("{test} did not run; {}", mutant.what)),
            }
        }
        Ok(caught)
    }

    /// Builds and runs these tests.
    fn test<'a>(
        &self,
        catchers: impl Iterator<Item = &'a Catcher>,
    ) -> Result<BTreeMap<String, End>, String> {
        let mut by_target: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for Catcher { target, test } in catchers {
            by_target.entry(target).or_default().push(test);
        }
        let programs = self.programs(by_target.keys().copied())?;
        let mut ends = BTreeMap::new();
        let deadline = Instant::now() + LIMIT;
        for (target, tests) in by_target {
            let program = programs
                .get(target)
                .ok_or_else(|| format!("{target} was not built"))?;
            ends.extend(run(program, &tests, &self.tree, deadline));
        }
        Ok(ends)
    }

    /// Builds the test programs of these targets.
    fn programs<'a>(
        &self,
        targets: impl Iterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, PathBuf>, String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args([
                "test",
                "--no-run",
                "--locked",
                "--features=otel",
                "--message-format=json",
            ])
            .env("CARGO_TARGET_DIR", &self.build)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .current_dir(&self.tree);
        for target in targets {
            match target {
                "lib" => cargo.arg("--lib"),
                target => cargo.args(["--test", target]),
            };
        }
        let output = cargo.output().expect("cargo runs");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let error = said.lines().find(|line| line.starts_with("error"));
            return Err(format!(
                "does not compile: {}",
                error.unwrap_or("see cargo")
            ));
        }
        let messages = output.stdout.split(|byte| *byte == b'\n');
        let built = messages.filter_map(|message| {
            let message: serde_json::Value = serde_json::from_slice(message).ok()?;
            let program = message["executable"].as_str()?;
            if !message["profile"]["test"].as_bool()? {
                return None;
            }
            let target = match message["target"]["kind"][0].as_str()? {
                "test" => message["target"]["name"].as_str()?,
                kind => kind,
            };
            Some((target.to_owned(), PathBuf::from(program)))
        });
        Ok(built.collect())
    }
}

/// Runs these tests of one program until the deadline.
fn run(program: &Path, tests: &[&str], tree: &Path, deadline: Instant) -> BTreeMap<String, End> {
    let mut output = tempfile::tempfile().expect("a place for the output");
    let mut running = Command::new(program)
        .arg("--exact")
        .args(tests)
        .current_dir(tree)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a second handle"))
        .stderr(Stdio::null())
        .spawn()
        .expect("what cargo built can be run");
    let ended = loop {
        if running.try_wait().expect("a child").is_some() {
            break true;
        }
        if Instant::now() > deadline {
            running.kill().expect("a child");
            running.wait().expect("a child");
            break false;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    output.rewind().expect("a file");
    output.read_to_string(&mut said).expect("text");
    let has = |line: String| said.contains(&line);
    let end_of = |test: &str| {
        Some(if has(format!("test {test} ... ok\n")) {
            End::Passed
        } else if has(format!("test {test} ... FAILED\n")) {
            End::Failed
        } else if !ended {
            End::Hung
        } else {
            return None;
        })
    };
    let ends = tests.iter();
    ends.filter_map(|test| Some(((*test).to_owned(), end_of(test)?)))
        .collect()
}

/// Copies a file or a directory; files that are alike keep their times, and what is no longer there goes.
fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        let wanted = fs::read(from).expect("a file of the tree");
        if fs::read(to).ok().as_ref() != Some(&wanted) {
            fs::write(to, wanted).expect("the copy can be written");
        }
        return;
    }
    fs::create_dir_all(to).expect("the copy can be written");
    let names = |directory: &Path| -> Vec<_> {
        let entries = fs::read_dir(directory).expect("a directory");
        entries
            .map(|entry| entry.expect("a file").file_name())
            .collect()
    };
    let wanted = names(from);
    for name in names(to).iter().filter(|name| !wanted.contains(name)) {
        let gone = to.join(name);
        let removed = match gone.is_dir() {
            true => fs::remove_dir_all(gone),
            false => fs::remove_file(gone),
        };
        removed.expect("the copy can be written");
    }
    for name in wanted {
        copy(&from.join(&name), &to.join(&name));
    }
}
