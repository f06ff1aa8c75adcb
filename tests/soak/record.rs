//! What a process did, in a file that no death of the process can take back: one line an event, written with one call
//! before anybody else hears of the event. `<µs of the machine's monotonic clock> <word> <word> …`

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::str::SplitWhitespace;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

/// Microseconds of the clock that all processes of the machine share and nobody sets.
pub(crate) fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

/// What to take from a unix time in µs, as Redis has it, to get [`now_us`].
pub(crate) fn unix_offset_us() -> u64 {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let unix_us = unix.expect("after 1970").as_micros() as u64;
    unix_us.saturating_sub(now_us())
}

/// A file of events; open in one process at a time.
#[derive(Debug)]
pub(crate) struct Record(Mutex<File>);

impl Record {
    pub(crate) fn create(path: &Path) -> Self {
        let file = File::options().create(true).append(true).open(path);
        Self(Mutex::new(file.unwrap_or_else(|error| {
            panic!("{}: {error}", path.display())
        })))
    }

    /// Notes that `words` happened; returns when. No buffer: what is written outlives the process.
    pub(crate) fn note(&self, words: impl Display) -> u64 {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now_us();
        let line = format!("{at} {words}\n");
        file.write_all(line.as_bytes())
            .expect("the record takes a line");
        at
    }
}

/// Hands every event of the file to `take`. A last line without its end was cut off by a kill, and does not count.
pub(crate) fn read(path: &Path, mut take: impl FnMut(u64, &str, SplitWhitespace<'_>)) {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = BufReader::new(file);
    let mut line = String::new();
    while lines.read_line(&mut line).expect("the record is text") > 0 {
        if !line.ends_with('\n') {
            break;
        }
        let mut words = line.split_whitespace();
        let at = words.next().and_then(|at| at.parse().ok());
        if let (Some(at), Some(word)) = (at, words.next()) {
            take(at, word, words);
        }
        line.clear();
    }
}
