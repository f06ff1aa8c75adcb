//! The pages of docs/ that are walked: every command is run in one shell, in order, and what it prints compared with what the page
//! says. Numbers may differ, for they are ids and times.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use crate::pages::{Part, Step, blocks_of, parts_of, steps_of};
use crate::support::{Cli, PATIENCE, bare};

/// What ends a command's output.
const END: &str = "=== end of the command, exit";

/// Without what differs from run to run: numbers, hexadecimal ids, the width of columns and the lines that draw a table.
fn shape_of(line: &str) -> String {
    let words = line.split_whitespace().filter(|word| *word != "│");
    let text = without_ids(&words.collect::<Vec<_>>().join(" "));
    let mut shape = String::new();
    for c in text.chars() {
        match c.is_ascii_digit() {
            true if shape.ends_with('0') => {}
            true => shape.push('0'),
            false => shape.push(c),
        }
    }
    shape
}

/// Ids of 32 hexadecimal digits, with or without hyphens, become a number.
fn without_ids(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut shown = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let length = rest[start..].find(|c| !is_part(c));
        let end = length.map_or(rest.len(), |length| start + length);
        let run = &rest[start..end];
        shown.push_str(&rest[..start]);
        let digits = run.chars().filter(char::is_ascii_hexdigit).count();
        let masked = |part| if str::len(part) == 32 { "0" } else { part };
        match digits {
            32 => shown.push('0'),
            _ => shown += &run.split('-').map(masked).collect::<Vec<_>>().join("-"),
        }
        rest = &rest[end..];
    }
    shown + rest
}

/// One shell, with `millstream` on its PATH.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    stdout: Receiver<String>,
}

