//! The pages of docs/ that are walked: every command is run in one shell, in order, and what it prints compared with what the page
//! says. Numbers may differ, for they are ids and times.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use crate::support::{Cli, PATIENCE, bare};

/// What ends a command's output.
const END: &str = "=== end of the command, exit";

/// A command of a page, and what it prints there.
#[derive(Debug, Default)]
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The `$ ` lines of the page's console blocks. A here-document and a backslash at a line's end continue a command.
fn steps_of(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    let mut until: Option<String> = None;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        if !inside {
            continue;
        }
        if let Some(end) = &until {
            let step = steps.last_mut().expect("a command was begun");
            step.command.push('\n');
            step.command.push_str(line);
            if line == end || (end == "\\" && !line.ends_with('\\')) {
                until = None;
            }
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                ..Step::default()
            });
            let document = command
                .split_once("<<'")
                .and_then(|(_, rest)| rest.split_once('\''));
            until = document.map(|(end, _)| end.to_owned());
            if command.ends_with('\\') {
                until = Some("\\".to_owned());
            }
        } else {
            let step = steps.last_mut().expect("a block begins with a command");
            step.printed.push(line.to_owned());
        }
    }
    steps
}

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
        let script = format!("{{ {command}\n}} 2>&1\necho \"{END} $?\"\n");
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
fn walk(page: &str) {
    let path = format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let steps = steps_of(&text);
    assert!(steps.len() > 3, "{page} has hardly a command");
    let cli = Cli::new();
    let mut shell = Shell::start(&cli);
    for step in steps {
        let expected: Vec<String> = step.printed.iter().map(|line| shape_of(line)).collect();
        let began = Instant::now();
        loop {
            let (printed, code) = shell.run(&step.command);
            let shapes: Vec<String> = printed.iter().map(|line| shape_of(line)).collect();
            if step.printed.is_empty() {
                assert_eq!(code, 0, "{page}: {}\n{printed:#?}", step.command);
                break;
            }
            if code == 0 && shapes == expected {
                break;
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

#[test]
fn the_first_ten_minutes_are_as_the_page_says() {
    walk("first-ten-minutes.md");
}

#[test]
fn inside_redis_it_is_as_the_page_says() {
    if Command::new("redis-cli").arg("--version").output().is_err() {
        // Not every way to a server brings it.
        eprintln!(
            "not walked: there is no redis-cli here (apt-get install redis-tools, brew install redis)"
        );
        return;
    }
    walk("inside-redis.md");
}

#[test]
fn a_page_is_read_as_a_reader_would() {
    let page = "text\n```console\n$ cat > f <<'X'\n$ a\nX\n$ b \\\n  c\nout 12\n```\n```text\n$ not this\n```\n";
    let steps = steps_of(page);
    let commands: Vec<&str> = steps.iter().map(|step| step.command.as_str()).collect();
    assert_eq!(commands, ["cat > f <<'X'\n$ a\nX", "b \\\n  c"]);
    assert_eq!(steps[1].printed, ["out 12"]);
    assert_eq!(shape_of(" │ out   13-4 │"), "out 0-0");
    let id = "01a21ab4-d40f-76f4-9c80-ad72da2a52d9";
    assert_eq!(shape_of(&format!("1) \"{id}\" dead")), "0) \"0\" dead");
    let worker = format!("7-{}", id.replace('-', ""));
    assert_eq!(shape_of(&worker), "0-0");
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
