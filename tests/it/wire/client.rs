//! What the engine counts on in the Redis client. Each of these fails when the guard in `src/redis` that it names is gone.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use millstream::broker::{Broker, Caller, Patience};
use millstream::{Context, Error, JobError, Millstream, NewJob};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{sleep, timeout};

use super::{RECOVERED, SLACK, Scene, assert_ambiguous, job, server};
use crate::support::proxy::{Fault, Proxy, Rule};
use crate::support::{Fixture, LATER};

/// One try, no more.
const ONCE: Patience = Patience::brief(Duration::ZERO);
const OOM: Fault = Fault::Refuse("OOM command not allowed when used memory > 'maxmemory'.");

/// The scene's queue, transition by transition, through the proxy.
async fn broker(scene: &Scene) -> Broker {
    let url = scene.proxy.url();
    let broker = Broker::connect(&url, "millstream", &scene.t.queue).await;
    broker.unwrap()
}

/// `max_command_attempts`: by itself the client sends a command again that was cut off, and nobody is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_cut_off_is_not_sent_again_behind_our_back() {
    let scene = Scene::new().await;
    let broker = broker(&scene).await;
    scene.t.enqueue_many(2).await;
    for (name, fault) in [
        ("before", Fault::DropBefore),
        ("after", Fault::DropAfter),
        ("reset", Fault::Reset),
    ] {
        let seen = scene.proxy.seen("claim");
        scene.proxy.arm(Rule::once("claim", fault));

        let claimed = broker.claim("w", 1, ONCE).await;

        assert_ambiguous(&claimed.unwrap_err());
        scene.works_again().await;
        broker.is_paused(Patience::brief(RECOVERED)).await.unwrap();
        assert_eq!(scene.proxy.seen("claim"), seen + 1, "{name}");
    }
}

/// `Fault::Unknown`: what was sent and not answered may be done, whatever is said later of a second try.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_an_answer_counts_as_perhaps_done_though_the_next_try_is_refused() {
    for lost in [
        Fault::DropAfter,
        // The client gives up after two seconds.
        Fault::Delay(Duration::from_millis(2_300)),
    ] {
        let scene = Scene::new().await;
        let broker = broker(&scene).await;
        scene.proxy.arm(Rule::once("enqueue", lost.clone()));
        scene.proxy.arm(Rule::always("enqueue", OOM));

        let patience = Patience::brief(Duration::from_secs(3));
        let mut caller = Caller::new("caller");
        let answer = broker.enqueue(&mut caller, &[job()], patience).await;

        assert_ambiguous(&answer.unwrap_err());
        assert_eq!(scene.t.scan().homes.len(), 1, "{lost:?}: it was done");
    }
}

/// `note_unanswered`: the client's own check never fires while something is being written.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_swallows_everything_is_replaced_under_steady_traffic() {
    let scene = Scene::new().await;
    let traffic = async |queue: &millstream::Queue| {
        loop {
            let _ = queue.enqueue(job()).await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    let inspector = &scene.inspector;
    let replaced = async {
        inspector.stats().await.unwrap();
        scene.proxy.darken();
        let began = Instant::now();
        while inspector.stats().await.is_err() {}
        began.elapsed()
    };
    let waited = tokio::select! {
        waited = replaced => waited,
        _ = join_all((0..4).map(|_| traffic(&scene.queue))) => unreachable!(),
        () = sleep(4 * RECOVERED) => panic!("never replaced"),
    };
    assert!(waited < RECOVERED + SLACK, "{waited:?}");
}

/// `silences`: scripts have a connection of their own, and it is no sign of life of that one when the other answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_swallows_scripts_is_replaced_while_the_other_is_asked_for_its_health() {
    let scene = Scene::new().await;
    scene.queue.enqueue(job()).await.unwrap();
    let swallows = Rule::once("enqueue", Fault::SwallowRequests);
    scene.proxy.arm(swallows);
    let probes = async {
        loop {
            scene.client.check_writable(RECOVERED).await.unwrap();
            sleep(Duration::from_millis(500)).await;
        }
    };
    let replaced = async { while scene.queue.enqueue(job()).await.is_err() {} };
    tokio::select! {
        () = replaced => {}
        () = probes => unreachable!(),
        () = sleep(4 * RECOVERED) => panic!("never replaced"),
    }
}