impl Shell {
    fn start(cli: &Cli) -> Self {
        let binary = bare(&[]).get_program().to_owned();
        let bin = std::path::Path::new(&binary).parent().unwrap().to_owned();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("bash")
            .current_dir(cli.dir.path())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("MILLSTREAM_REDIS_URL", cli.redis.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("bash");
        let (send, stdout) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut shell = Self {
            stdin: child.stdin.take().unwrap(),
            child,
            stdout,
        };
        // As if the page's redis-cli were at a terminal, and its server at the usual address.
        let socket = cli.redis.socket().display().to_string();
        let redis_cli =
            format!("redis-cli() {{ command redis-cli -s '{socket}' --no-raw \"$@\"; }}");
        assert_eq!(shell.run(&redis_cli).1, 0);
        shell
    }

    /// What the command printed, and its exit code.
    fn run(&mut self, command: &str) -> (Vec<String>, i32) {
        let script = format!("{{ {command}\n}} 2>&1 </dev/null\necho \"{END} $?\"\n");
        self.stdin.write_all(script.as_bytes()).unwrap();
        let mut printed = Vec::new();
        loop {
            let line = self.stdout.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no end of: {command}"));
            match line.strip_prefix(END) {
                Some(code) => return (printed, code.trim().parse().unwrap()),
                None => printed.push(line),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // With all that it left running.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
    }
}

/// Runs the page's commands. One whose output is shown is run again until it prints that: a worker may still be at it.
fn walk(page: &str, text: &str) {
    let cli = Cli::new();
    let mut shell = Shell::start(&cli);
    let mut left_out = false;
    for part in parts_of(text) {
        match part {
            Part::Run(command) => {
                let (printed, code) = shell.run(command);
                assert_eq!(code, 0, "{page}: {command}\n{printed:#?}");
            }
            Part::NotRun(_) => left_out = true,
            Part::Block { language, text } if language == "console" && !left_out => {
                for step in steps_of(&text) {
                    shell.walk(page, &step);
                }
            }
            Part::Block { .. } => left_out = false,
        }
    }
}

impl Shell {
    fn walk(&mut self, page: &str, step: &Step) {
        let expected: Vec<String> = step.printed.iter().map(|line| shape_of(line)).collect();
        let began = Instant::now();
        loop {
            let (printed, code) = self.run(&step.command);
            if step.printed.is_empty() {
                assert_eq!(code, 0, "{page}: {}\n{printed:#?}", step.command);
                return;
            }
            let shapes: Vec<String> = printed.iter().map(|line| shape_of(line)).collect();
            if code == 0 && are_alike(&shapes, &expected) {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{page}: {} exits {code} and prints\n{printed:#?}\nwhere the page has\n{:#?}",
                step.command,
                step.printed
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Whether they are the same, where a line `…` of the page stands for any number of lines.
fn are_alike(printed: &[String], expected: &[String]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "…" => {
            (0..=printed.len()).any(|skipped| are_alike(&printed[skipped..], rest))
        }
        Some((line, rest)) => printed.first() == Some(line) && are_alike(&printed[1..], rest),
    }
}

/// The page that has a test of its own, `webhooks_doc`.
const WALKED_ELSEWHERE: &str = "webhooks.md";

#[test]
fn every_page_is_as_it_says() {
    // Not every way to a server brings it.
    let has_redis_cli = Command::new("redis-cli").arg("--version").output().is_ok();
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut walks = Vec::new();
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        let page = path.file_name().unwrap().to_string_lossy().into_owned();
        if !page.ends_with(".md") || page == WALKED_ELSEWHERE {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let sessions = blocks_of(&text, "console");
        if sessions.is_empty() {
            continue;
        }
        if !has_redis_cli
            && sessions
                .iter()
                .any(|session| session.contains("redis-cli "))
        {
            eprintln!(
                "{page} is not walked: there is no redis-cli here (apt-get install redis-tools, brew install redis)"
            );
            continue;
        }
        walks.push(std::thread::spawn(move || walk(&page, &text)));
    }
    assert!(walks.len() >= 9, "only {} pages are walked", walks.len());
    let ends: Vec<_> = walks
        .into_iter()
        .map(std::thread::JoinHandle::join)
        .collect();
    // Each has said itself what is wrong.
    assert!(ends.iter().all(Result::is_ok), "a page is not as it says");
}

#[test]
fn a_page_is_read_as_a_reader_would() {
    let page = "text\n<!-- run: a -->\n```console\n$ cat > f <<'X'\n$ a\nX\n$ b \\\n  c\nout 12\n```\n<!-- not run: it never ends -->\n```text\n$ not this\n```\n";
    let parts = parts_of(page);
    let [
        Part::Run("a"),
        Part::Block {
            language: "console",
            text,
        },
        Part::NotRun(why),
        Part::Block {
            language: "text", ..
        },
    ] = &parts[..]
    else {
        panic!("{parts:?}");
    };
    assert_eq!(*why, "it never ends");
    let steps = steps_of(text);
    let commands: Vec<&str> = steps.iter().map(|step| step.command.as_str()).collect();
    assert_eq!(commands, ["cat > f <<'X'\n$ a\nX", "b \\\n  c"]);
    assert_eq!(steps[1].printed, ["out 12"]);
    assert_eq!(shape_of(" │ out   13-4 │"), "out 0-0");
    let id = "01a21ab4-d40f-76f4-9c80-ad72da2a52d9";
    assert_eq!(shape_of(&format!("1) \"{id}\" dead")), "0) \"0\" dead");
    let worker = format!("7-{}", id.replace('-', ""));
    assert_eq!(shape_of(&worker), "0-0");
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(are_alike(&lines("a\nb\nc"), &lines("a\n…\nc")));
    assert!(are_alike(&lines("a"), &lines("a\n…")));
    assert!(!are_alike(&lines("a\nb"), &lines("a\n…\nc")));
}

/// The anchor that a heading gets: lower case, without marks, spaces as hyphens.
fn anchor_of(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().replace(' ', "-")
}

#[test]
fn every_link_of_the_book_leads_somewhere_and_every_page_is_in_it() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap();
    let entries = std::fs::read_dir(root.join("docs")).unwrap();
    let mut pages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    let summary = read(&root.join("docs/SUMMARY.md"));
    for page in &pages {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let listed = name == "SUMMARY.md" || summary.contains(&format!("]({name})"));
        assert!(listed, "{name} is not in docs/SUMMARY.md");
    }
    pages.push(root.join("README.md"));
    for page in &pages {
        let text = read(page);
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            if !anchor.is_empty() {
                let target = read(&target);
                let mut headings = target.lines().filter(|line| line.starts_with('#'));
                let found = headings.any(|heading| anchor_of(heading) == anchor);
                assert!(found, "{}: {link} has no such heading", page.display());
            }
        }
    }
}
