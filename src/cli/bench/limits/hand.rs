//! A client of plain bytes: makes commands, and finds where replies end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context as _;

use super::{BATCH, GROUP, IN_FLIGHT};

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection, and what goes out and comes in by it.
pub(super) struct Hand {
    socket: TcpStream,
    out: Vec<u8>,
    come: Vec<u8>,
    /// Of `come`, what was taken.
    taken: usize,
    pub(super) stream: String,
    payload: Vec<u8>,
    /// Entries that were settled.
    pub(super) settled: u64,
    /// Entries that were added, whose ids count from 1.
    added: u64,
}

impl Hand {
    pub(super) fn reach(
        address: &str,
        stream: String,
        payload_bytes: usize,
    ) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(address).context("cannot connect")?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            socket,
            out: Vec::new(),
            come: Vec::new(),
            taken: 0,
            stream,
            payload: vec![b'x'; payload_bytes],
            settled: 0,
            added: 0,
        })
    }

    /// Commands that `each` writes, so many at once.
    pub(super) fn pipelined(&mut self, jobs: u64, each: impl Fn(&mut Self)) -> anyhow::Result<()> {
        for from in (0..jobs).step_by(IN_FLIGHT as usize) {
            let count = IN_FLIGHT.min(jobs - from);
            (0..count).for_each(|_| each(self));
            self.exchange(count)?;
        }
        Ok(())
    }

    pub(super) fn make_group(&mut self) -> anyhow::Result<()> {
        let stream = self.stream.clone();
        let words = ["XGROUP", "CREATE", &stream, GROUP, "0", "MKSTREAM"];
        command(&mut self.out, words.map(str::as_bytes));
        self.exchange(1).map(drop)
    }

    /// The digest under which Redis keeps the script.
    pub(super) fn load(&mut self, script: &str) -> anyhow::Result<String> {
        let words = ["SCRIPT", "LOAD", script];
        command(&mut self.out, words.map(str::as_bytes));
        let reply = self.exchange(1)?;
        let sha = reply.split(|byte| *byte == b'\n').nth(1);
        let sha = sha.context("SCRIPT LOAD gives no digest")?;
        Ok(String::from_utf8_lossy(sha).trim().to_owned())
    }

    /// An entry like one of the engine's, under an id that is known then.
    pub(super) fn add(&mut self) {
        self.added += 1;
        let id = format!("1-{}", self.added);
        let words = [
            &b"XADD"[..],
            self.stream.as_bytes(),
            id.as_bytes(),
            b"name",
            b"noop",
            b"payload",
            &self.payload,
            b"attempt",
            b"1",
            b"meta",
            b"",
        ];
        command(&mut self.out, words);
    }

    pub(super) fn run(&mut self, sha: &str, jobs: u64) {
        let mut words = vec![
            &b"EVALSHA"[..],
            sha.as_bytes(),
            b"1",
            self.stream.as_bytes(),
        ];
        (0..jobs).for_each(|_| words.extend([&b"noop"[..], &self.payload]));
        command(&mut self.out, words);
    }

    pub(super) fn read(&mut self, block_ms: Option<&str>) {
        let count = BATCH.to_string();
        let mut words = vec!["XREADGROUP", "GROUP", GROUP, "by hand", "COUNT", &count];
        words.extend(block_ms.into_iter().flat_map(|ms| ["BLOCK", ms]));
        words.extend(["STREAMS", &self.stream, ">"]);
        command(&mut self.out, words.into_iter().map(str::as_bytes));
    }

    /// Everything up to entry `last`.
    pub(super) fn settle(&mut self, last: u64) {
        let ids: Vec<String> = (self.settled + 1..=last)
            .map(|id| format!("1-{id}"))
            .collect();
        let ids = || ids.iter().map(String::as_bytes);
        let ack = [&b"XACK"[..], self.stream.as_bytes(), GROUP.as_bytes()];
        command(&mut self.out, ack.into_iter().chain(ids()));
        let delete = [&b"XDEL"[..], self.stream.as_bytes()];
        command(&mut self.out, delete.into_iter().chain(ids()));
        self.settled = last;
    }

    /// Writes what has been made, and reads so many replies.
    pub(super) fn exchange(&mut self, replies: u64) -> anyhow::Result<&[u8]> {
        self.socket.write_all(&self.out).context("cannot write")?;
        self.out.clear();
        self.come.drain(..self.taken);
        self.taken = 0;
        for _ in 0..replies {
            self.taken = loop {
                match end_of_reply(&self.come, self.taken)? {
                    Some(end) => break end,
                    None => {
                        let mut more = [0; 64 << 10];
                        let came = self.socket.read(&mut more).context("no reply")?;
                        anyhow::ensure!(came > 0, "Redis closed the connection");
                        self.come.extend_from_slice(&more[..came]);
                    }
                }
            };
        }
        Ok(&self.come[..self.taken])
    }
}

/// Writes a command in Redis's protocol: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.
fn command<'a>(out: &mut Vec<u8>, words: impl IntoIterator<Item = &'a [u8]>) {
    let words: Vec<&[u8]> = words.into_iter().collect();
    out.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        out.extend(format!("${}\r\n", word.len()).bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Where the reply that begins at `at` ends; `None` when not all of it has come. One that says an error is an error.
fn end_of_reply(come: &[u8], at: usize) -> anyhow::Result<Option<usize>> {
    let rest = &come[at..];
    let Some(length) = rest.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let (kind, after) = (rest[0], at + length + 2);
    let text = String::from_utf8_lossy(rest.get(1..length).unwrap_or_default());
    let count = || text.parse::<i64>().context("a reply of no known kind");
    match kind {
        b'-' => anyhow::bail!("Redis says: {text}"),
        b'$' => {
            let end = match usize::try_from(count()?) {
                Ok(bytes) => after + bytes + 2,
                Err(_) => after,
            };
            Ok((come.len() >= end).then_some(end))
        }
        b'*' => {
            let mut end = after;
            for _ in 0..count()?.max(0) {
                match end_of_reply(come, end)? {
                    Some(next) => end = next,
                    None => return Ok(None),
                }
            }
            Ok(Some(end))
        }
        b'+' | b':' => Ok(Some(after)),
        _ => anyhow::bail!("a reply of no known kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_ends_where_all_of_it_has_come() {
        let replies: [&[u8]; 6] = [
            b"+OK\r\n",
            b":-5\r\n",
            b"$-1\r\n",
            b"$4\r\n\r\n\r\n\r\n",
            b"*0\r\n",
            b"*2\r\n*1\r\n$1\r\nx\r\n*-1\r\n",
        ];
        for reply in replies {
            let two = [reply, reply].concat();
            assert_eq!(end_of_reply(&two, 0).unwrap(), Some(reply.len()));
            assert_eq!(end_of_reply(&two, reply.len()).unwrap(), Some(two.len()));
            for short in 0..reply.len() {
                assert_eq!(end_of_reply(&reply[..short], 0).unwrap(), None, "{short}");
            }
        }
        for refused in [&b"-ERR no\r\n"[..], b"\r\n", b"$x\r\n", b"HTTP/1.1 400\r\n"] {
            assert!(end_of_reply(refused, 0).is_err());
        }
    }
}
