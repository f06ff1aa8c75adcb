//! The scenarios, done by a bare client of the same library: as few commands as the work needs, in batches of 100, with none
//! of the engine's promises.

use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::{ClientLike as _, LuaInterface as _, StreamsInterface as _};
use fred::types::Value;
use futures_util::future::try_join_all;

use super::Scenario;
use super::arena::{Arena, BULK, BULK_CALLERS, parts};
use super::latency::{Times, open_loop};
use super::report::Cost;

const GROUP: &str = "workers";
/// Jobs in one call.
const BATCH: u64 = 100;
/// How long a read that waits for a job waits at most, ms.
const BLOCK_MS: u64 = 500;

pub(super) const ONE: &str = "return redis.call('XADD', KEYS[1], '*', 'name', ARGV[1], 'payload', ARGV[2], 'attempt', '1', 'meta', '')";
const MANY: &str = "local ids = {}
for i = 1, #ARGV, 2 do
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', 'name', ARGV[i], 'payload', ARGV[i + 1], 'attempt', '1', 'meta', '')
end
return table.concat(ids, ' ')";

pub(super) async fn throughput(arena: &Arena, scenario: Scenario) -> anyhow::Result<Cost> {
    let stream = arena.new_stream().await?;
    let bare = &arena.bare;
    let (jobs, depth) = (arena.load.jobs, arena.load.depth);
    let one: String = bare.script_load(ONE).await?;
    let many: String = bare.script_load(MANY).await?;
    fill(arena, &stream, &many, 0..depth).await?;
    let _: Value = bare.xgroup_create(&*stream, GROUP, "0", true).await?;
    match scenario {
        Scenario::Bulk => {
            Cost::of(
                arena,
                jobs,
                fill(arena, &stream, &many, depth..depth + jobs),
            )
            .await
        }
        Scenario::Drain => {
            fill(arena, &stream, &many, depth..depth + jobs).await?;
            let reader = arena.another().await?;
            let cost = Cost::of(arena, jobs, drain(arena, &reader, &stream)).await;
            let _ = reader.quit().await;
            cost
        }
        Scenario::Both => {
            let reader = arena.another().await?;
            let fill = fill(arena, &stream, &many, depth..depth + jobs);
            let both = async { tokio::try_join!(fill, drain(arena, &reader, &stream)).map(drop) };
            let cost = Cost::of(arena, jobs, both).await;
            let _ = reader.quit().await;
            cost
        }
        _ => Cost::of(arena, jobs, one_by_one(arena, &stream, &one)).await,
    }
}

