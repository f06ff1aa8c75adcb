//! `millstream bench limits`: what Redis and this machine do for a client that is nothing but its bytes: commands made by hand, a
//! socket that blocks, one thread, and no more read of a reply than where it ends. No client of any kind does better, so this is what
//! figures of two machines are to be compared by.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;
use millstream::private_redis::Persistence;
use serde_json::json;

use super::arena::{self, Arena, Circumstances};
use super::report::{Cost, LONGEST, Quantiles, cpu, rate, rounded, row};
use super::{Load, RATES};
use crate::cli::args::Globals;
use crate::cli::failure::usage;
use crate::cli::output;

/// Commands that are written together before their replies are read.
const IN_FLIGHT: u64 = 50;
/// Jobs of a call, of a read and of a settlement.
const BATCH: u64 = 100;
/// One command at a time takes that much longer, so there are fewer.
const FEWER: u64 = 20;
/// Jobs of each start-latency measurement: three seconds' worth at most.
const LATENCY_SECONDS: u64 = 3;
/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(30);
const GROUP: &str = "workers";

const ONE: &str = "return redis.call('XADD', KEYS[1], '*', 'name', ARGV[1], 'payload', ARGV[2], 'attempt', '1', 'meta', '')";
const MANY: &str = "for i = 1, #ARGV, 2 do
  redis.call('XADD', KEYS[1], '*', 'name', ARGV[i], 'payload', ARGV[i + 1], 'attempt', '1', 'meta', '')
end";

/// Measure what Redis itself does on this machine for a client of plain bytes, with no library and no promise: the yardstick for figures
/// of two machines. Always on a Redis of its own.
#[derive(Debug, Args)]
pub(crate) struct LimitsBench {
    /// Jobs of each measurement, 1000 to 10000000; one at a time a twentieth of them
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    jobs: u32,
    /// Size of a payload: 8B to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "200B", value_parser = super::payload)]
    payload: usize,
    /// Turns of each measurement; medians are told, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    turns: u32,
    /// Write JSON: one object with server, settings, limits (limit, jobs_per_second, redis_cpu_us_per_job), starts (jobs_per_second, us)
    #[arg(long)]
    json: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
enum Case {
    Alone,
    Together,
    Scripts,
    Batches,
    Drain,
}

impl Case {
    const ALL: [Self; 5] = [
        Self::Alone,
        Self::Together,
        Self::Scripts,
        Self::Batches,
        Self::Drain,
    ];

    /// In words, and for scripts.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Alone => ("XADD, one at a time", "xadd_alone"),
            Self::Together => ("XADD, 50 in flight", "xadd_together"),
            Self::Scripts => ("EVALSHA with one XADD, 50 in flight", "evalsha_together"),
            Self::Batches => ("EVALSHA with 100 XADDs", "evalsha_of_100"),
            Self::Drain => (
                "XREADGROUP of 100, XACK and XDEL with the next",
                "drain_by_100",
            ),
        }
    }

    fn jobs(self, jobs: u64) -> u64 {
        match self {
            Self::Alone => jobs / FEWER,
            _ => jobs,
        }
    }
}

/// Everything that was measured.
struct Report {
    circumstances: Circumstances,
    costs: [Vec<Cost>; Case::ALL.len()],
    /// From the write of an XADD to the answer of a blocked read, at each rate.
    starts: Vec<(u32, Histogram<u64>)>,
}

impl LimitsBench {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<()> {
        if globals.redis_url.is_some() {
            let told = "bench limits measures a Redis of its own: leave --redis-url out";
            return Err(usage(told));
        }
        let load = Load {
            jobs: self.jobs.into(),
            producers: 1,
            concurrency: 1,
            workers: 1,
            processes: 0,
            queues: 1,
            payload_bytes: self.payload,
            depth: 0,
        };
        let measure = async |arena: &Arena, bar: &ProgressBar| self.measure(arena, bar).await;
        let report = arena::measured(globals, Persistence::None, load, measure).await?;
        match self.json {
            true => self.write_json(&report),
            false => self.print(&report),
        }
    }