/// `DIAL_PAUSE_MAX`: as long as a server takes no new connections, those that there are go on, and nobody else stops asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_made_anew_is_tried_a_few_times() {
    let scene = Scene::new().await;
    scene.queue.enqueue(job()).await.unwrap();
    // Only the one that scripts go through.
    scene.proxy.arm(Rule::once("enqueue", Fault::Reset));
    scene.proxy.refuse(true);
    let before = scene.proxy.attempts();

    let callers = (0..8).map(|_| scene.queue.enqueue(job()));
    let _ = timeout(Duration::from_secs(3), join_all(callers)).await;

    let attempts = scene.proxy.attempts() - before;
    assert!(attempts > 0, "nobody tried");
    assert!(attempts <= 10, "{attempts} attempts");
    scene.proxy.refuse(false);
    scene.works_again().await;
}

/// `Silence`: no call of such callers is waited for as long as one that counts, and together they are.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_swallows_the_calls_of_impatient_callers_is_replaced_too() {
    let scene = Scene::new().await;
    let impatient = Millstream::builder(&scene.proxy.url()).enqueue_timeout(Duration::from_secs(1));
    let queue = impatient.connect().await.unwrap();
    let queue = queue.queue(&scene.t.queue).unwrap();
    queue.enqueue(job()).await.unwrap();
    let swallows = Rule::once("enqueue", Fault::SwallowRequests);
    scene.proxy.arm(swallows);

    let began = Instant::now();
    while let Err(error) = queue.enqueue(job()).await {
        let waited = began.elapsed();
        assert!(waited < RECOVERED + SLACK, "{error} after {waited:?}");
    }
}

/// `RENEW_PAUSE`: a server that says it is the wrong one, or not there yet, is looked for anew, and not all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_everything_for_long_is_connected_to_a_few_times() {
    let scene = Scene::new().await;
    let worker = scene.client.worker(&scene.t.queue).unwrap();
    let worker = worker.handle_raw("a", |_| async { Ok::<(), JobError>(()) });
    let worker = worker.start().await.unwrap();
    let loading = Fault::Refuse("LOADING Redis is loading the dataset in memory");
    for command in ["EVALSHA", "XREADGROUP"] {
        scene.proxy.arm(Rule::always(command, loading.clone()));
    }
    let before = scene.proxy.attempts();
    sleep(Duration::from_secs(6)).await;

    let attempts = scene.proxy.attempts() - before;

    assert!((2..=40).contains(&attempts), "{attempts} attempts");
    scene.proxy.heal();
    scene.works_again().await;
    worker.stop().await;
}

/// `Direct::generation`: the client library knows the server, and leads to another one when its connection is made anew.
#[tokio::test(flavor = "multi_thread")]
async fn the_connection_for_scripts_follows_the_one_that_knows_the_server() {
    let scene = Scene::new().await;
    scene.queue.enqueue(job()).await.unwrap();
    let before = scene.proxy.attempts();
    // What asks whether Redis can be written goes over the library's.
    scene.proxy.arm(Rule::once("SET", Fault::Reset));
    let writable = async || scene.client.check_writable(RECOVERED).await;
    writable().await.unwrap_err();
    timeout(RECOVERED + SLACK, async {
        while writable().await.is_err() {}
    })
    .await
    .expect("the library's is there again");

    let both = async {
        while scene.proxy.attempts() - before < 2 {
            scene.queue.enqueue(job()).await.unwrap();
        }
    };
    timeout(RECOVERED + SLACK, both)
        .await
        .expect("the other follows");
}

