//! A Redis Cluster: queues on each of its nodes, a slot that moves to another node, and a node that dies while others live.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use millstream::private_redis::{Options, PrivateRedis};
use millstream::schedule::Schedule;
use millstream::{Context, JobError, Millstream, NewJob, Queue};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::program::{QUICK, SLACK, next};
use crate::support::resp::{Connection, Value};

const SLOTS: u16 = 16_384;

/// Primaries that share all slots, then what is added to them.
struct Cluster(Vec<PrivateRedis>);

impl Cluster {
    async fn of(primaries: u16) -> Self {
        let cluster = Self((0..primaries).map(|_| Self::node()).collect());
        for (number, node) in (0..).zip(&cluster.0) {
            let share =
                |nth: u16| (u32::from(SLOTS) * u32::from(nth) / u32::from(primaries)).to_string();
            let last = (share(number + 1).parse::<u32>().unwrap() - 1).to_string();
            said(node, &["CLUSTER", "ADDSLOTSRANGE", &share(number), &last]);
        }
        for node in &cluster.0[1..] {
            cluster.meet(node);
        }
        cluster.until_all_agree().await;
        cluster
    }

    fn node() -> PrivateRedis {
        // The bus wants to be told its port, free a moment ago.
        let bus = || {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port().to_string()
        };
        let start = |bus: String| {
            let args = [
                "--cluster-enabled",
                "yes",
                "--cluster-node-timeout",
                "1000",
                "--cluster-require-full-coverage",
                "no",
                "--cluster-port",
                &bus,
            ];
            PrivateRedis::start(Options {
                tcp: true,
                args: args.map(str::to_owned).into(),
                ..Options::default()
            })
        };
        let mut tries = (0..5).map(|_| start(bus()));
        tries.find_map(Result::ok).expect("a port for the bus")
    }