    async fn measure(&self, arena: &Arena, bar: &ProgressBar) -> anyhow::Result<Report> {
        let mut report = Report {
            circumstances: arena.circumstances().await?,
            costs: Default::default(),
            starts: RATES.map(|rate| (rate, histogram())).into(),
        };
        for turn in 1..=self.turns {
            let say = |what: &str| {
                bar.set_message(format!("turn {turn} of {}: {what}", self.turns));
            };
            for case in Case::ALL {
                say(case.names().0);
                let cost = self.cost(arena, case).await?;
                report.costs[case as usize].push(cost);
            }
            for (rate, took) in &mut report.starts {
                say("from XADD to the answer of a blocked read");
                let (mut to, mut from) = (self.hand(arena).await?, self.hand(arena).await?);
                from.stream.clone_from(&to.stream);
                let (rate, jobs) = (*rate, u64::from(self.jobs));
                let starts = tokio::task::spawn_blocking(move || {
                    let jobs = jobs.min(u64::from(rate) * LATENCY_SECONDS);
                    starts(&mut to, &mut from, rate, jobs)
                });
                took.add(starts.await??)?;
            }
        }
        Ok(report)
    }

    async fn cost(&self, arena: &Arena, case: Case) -> anyhow::Result<Cost> {
        let mut hand = self.hand(arena).await?;
        let jobs = case.jobs(self.jobs.into());
        if matches!(case, Case::Drain) {
            hand = tokio::task::spawn_blocking(move || {
                hand.make_group()?;
                hand.pipelined(jobs, |hand| hand.add())?;
                anyhow::Ok(hand)
            })
            .await??;
        }
        let work = tokio::task::spawn_blocking(move || hand.work(case, jobs));
        Cost::of(arena, jobs, async { work.await? }).await
    }

    /// A connection of its own, for a stream that nothing else uses.
    async fn hand(&self, arena: &Arena) -> anyhow::Result<Hand> {
        let address = arena.private_address().context("a Redis of its own")?;
        Hand::reach(address, arena.new_stream().await?, self.payload)
    }

    fn write_json(&self, report: &Report) -> anyhow::Result<()> {
        let limits = Case::ALL.map(|case| {
            let costs = &report.costs[case as usize];
            json!({
                "limit": case.names().1,
                "jobs_per_second": rate(costs).map(f64::round),
                "redis_cpu_us_per_job": cpu(costs).map(rounded),
            })
        });
        let starts = report.starts.iter();
        let starts = starts
            .map(|(rate, took)| json!({ "jobs_per_second": rate, "us": Quantiles::of(took) }));
        output::json(&json!({
            "server": report.circumstances,
            "settings": { "jobs": self.jobs, "payload_bytes": self.payload, "turns": self.turns },
            "limits": limits,
            "starts": starts.collect::<Vec<_>>(),
        }))
    }