/// A user who may run everything but what tells of connections.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_ask_for_the_number_of_his_connection_works_all_the_same() {
    let t = Fixture::on(server()).await;
    t.redis(&[
        "ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all", "-client",
    ]);
    let url = server().url().replace("redis://", "redis://worker:secret@");
    let client = Millstream::connect(&url).await.unwrap();
    let queue = client.queue(&t.queue).unwrap();
    let (tell, mut ran) = unbounded_channel();
    let handler = move |_: Context| {
        let _ = tell.send(());
        async { Ok::<(), JobError>(()) }
    };
    let worker = client.worker(&t.queue).unwrap().handle_raw("a", handler);
    let worker = worker.start().await.unwrap();

    queue.enqueue(job()).await.unwrap();

    timeout(RECOVERED + SLACK, ran.recv())
        .await
        .expect("it runs");
    worker.stop().await;
    t.assert_every_job_has_one_home();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_reached_at_its_ipv6_address() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let options = millstream::private_redis::Options {
        tcp: true,
        args: ["--bind", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    let redis = millstream::private_redis::PrivateRedis::start(options).unwrap();
    let url = redis.url().replace("127.0.0.1", "[::1]");
    let client = Millstream::connect(&url).await.unwrap();
    client.queue("q").unwrap().enqueue(job()).await.unwrap();
}

/// The blocked read's owner in `worker/claim.rs`: what a dropped read would bring is pending, unseen, until its lease ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_read_that_is_ended_two_hundred_times_strands_nothing() {
    const TOGGLES: i64 = 200;
    let t = Fixture::new().await;
    let client = Millstream::connect(&t.url).await.unwrap();
    let inspector = client.inspect(&t.queue).unwrap();
    let (tell, mut starts) = unbounded_channel();
    let handler = move |job: Context| {
        let _ = tell.send(job.stalls());
        async { Ok::<(), JobError>(()) }
    };
    let worker = client.worker(&t.queue).unwrap().handle_raw("a", handler);
    let worker = worker.start().await.unwrap();

    for toggle in 0..TOGGLES {
        // Now and then the read has begun, or is about to, when the pause comes; and the job comes before, in between and after.
        if toggle % 3 == 0 {
            t.enqueue(job()).await;
        }
        inspector.pause().await.unwrap();
        if toggle % 3 == 1 {
            t.enqueue(job()).await;
        }
        inspector.resume().await.unwrap();
        if toggle % 3 == 2 {
            t.enqueue(job()).await;
        }
    }

    for start in 0..TOGGLES {
        // Far less than the lease, after which a stranded job would run after all.
        let stalls = timeout(RECOVERED + SLACK, starts.recv()).await;
        let stalls = stalls.unwrap_or_else(|_| panic!("{start} of {TOGGLES} jobs ran"));
        assert_eq!(stalls, Some(0));
    }
    worker.stop().await;
    assert!(starts.recv().await.is_none(), "each job ran once");
    t.assert_every_job_has_one_home();
}

