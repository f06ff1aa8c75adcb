//! Where a piece of Redis protocol (RESP2) ends, and what it says of itself.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// Digest -> script name, learned from every SCRIPT LOAD that passed; the same for all servers.
static SCRIPTS: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// The length of the first whole frame in `bytes`; `None` while its end is missing.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let (kind, line, after) = header(bytes)?;
    let mut end = after;
    match (kind, line) {
        (b'$', "-1") | (b'*', "-1") => {}
        (b'$', length) => end += length.parse::<usize>().ok()? + 2,
        (b'*', count) => {
            for _ in 0..count.parse::<usize>().ok()? {
                end += length(bytes.get(end..)?)?;
            }
        }
        (b'+' | b'-' | b':', _) => {}
        (other, _) => panic!("not RESP2: {:?}", char::from(other)),
    }
    (end <= bytes.len()).then_some(end)
}

/// The first byte, the rest of the first line, and where the next one begins.
fn header(bytes: &[u8]) -> Option<(u8, &str, usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(bytes.get(1..end)?).unwrap_or("");
    Some((*bytes.first()?, line, end + 2))
}

/// The strings of a flat list; empty when it is something else.
fn words(frame: &[u8]) -> Vec<&[u8]> {
    let mut words = Vec::new();
    let Some((b'*', count, mut at)) = header(frame) else {
        return words;
    };
    for _ in 0..count.parse().unwrap_or(0) {
        let Some((b'$', length, after)) = header(&frame[at..]) else {
            break;
        };
        let (from, length) = (at + after, length.parse::<usize>().unwrap_or(0));
        words.push(&frame[from..from + length]);
        at = from + length + 2;
    }
    words
}

/// What a client asks for.
pub(super) struct Request {
    /// The names that it goes by: the command, and where there is one a narrower name. A script's own (`enqueue`); `read`
    /// and `own` for an XREADGROUP of new entries and of the consumer's own ones.
    pub(super) names: Vec<String>,
    /// How many answers it gets.
    pub(super) answers: usize,
    /// The script that the server is given to keep; its answer is the digest.
    loads: Option<String>,
}

impl Request {
    pub(super) fn read(frame: &[u8]) -> Self {
        let words = words(frame);
        let verb = words.first().copied().unwrap_or_default();
        let verb = String::from_utf8_lossy(verb).to_uppercase();
        let second = words.get(1).copied().unwrap_or_default();
        let mut loads = None;
        let narrower = match verb.as_str() {
            "EVAL" => script_name(second),
            "EVALSHA" => {
                let digest = String::from_utf8_lossy(second).into_owned();
                SCRIPTS.lock().expect("no panic here").get(&digest).cloned()
            }
            "SCRIPT" => {
                loads = words.get(2).and_then(|text| script_name(text));
                None
            }
            "XREADGROUP" if words.last() == Some(&&b">"[..]) => Some("read".to_owned()),
            "XREADGROUP" => Some("own".to_owned()),
            _ => None,
        };
        let answers = match verb.as_str() {
            "SUBSCRIBE" | "UNSUBSCRIBE" => (words.len() - 1).max(1),
            _ => 1,
        };
        Self {
            names: [verb].into_iter().chain(narrower).collect(),
            answers,
            loads,
        }
    }

    /// Takes note of a digest.
    pub(super) fn learn(&self, answer: &[u8]) {
        if let (Some(name), Some((b'$', _, from))) = (&self.loads, header(answer)) {
            let digest = String::from_utf8_lossy(&answer[from..answer.len() - 2]).into_owned();
            let mut scripts = SCRIPTS.lock().expect("no panic here");
            scripts.insert(digest, name.clone());
        }
    }
}

/// The name in the header of a script's own text, which follows its fragments: `-- retry: running -> scheduled`.
fn script_name(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let named = text.lines().rev().find_map(|line| {
        let (name, what) = line.strip_prefix("-- ")?.split_once(": ")?;
        let is_word = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        (is_word && (what == "no job moves" || what.contains(" -> "))).then_some(name)
    });
    named.map(str::to_owned)
}

/// Whether this is a message of a subscription, which answers no request.
pub(super) fn is_message(frame: &[u8]) -> bool {
    frame.starts_with(b"*3\r\n$7\r\nmessage\r\n")
}

#[test]
fn frames_end_where_they_end_and_not_before() {
    for whole in [
        &b"+OK\r\n"[..],
        b"-ERR no\r\n",
        b":-5\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"$4\r\n\r\n\r\n\r\n",
        b"*2\r\n*2\r\n$1\r\na\r\n*0\r\n$3\r\nabc\r\n",
    ] {
        for cut in 0..whole.len() {
            assert_eq!(length(&whole[..cut]), None, "{whole:?} cut at {cut}");
        }
        let followed = [whole, b"+next\r\n"].concat();
        assert_eq!(length(&followed), Some(whole.len()), "{whole:?}");
    }
}