    fn print(&self, report: &Report) -> anyhow::Result<()> {
        output::line(report.circumstances.line())?;
        output::line(format!(
            "{} of {}; medians of {}",
            output::counted(self.jobs.into(), "job"),
            output::counted(self.payload as u64, "byte"),
            output::counted(self.turns.into(), "turn")
        ))?;
        let mut table = output::table(&["limit", "jobs/s", "Redis µs/job"]);
        for case in Case::ALL {
            let costs = &report.costs[case as usize];
            let numbers = [
                output::count(rate(costs).unwrap_or_default() as u64),
                format!("{:.2}", cpu(costs).unwrap_or_default()),
            ];
            table.add_row(row(case.names().0.to_owned(), numbers));
        }
        output::print(&table, "")?;
        let mut table = output::table(&["time, µs", "p50", "p90", "p99", "p99.9"]);
        for (rate, took) in &report.starts {
            let title = format!(
                "XADD to the answer of a blocked read, {} jobs/s",
                output::count((*rate).into())
            );
            let numbers = Quantiles::of(took).in_order();
            table.add_row(row(title, numbers.map(|us| format!("{us:.0}"))));
        }
        output::print(&table, "")
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are constant and good")
}

/// A connection, and what goes out and comes in by it.
struct Hand {
    socket: TcpStream,
    out: Vec<u8>,
    come: Vec<u8>,
    /// Of `come`, what was taken.
    taken: usize,
    stream: String,
    payload: Vec<u8>,
    /// Entries that were settled.
    settled: u64,
    /// Entries that were added, whose ids count from 1.
    added: u64,
}

impl Hand {
    fn reach(address: &str, stream: String, payload_bytes: usize) -> anyhow::Result<Self> {
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

    fn work(&mut self, case: Case, jobs: u64) -> anyhow::Result<()> {
        match case {
            Case::Alone => {
                for _ in 0..jobs {
                    self.add();
                    self.exchange(1)?;
                }
                Ok(())
            }
            Case::Together => self.pipelined(jobs, |hand| hand.add()),
            Case::Scripts => {
                let sha = self.load(ONE)?;
                self.pipelined(jobs, |hand| hand.run(&sha, 1))
            }
            Case::Batches => {
                let sha = self.load(MANY)?;
                for from in (0..jobs).step_by(BATCH as usize) {
                    self.run(&sha, BATCH.min(jobs - from));
                    self.exchange(1)?;
                }
                Ok(())
            }
            Case::Drain => {
                self.read(None);
                self.exchange(1)?;
                while self.settled < jobs {
                    let last = jobs.min(self.settled + BATCH);
                    self.settle(last);
                    self.read(None);
                    self.exchange(3)?;
                }
                Ok(())
            }
        }
    }

    /// Commands that `each` writes, so many at once.
    fn pipelined(&mut self, jobs: u64, each: impl Fn(&mut Self)) -> anyhow::Result<()> {
        for from in (0..jobs).step_by(IN_FLIGHT as usize) {
            let count = IN_FLIGHT.min(jobs - from);
            (0..count).for_each(|_| each(self));
            self.exchange(count)?;
        }
        Ok(())
    }

    fn make_group(&mut self) -> anyhow::Result<()> {
        let stream = self.stream.clone();
        let words = ["XGROUP", "CREATE", &stream, GROUP, "0", "MKSTREAM"];
        command(&mut self.out, words.map(str::as_bytes));
        self.exchange(1).map(drop)
    }

    /// The digest under which Redis keeps the script.
    fn load(&mut self, script: &str) -> anyhow::Result<String> {
        let words = ["SCRIPT", "LOAD", script];
        command(&mut self.out, words.map(str::as_bytes));
        let reply = self.exchange(1)?;
        let sha = reply.split(|byte| *byte == b'\n').nth(1);
        let sha = sha.context("SCRIPT LOAD gives no digest")?;
        Ok(String::from_utf8_lossy(sha).trim().to_owned())
    }

    /// An entry like one of the engine's, under an id that is known then.
    fn add(&mut self) {
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

    fn run(&mut self, sha: &str, jobs: u64) {
        let mut words = vec![
            &b"EVALSHA"[..],
            sha.as_bytes(),
            b"1",
            self.stream.as_bytes(),
        ];
        (0..jobs).for_each(|_| words.extend([&b"noop"[..], &self.payload]));
        command(&mut self.out, words);
    }

    fn read(&mut self, block_ms: Option<&str>) {
        let count = BATCH.to_string();
        let mut words = vec!["XREADGROUP", "GROUP", GROUP, "by hand", "COUNT", &count];
        words.extend(block_ms.into_iter().flat_map(|ms| ["BLOCK", ms]));
        words.extend(["STREAMS", &self.stream, ">"]);
        command(&mut self.out, words.into_iter().map(str::as_bytes));
    }

    /// Everything up to entry `last`.
    fn settle(&mut self, last: u64) {
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
    fn exchange(&mut self, replies: u64) -> anyhow::Result<&[u8]> {
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
    let (line, after) = (&rest[..length], at + length + 2);
    let text = String::from_utf8_lossy(&line[1..]);
    let count = || text.parse::<i64>().context("a reply of no known kind");
    match line[0] {
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
        _ => Ok(Some(after)),
    }
}

/// How long after the write of its XADD each job was in the answer of a blocked read, ns. `to` writes at this rate, and does not wait for
/// anything but its reply; `from` reads and settles.
fn starts(to: &mut Hand, from: &mut Hand, rate: u32, jobs: u64) -> anyhow::Result<Histogram<u64>> {
    from.make_group()?;
    let began = Instant::now();
    let sent: Vec<std::sync::atomic::AtomicU64> = (0..jobs).map(|_| 0.into()).collect();
    let ns = || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let order = std::sync::atomic::Ordering::Relaxed;
    let mut took = histogram();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for (index, sent) in (0..).zip(&sent) {
                let due = Duration::from_secs(1) * index / rate;
                std::thread::sleep(due.saturating_sub(began.elapsed()));
                to.add();
                sent.store(ns(), order);
                to.exchange(1)?;
            }
            anyhow::Ok(())
        });
        while from.settled < jobs {
            from.read(Some("5000"));
            let reply = from.exchange(1)?;
            let now = ns();
            // Each entry has one name of this kind.
            let came = reply.windows(4).filter(|four| *four == b"noop").count() as u64;
            anyhow::ensure!(came > 0, "no job came for five seconds");
            let last = from.settled + came;
            for index in from.settled..last {
                took.saturating_record(now.saturating_sub(sent[index as usize].load(order)));
            }
            from.settle(last);
            from.exchange(2)?;
        }
        sending
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))?
    })?;
    Ok(took)
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
        assert!(end_of_reply(b"-ERR no\r\n", 0).is_err());
    }
}