async fn one_by_one(arena: &Arena, stream: &str, sha: &str) -> anyhow::Result<()> {
    let (jobs, producers) = (arena.load.jobs, arena.load.producers);
    let payload_bytes = arena.load.payload_bytes;
    let callers = (0..producers).map(|caller| {
        let (bare, stream, sha) = (arena.bare.clone(), stream.to_owned(), sha.to_owned());
        tokio::spawn(async move {
            for index in (caller..jobs).step_by(producers as usize) {
                let args = arguments(payload_bytes, index).to_vec();
                let _: String = bare.evalsha(sha.as_str(), stream.as_str(), args).await?;
            }
            anyhow::Ok(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    Ok(())
}

/// Adds the jobs with these numbers, 100 a call, ten calls at once by each of [`BULK_CALLERS`].
async fn fill(
    arena: &Arena,
    stream: &str,
    sha: &str,
    jobs: std::ops::Range<u64>,
) -> anyhow::Result<()> {
    let payload_bytes = arena.load.payload_bytes;
    let callers = parts(jobs, BULK_CALLERS).map(|part| {
        let (bare, stream, sha) = (arena.bare.clone(), stream.to_owned(), sha.to_owned());
        tokio::spawn(async move {
            for from in part.clone().step_by(BULK as usize) {
                let chunk = from..part.end.min(from + BULK);
                let calls = chunk.clone().step_by(BATCH as usize).map(|from| {
                    let jobs = from..chunk.end.min(from + BATCH);
                    let args: Vec<Value> = jobs
                        .flat_map(|index| arguments(payload_bytes, index))
                        .collect();
                    bare.evalsha::<String, _, _, _>(&*sha, &*stream, args)
                });
                try_join_all(calls).await?;
            }
            anyhow::Ok(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await??;
    }
    Ok(())
}

fn arguments(payload_bytes: usize, index: u64) -> [Value; 2] {
    let payload = Arena::payload_of(payload_bytes, index);
    [Value::from("noop"), Value::Bytes(payload.into())]
}

/// Reads 100 and settles them while the next are read, until as many as there are jobs are settled.
async fn drain(arena: &Arena, reader: &Client, stream: &str) -> anyhow::Result<()> {
    let settle = async |ids: Vec<String>| -> anyhow::Result<u64> {
        let (acked, deleted): (u64, u64) = tokio::try_join!(
            arena.bare.xack(stream, GROUP, ids.clone()),
            arena.bare.xdel(stream, ids),
        )?;
        anyhow::ensure!(acked == deleted, "{acked} acknowledged, {deleted} deleted");
        Ok(acked)
    };
    let mut settled = 0;
    let mut ids = read(reader, stream).await?;
    while settled + (ids.len() as u64) < arena.load.jobs {
        let (next, done) = tokio::try_join!(read(reader, stream), settle(ids))?;
        settled += done;
        ids = next;
    }
    settle(ids).await?;
    Ok(())
}

/// The ids of up to 100 new entries, waiting for the first; their fields are read as well.
async fn read(reader: &Client, stream: &str) -> anyhow::Result<Vec<String>> {
    type Entries = Vec<(String, Vec<(String, bytes::Bytes)>)>;
    let reply: Option<Vec<(String, Entries)>> = reader
        .xreadgroup(
            GROUP,
            "bare",
            Some(BATCH),
            Some(BLOCK_MS),
            false,
            stream,
            ">",
        )
        .await?;
    let entries = reply.into_iter().flatten().flat_map(|(_, entries)| entries);
    Ok(entries.map(|(id, _)| id).collect())
}

async fn add(bare: &Client, stream: &str, payload: Vec<u8>) -> anyhow::Result<()> {
    let fields = vec![
        ("name", Value::from("noop")),
        ("payload", Value::Bytes(payload.into())),
        ("attempt", Value::from("1")),
        ("meta", Value::from("")),
    ];
    let _: String = bare.xadd(stream, false, None::<()>, "*", fields).await?;
    Ok(())
}

/// How long each of `count` XADDs of a lone caller took, ns.
pub(super) async fn calls(arena: &Arena, count: usize) -> anyhow::Result<Vec<i64>> {
    let stream = arena.new_stream().await?;
    let mut took = Vec::with_capacity(count);
    for index in 0..count {
        let payload = arena.payload(index as u64);
        let called = Instant::now();
        add(&arena.bare, &stream, payload).await?;
        took.push(i64::try_from(called.elapsed().as_nanos())?);
    }
    Ok(took)
}

/// How long after its XADD each job was in the answer of a blocked read, ns.
pub(super) async fn starts(arena: &Arena, rate: u32, jobs: usize) -> anyhow::Result<Vec<i64>> {
    let stream = arena.new_stream().await?;
    let _: Value = arena.bare.xgroup_create(&*stream, GROUP, "0", true).await?;
    let reader = arena.another().await?;
    let times = Times::new(jobs);
    let reading = tokio::spawn({
        let (reader, stream, times) = (reader.clone(), stream.clone(), times.clone());
        async move {
            type Entries = Vec<(String, Vec<(String, bytes::Bytes)>)>;
            loop {
                let reply: Result<Option<Vec<(String, Entries)>>, _> = reader
                    .xreadgroup(
                        GROUP,
                        "bare",
                        Some(BATCH),
                        Some(BLOCK_MS),
                        false,
                        &*stream,
                        ">",
                    )
                    .await;
                let Ok(reply) = reply else { break };
                let entries = reply.into_iter().flatten().flat_map(|(_, entries)| entries);
                for (_, fields) in entries {
                    let payload = fields.iter().find(|(name, _)| name == "payload");
                    payload.inspect(|(_, payload)| times.arrive(payload));
                }
            }
        }
    });
    let (bare, sends) = (arena.bare.clone(), times.clone());
    let payload_bytes = arena.load.payload_bytes;
    let send = move |index: usize| {
        let (bare, stream, times) = (bare.clone(), stream.clone(), sends.clone());
        async move {
            let payload = Arena::payload_of(payload_bytes, index as u64);
            times.send(index);
            add(&bare, &stream, payload).await
        }
    };
    open_loop(rate, jobs, send).await?;
    let took = times.all(Duration::ZERO).await;
    reading.abort();
    let _ = reader.quit().await;
    took
}