    fn meet(&self, other: &PrivateRedis) {
        let bus = said(other, &["CONFIG", "GET", "cluster-port"]).list()[1]
            .text()
            .to_owned();
        let port = other.port().unwrap().to_string();
        said(&self.0[0], &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
    }

    async fn until_all_agree(&self) {
        let known = format!("cluster_known_nodes:{}", self.0.len());
        until("the cluster is whole", || {
            self.0.iter().all(|node| {
                let info = said(node, &["CLUSTER", "INFO"]);
                info.text().contains("cluster_state:ok") && info.text().contains(&known)
            })
        })
        .await;
    }

    fn url(&self) -> String {
        format!("redis-cluster://127.0.0.1:{}", self.0[0].port().unwrap())
    }

    /// The primary that holds the queue's keys.
    fn home_of(&self, queue: &str) -> usize {
        let slot = self.slot_of(queue).parse::<u32>().unwrap();
        let primaries = self.0.len() as u32;
        (0..primaries)
            .rfind(|nth| u32::from(SLOTS) * nth / primaries <= slot)
            .unwrap() as usize
    }

    fn slot_of(&self, queue: &str) -> String {
        let slot = said(&self.0[0], &["CLUSTER", "KEYSLOT", queue]);
        slot.int().to_string()
    }

    /// A queue for each node, by its place.
    fn queues(&self) -> Vec<String> {
        let named = |home| {
            let mut names = (0..).map(|nth| format!("queue-{nth}"));
            names.find(|name| self.home_of(name) == home).unwrap()
        };
        (0..self.0.len()).map(named).collect()
    }
}

fn said(node: &PrivateRedis, command: &[&str]) -> Value {
    let answer = Connection::open(&node.socket()).send(command);
    answer.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn id_of(node: &PrivateRedis) -> String {
    said(node, &["CLUSTER", "MYID"]).text().to_owned()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let shown = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let shown = timeout(SLACK, shown).await;
    shown.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Tells the ids of the jobs that it was called for. Those called `twice` fail at first, those called `never` always.
fn telling(
    tell: &UnboundedSender<String>,
) -> impl Fn(Context) -> std::future::Ready<Result<(), JobError>> + use<> {
    let tell = tell.clone();
    move |job| {
        let fails = match job.name() {
            "twice" => job.attempt() == 1,
            name => name == "never",
        };
        let _ = tell.send(job.id().to_string());
        std::future::ready(if fails {
            Err(JobError::failed("not yet"))
        } else {
            Ok(())
        })
    }
}

async fn heard(hear: &mut UnboundedReceiver<String>, calls: usize) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for _ in 0..calls {
        ids.insert(next(hear).await);
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_on_each_node_go_through_every_state_and_are_found_from_anywhere() {
    let cluster = Cluster::of(3).await;
    let client = Millstream::connect(&cluster.url()).await.unwrap();
    let queues = cluster.queues();
    for name in &queues {
        let queue = client.queue(name).unwrap();
        let (tell, mut hear) = unbounded_channel();
        let later = NewJob::raw("once", "later").delay(Duration::from_millis(50));
        let first = queue
            .enqueue(NewJob::raw("once", "").unique("k"))
            .await
            .unwrap();
        let again = queue
            .enqueue(NewJob::raw("once", "").unique("k"))
            .await
            .unwrap();
        assert_eq!((again.duplicate, again.id), (true, first.id));
        let grouped = (0..4)
            .map(|_| NewJob::raw("once", "").group("shop"))
            .collect::<Vec<_>>();
        queue.enqueue_all(grouped).await.unwrap();
        for job in [
            later,
            NewJob::raw("twice", ""),
            NewJob::raw("never", "").max_attempts(1),
        ] {
            queue.enqueue(job).await.unwrap();
        }
        let tick = Schedule::every(Duration::from_secs(3600), NewJob::raw("once", "tick"));
        let schedules = client.schedules(name).unwrap();
        schedules.set("tick", tick).await.unwrap();
        let worker = client.worker(name).unwrap();
        let worker = worker
            .group_concurrency(1)
            .backoff(QUICK)
            .handle_raw("once", telling(&tell))
            .handle_raw("twice", telling(&tell))
            .handle_raw("never", telling(&tell));
        let worker = worker.start().await.unwrap();

        assert_eq!(heard(&mut hear, 9).await.len(), 8, "one was tried again");

        let inspector = client.inspect(name).unwrap();
        let dead = async {
            loop {
                let stats = inspector.stats().await.unwrap();
                if (stats.completed_total, stats.dead) == (7, 1) {
                    return inspector.list(None, 10).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let dead = timeout(SLACK, dead).await.expect("all are settled");
        assert_eq!(inspector.redrive(&[dead[0].id.clone()]).await.unwrap(), 1);
        assert_eq!(next(&mut hear).await, dead[0].id.to_string());
        worker.stop().await;
        schedules.remove("tick").await.unwrap();
    }
    let mut sorted = queues.clone();
    sorted.sort();
    assert_eq!(client.queues().await.unwrap(), sorted);
    let found = client.doctor().run(|_, _| {}).await.unwrap();
    assert_eq!(found.queues, sorted);
    assert!(found.is_clean(), "{:?}", found.findings);
    for node in &cluster.0 {
        let name = format!("127.0.0.1:{}: ", node.port().unwrap());
        assert!(
            found
                .findings
                .iter()
                .any(|finding| finding.what.starts_with(&name)),
            "{name}"
        );
    }
}

/// From now on the keys of the slot may be on either node.
fn begin_move(slot: &str, from: &PrivateRedis, to: &PrivateRedis) {
    for (node, state, other) in [(to, "IMPORTING", from), (from, "MIGRATING", to)] {
        said(node, &["CLUSTER", "SETSLOT", slot, state, &id_of(other)]);
    }
}

fn end_move(slot: &str, from: &PrivateRedis, to: &PrivateRedis) {
    for node in [to, from] {
        said(node, &["CLUSTER", "SETSLOT", slot, "NODE", &id_of(to)]);
    }
}

/// Enqueues one job after the other until told to stop, and gives the ids back.
fn producing(queue: Queue, stop: CancellationToken) -> JoinHandle<BTreeSet<String>> {
    tokio::spawn(async move {
        let mut ids = BTreeSet::new();
        while !stop.is_cancelled() {
            let enqueued = queue.enqueue(NewJob::raw("once", "")).await.unwrap();
            assert!(ids.insert(enqueued.id.to_string()), "an id came twice");
        }
        ids
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_takes_its_queue_along_while_jobs_come_and_go() {
    let cluster = Cluster::of(2).await;
    let client = Millstream::connect(&cluster.url()).await.unwrap();
    let name = &cluster.queues()[0];
    let queue = client.queue(name).unwrap();
    let (tell, mut hear) = unbounded_channel();
    let worker = client.worker(name).unwrap();
    let worker = worker.handle_raw("once", telling(&tell));
    let worker = worker.start().await.unwrap();
    let stop = CancellationToken::new();
    let produced = producing(queue, stop.clone());
    let mut ran = heard(&mut hear, 100).await;

    let (from, to) = (&cluster.0[0], &cluster.0[1]);
    let slot = cluster.slot_of(name);
    begin_move(&slot, from, to);
    let port = to.port().unwrap().to_string();
    loop {
        let keys = said(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
        if keys.list().is_empty() {
            break;
        }
        for key in keys.list() {
            // One by one, so that half of them are here and half there for a while.
            said(
                from,
                &["MIGRATE", "127.0.0.1", &port, key.text(), "0", "5000"],
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    end_move(&slot, from, to);

    ran.extend(heard(&mut hear, 1).await);
    let keys = |node| said(node, &["CLUSTER", "COUNTKEYSINSLOT", &slot]).int();
    assert_eq!(keys(from), 0);
    assert!(keys(to) > 0);
    stop.cancel();
    let produced = produced.await.unwrap();
    while !ran.is_superset(&produced) {
        ran.insert(next(&mut hear).await);
    }
    worker.stop().await;
    let stats = client.inspect(name).unwrap().stats().await.unwrap();
    assert_eq!(stats.completed_total, produced.len() as u64);
    assert_eq!((stats.ready, stats.running), (0, 0));
}

/// A node that no longer has the keys of a slot on the move sends a command on to the other one, which the client library does not
/// survive where it must not send a command twice.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_sent_on_while_a_slot_moved_is_served_as_soon_as_it_is_there() {
    let cluster = Cluster::of(2).await;
    let client = Millstream::connect(&cluster.url()).await.unwrap();
    let name = &cluster.queues()[0];
    let queue = client.queue(name).unwrap();
    let (from, to) = (&cluster.0[0], &cluster.0[1]);
    let slot = cluster.slot_of(name);
    begin_move(&slot, from, to);
    let enqueued = tokio::spawn(async move { queue.enqueue(NewJob::raw("once", "")).await });
    until("it was sent on", || {
        let stats = said(from, &["INFO", "errorstats"]);
        stats.text().contains("errorstat_ASK")
    })
    .await;

    end_move(&slot, from, to);

    // It is made before its own time is up, for no answer is waited for that cannot come: the connection is known to be gone.
    enqueued.await.unwrap().unwrap();
    assert!(said(to, &["CLUSTER", "COUNTKEYSINSLOT", &slot]).int() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_node_died_all_queues_go_on_when_its_replica_has_taken_over() {
    let mut cluster = Cluster::of(3).await;
    let queues = cluster.queues();
    let replica = Cluster::node();
    cluster.meet(&replica);
    cluster.0.push(replica);
    cluster.until_all_agree().await;
    let replica = &cluster.0[3];
    said(replica, &["CLUSTER", "REPLICATE", &id_of(&cluster.0[2])]);
    until("the replica is in step", || {
        let info = said(replica, &["INFO", "replication"]);
        info.text().contains("master_link_status:up")
    })
    .await;
    let client = Millstream::connect(&cluster.url()).await.unwrap();
    let (tell, mut hear) = unbounded_channel();
    let mut workers = Vec::new();
    for name in &queues {
        let worker = client.worker(name).unwrap();
        let worker = worker.handle_raw("once", telling(&tell));
        workers.push(worker.start().await.unwrap());
    }
    let enqueue = |nth: usize| {
        let queue = client.queue(&queues[nth]).unwrap();
        async move { queue.enqueue(NewJob::raw("once", "")).await }
    };

    cluster.0[2].kill().unwrap();

    for nth in [2, 1, 0] {
        let stored = async {
            loop {
                if let Ok(enqueued) = enqueue(nth).await {
                    return enqueued.id.to_string();
                }
            }
        };
        let stored = timeout(SLACK, stored).await.expect("its turn comes");
        // An enqueue that was given up may have been carried out.
        while next(&mut hear).await != stored {}
    }
    for worker in workers {
        worker.stop().await;
    }
}