/// Hints are hints: see `upkeep/hints.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hears_no_message_is_as_late_as_its_next_look() {
    // Its looks: 2.5 s for due jobs, 1 s for a pause, a third of the lease and one look for a job that was cancelled.
    const LOOK: Duration = Duration::from_millis(2_500);
    let scene = Scene::new().await;
    let unheard = scene.proxy.arm(Rule::always("message", Fault::Eat));
    let (tell, mut told) = unbounded_channel();
    let handler = move |job: Context| {
        let tell = tell.clone();
        async move {
            let _ = tell.send("started");
            if job.payload() == "hang" {
                job.cancelled().cancelled().await;
                let _ = tell.send("cancelled");
            }
            Ok::<(), JobError>(())
        }
    };
    let worker = scene.client.worker(&scene.t.queue).unwrap();
    let worker = worker
        .lease(Duration::from_secs(3))
        .handle_raw("a", handler);
    let worker = worker.start().await.unwrap();
    let mut told_within = async |what: &str, bound: Duration| {
        let word = timeout(bound + SLACK, told.recv()).await;
        assert_eq!(word.unwrap_or_else(|_| panic!("not {what}")), Some(what));
    };

    // Far later than any look: only the hint of the second one could be heard in time.
    scene.t.enqueue(job().delay(LATER)).await;
    scene
        .t
        .enqueue(job().delay(Duration::from_millis(100)))
        .await;
    told_within("started", LOOK).await;

    let id = scene.t.enqueue(NewJob::raw("a", "hang")).await;
    told_within("started", Duration::ZERO).await;
    scene.inspector.cancel(&id).await.unwrap();
    told_within("cancelled", LOOK).await;

    scene.inspector.pause().await.unwrap();
    sleep(LOOK).await;
    scene.t.enqueue(job()).await;
    sleep(LOOK).await;
    assert_eq!(scene.inspector.stats().await.unwrap().ready, 1, "paused");
    scene.inspector.resume().await.unwrap();
    told_within("started", LOOK).await;

    assert!(
        unheard.count() >= 3,
        "{} messages were sent",
        unheard.count()
    );
    worker.stop().await;
    scene.is_sound().await;
}

/// The reconnect policy in `Address::builder`.
#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_knock_at_a_closed_port_a_few_times_and_are_back_when_it_opens() {
    const CLIENTS: u64 = 200;
    let proxy = Proxy::to(server());
    let url = proxy.url();
    let mut clients = Vec::new();
    while clients.len() < CLIENTS as usize {
        let patient = Millstream::builder(&url).connect_timeout(4 * RECOVERED);
        let some = join_all((0..20).map(|_| patient.clone().connect())).await;
        clients.extend(some.into_iter().map(|client| client.unwrap()));
    }
    let before = proxy.attempts();

    proxy.refuse(true);
    proxy.cut();
    sleep(Duration::from_secs(3)).await;
    let attempts = proxy.attempts() - before;
    proxy.refuse(false);

    // Ten each in the first ten seconds, and they come further and further apart.
    assert!(attempts > 0, "nobody tried");
    assert!(attempts <= 7 * CLIENTS, "{attempts} attempts");
    let back = clients.iter().map(async |client| {
        let check = async || client.check_writable(RECOVERED).await;
        timeout(RECOVERED + SLACK, async { while check().await.is_err() {} }).await
    });
    let back = join_all(back).await;
    assert!(back.iter().all(Result::is_ok), "all are back");
}

/// `user_timeout`, where the system notices that nothing is read; else a new client in the place of the old, as in
/// `redis/link.rs`: one that waits to write does not even hear that it is to connect anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_stuck_in_a_large_write_works_again_by_itself() {
    tokio::join!(large_write(Fault::Stuck), large_write(Fault::Trickle));
}

async fn large_write(fault: Fault) {
    const LARGE: usize = 24 << 20;
    let t = Fixture::on(server()).await;
    let proxy = Proxy::narrow(server());
    let client = Millstream::builder(&proxy.url()).payload_bytes_max(LARGE);
    let client = client.connect().await.unwrap();
    let queue = client.queue(&t.queue).unwrap();
    queue.enqueue(job()).await.unwrap();

    let mut struck = proxy.arm(Rule::once("stats", fault.clone()));
    let inspector = client.inspect(&t.queue).unwrap();
    let unread = tokio::spawn(async move { inspector.stats().await });
    struck.first().await;
    let large = queue.enqueue(NewJob::raw("a", vec![0; LARGE])).await;

    // Whether it is stored depends on how soon the connection is replaced.
    assert!(matches!(large, Err(Error::Ambiguous { .. }) | Ok(_)));
    let began = Instant::now();
    while let Err(error) = queue.enqueue(job()).await {
        let waited = began.elapsed();
        assert!(
            waited < RECOVERED + SLACK,
            "{fault:?}: {error} after {waited:?}"
        );
    }
    drop(unread.await.unwrap());
    t.assert_every_job_has_one_home();
}
