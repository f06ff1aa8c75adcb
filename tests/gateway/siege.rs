//! A gateway on the internet: many attackers at once, and honest senders who must not notice.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::hostile;
use crate::support::http;
use crate::support::program::Program;
use crate::support::senders::{self, BODY};
use crate::support::{Place, eventually};

const MIB: u64 = 1 << 20;

/// A chunked body of `mib` MiB, more than the gateway takes.
async fn flood(program: &Program, mib: usize) {
    let mut connection = program.connect().await;
    connection
        .try_send(b"POST /webhooks/shop HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let chunk = [b"10000\r\n".as_slice(), &[b'a'; 0x10000], b"\r\n"].concat();
    for _ in 0..16 * mib {
        if !connection.try_send(&chunk).await {
            break;
        }
    }
    connection.rest().await;
}

/// Declares a megabyte and sends only a part of it.
async fn lie(program: &Program) {
    let mut connection = program.connect().await;
    let head = "POST /webhooks/shop HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    connection.try_send(head.as_bytes()).await;
    connection.try_send(&[b'a'; 100]).await;
    connection.rest().await;
}

async fn send(program: &Program, bytes: &[u8]) {
    let mut connection = program.connect().await;
    connection.try_send(bytes).await;
    connection.rest().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn two_hundred_attackers_cost_little_memory_and_leave_no_job() {
    let place = Place::new().await;
    let program = Program::start(&place, "", &[], "");
    // In chunks, which takes the whole of an HTTP server, as most attacks do.
    let honest = (0..200).map(async |at| {
        let delivery = senders::shopify(&format!("before-{at}"), BODY);
        let mut connection = program.connect().await;
        let request = http::chunked(&delivery.path(), &delivery.headers, BODY, 100);
        connection.send(&request).await;
        connection.answer().await.stored();
    });
    join_all(honest).await;
    let before = program.memory("VmRSS");

    let headers = "x-a: a\r\n".repeat(10_000);
    let headers = format!("POST /webhooks/shop HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
    let declared = "POST /webhooks/shop HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000000\r\n\r\n";
    let attackers = (0..200).map(async |at| match at % 4 {
        0 => flood(&program, 2).await,
        1 => lie(&program).await,
        2 => send(&program, headers.as_bytes()).await,
        _ => send(&program, declared.as_bytes()).await,
    });
    join_all(attackers).await;

    // The highest that it ever was.
    let grown = program.memory("VmHWM").saturating_sub(before);
    assert!(grown < 16 * MIB, "grown by {} KiB", grown >> 10);
    assert_eq!(place.stats().await.enqueued_total, 200);
}

#[tokio::test]
async fn a_thousand_dribbling_sockets_are_closed_while_honest_senders_are_served() {
    let place = Place::new().await;
    let program = Program::start(&place, "header_timeout = \"2s\"", &[], "");
    let closed = AtomicUsize::new(0);
    let dribbling = (0..1_000).map(async |at| {
        let mut connection = program.connect().await;
        let begun: &[u8] = match at % 2 {
            0 => b"POST /webhooks/shop HTTP/1.1\r\nx-a: ",
            _ => b"POST /webhooks/shop HTTP/1.1\r\nhost: a\r\ncontent-length: 5000\r\n\r\n",
        };
        connection.try_send(begun).await;
        while connection.try_send(b"a").await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        closed.fetch_add(1, Ordering::Relaxed);
    });
    let honest = async {
        let mut served = 0;
        while closed.load(Ordering::Relaxed) < 1_000 {
            let delivery = senders::shopify(&format!("honest-{served}"), BODY);
            program.deliver(&delivery).await.stored();
            served += 1;
        }
        served
    };
    let (_, served) = tokio::time::timeout(
        Duration::from_secs(30),
        futures_util::future::join(join_all(dribbling), honest),
    )
    .await
    .expect("all dribbling sockets are closed");
    assert_eq!(place.stats().await.enqueued_total, served);
}

#[tokio::test]
async fn a_gateway_that_has_no_file_left_goes_on_when_it_has() {
    let place = Place::new().await;
    let program = Program::start(&place, "", &[], "ulimit -n 64; ");
    let delivery = |id: &str| senders::shopify(id, BODY);
    program.deliver(&delivery("before")).await.stored();
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(program.connect().await);
    }
    let troubled = async || {
        program
            .log()
            .iter()
            .any(|line| line.contains("cannot accept"))
    };
    eventually("no file is left", troubled).await;
    drop(waiting);
    program.deliver(&delivery("after")).await.stored();
    let too_few = program.log();
    assert!(
        too_few.iter().any(|line| line.contains("LimitNOFILE")),
        "{too_few:?}"
    );
}

/// How long the siege lasts; `MILLSTREAM_SIEGE_SECONDS` makes it longer.
fn length() -> Duration {
    let seconds = std::env::var("MILLSTREAM_SIEGE_SECONDS");
    Duration::from_secs(seconds.map_or(3, |seconds| seconds.parse().expect("whole seconds")))
}

const HONEST: usize = 16;
const ATTACKERS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_senders_lose_nothing_beside_attackers() {
    let place = Place::new().await;
    let program = Program::start(&place, "header_timeout = \"1s\"", &[], "");
    let over = AtomicBool::new(false);
    let table = hostile::table();

    let honest = (0..HONEST).map(async |sender| {
        let mut connection = program.connect().await;
        let mut ids = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let delivery = senders::shopify(&format!("honest-{sender}-{}", ids.len()), BODY);
            connection.send(&delivery.request()).await;
            ids.push(connection.answer().await.stored());
        }
        ids
    });
    let attackers = (0..ATTACKERS).map(async |attacker| {
        let mut at = attacker;
        while !over.load(Ordering::Relaxed) {
            attack(&program, &table[at % table.len()].1, at).await;
            at += 7;
        }
    });
    let watch = async {
        let began = Instant::now();
        while began.elapsed() < length() {
            for probe in ["/health/live", "/health/ready"] {
                assert_eq!(program.get(probe).await.status, 200, "{probe}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let (ids, _, ()) = futures_util::join!(join_all(honest), join_all(attackers), watch);

    let stored: Vec<(String, bool)> = ids.into_iter().flatten().collect();
    let jobs: HashSet<&str> = stored.iter().map(|(id, _)| id.as_str()).collect();
    assert!(stored.iter().all(|(_, duplicate)| !duplicate));
    assert_eq!(
        jobs.len(),
        stored.len(),
        "an answer of 200 is a job of its own"
    );
    assert_eq!(place.stats().await.enqueued_total, stored.len() as u64);
    assert!(stored.len() > HONEST, "{} stored", stored.len());
}

/// One attack of several kinds, over soon.
async fn attack(program: &Program, bytes: &[u8], kind: usize) {
    let mut connection = program.connect().await;
    match kind % 4 {
        // What the table has, and its answer.
        0 => {
            connection.try_send(bytes).await;
            let _ = tokio::time::timeout(Duration::from_millis(200), connection.rest()).await;
        }
        // Half of it, and gone.
        1 => {
            connection.try_send(&bytes[..bytes.len() / 2]).await;
        }
        // A webhook of the right form that somebody else signed, and gone before the answer.
        2 => {
            let delivery = senders::shopify_by("guessed", "forged", BODY);
            connection.try_send(&delivery.request()).await;
        }
        // Questions whose answers nobody reads.
        _ => {
            connection.try_send(&http::get("/nowhere").repeat(50)).await;
        }
    }
}
