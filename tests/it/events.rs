//! What happened, followed by a program: typed, in order, and with every gap told.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use millstream::Result;
use millstream::inspect::{EventDetail, EventKind, EventView, Followed};
use millstream::private_redis::{Options, Persistence, PrivateRedis};

use crate::support::program::SLACK;
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER};

/// The next that is no error: Redis may be away for a while.
async fn next(events: &mut (impl Stream<Item = Result<Followed>> + Unpin)) -> Followed {
    let next = async {
        loop {
            match events.next().await.expect("it does not end") {
                Ok(followed) => return followed,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(2 * SLACK, next)
        .await
        .expect("an event in time")
}

async fn next_event(events: &mut (impl Stream<Item = Result<Followed>> + Unpin)) -> EventView {
    match next(events).await {
        Followed::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_happens_is_told_with_its_kind_its_job_and_its_detail() {
    let t = Fixture::new().await;
    let events = t.inspector().await.follow_events(None).await.unwrap();
    let mut events = pin!(events.stream());

    let delivery = t.running(plain()).await;
    t.retry(&delivery, LATER, "boom").await.unwrap();
    let event = next_event(&mut events).await;
    assert_eq!(
        (&event.event, event.job.as_ref()),
        (&EventKind::Retried, Some(&delivery.id))
    );
    let next_in_ms = LATER.as_millis() as u64;
    assert_eq!(
        event.parsed(),
        EventDetail::Retry {
            attempt: 1,
            next_in_ms
        }
    );

    let dead = t.dead(plain()).await;
    let event = next_event(&mut events).await;
    let reason = "refused".to_owned();
    assert_eq!(event.parsed(), EventDetail::Died { reason });
    assert_eq!((event.job, event.event), (Some(dead), EventKind::Dead));

    t.redis(&[
        "XADD",
        &t.key("events"),
        "*",
        "event",
        "vanished",
        "job",
        "",
        "detail",
        "into thin air",
    ]);
    let event = next_event(&mut events).await;
    assert_eq!(event.event, EventKind::Other("vanished".into()));
    assert_eq!(event.parsed(), EventDetail::Other("into thin air".into()));
}

#[tokio::test]
async fn a_follower_goes_on_after_lost_connections_and_a_restart_without_a_gap() {
    let redis = PrivateRedis::start(Options {
        persistence: Persistence::AofAlways,
        ..Options::default()
    })
    .unwrap();
    let t = Fixture::on(&redis).await;
    let inspector = t.inspector().await;
    inspector.pause().await.unwrap();
    let events = inspector.follow_events(Some("0-0".into())).await.unwrap();
    let mut events = pin!(events.stream());
    assert_eq!(next_event(&mut events).await.event, EventKind::Paused);

    for _ in 0..3 {
        t.redis(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        inspector.resume().await.unwrap();
        assert_eq!(next_event(&mut events).await.event, EventKind::Resumed);
        inspector.pause().await.unwrap();
        assert_eq!(next_event(&mut events).await.event, EventKind::Paused);
    }
    inspector.resume().await.unwrap();
    redis.kill().unwrap();
    redis.restart().unwrap();
    inspector.pause().await.unwrap();
    assert_eq!(next_event(&mut events).await.event, EventKind::Resumed);
    assert_eq!(next_event(&mut events).await.event, EventKind::Paused);
}

#[tokio::test]
async fn events_that_were_trimmed_before_they_were_shown_are_told_as_a_gap() {
    let t = Fixture::new().await;
    let inspector = t.inspector().await;
    inspector.pause().await.unwrap();
    let events = inspector.follow_events(Some("0-0".into())).await.unwrap();
    let mut events = pin!(events.stream());
    assert_eq!(next_event(&mut events).await.event, EventKind::Paused);

    // All at once, so that the follower sees nothing in between.
    let trim = "for i = 1, 3 do redis.call('XADD', KEYS[1], '*', 'event', 'resumed', 'job', '', 'detail', '') end
        redis.call('XTRIM', KEYS[1], 'MAXLEN', 1)";
    t.redis(&["EVAL", trim, "1", &t.key("events")]);

    assert_eq!(next(&mut events).await, Followed::Gap);
    assert_eq!(next_event(&mut events).await.event, EventKind::Resumed);
}

#[tokio::test]
async fn steps_that_replace_one_another_are_no_gap() {
    let t = Fixture::new().await;
    let inspector = t.inspector().await;
    inspector.pause().await.unwrap();
    t.plant_dead(600, 1_600_000_000_000);
    let events = inspector.follow_events(Some("0-0".into())).await.unwrap();
    let mut events = pin!(events.stream());
    assert_eq!(next_event(&mut events).await.event, EventKind::Paused);

    let dead = inspector
        .list(Some(millstream::job::state::State::Dead), 600)
        .await
        .unwrap();
    let ids: Vec<_> = dead.into_iter().map(|job| job.id).collect();
    let mut jobs = 0;
    for ids in ids.chunks(200) {
        jobs += ids.len() as u64;
        inspector.redrive(ids).await.unwrap();
        loop {
            let event = next_event(&mut events).await;
            assert_eq!(event.event, EventKind::Redriven);
            if matches!(event.parsed(), EventDetail::Bulk { jobs: told, .. } if told == jobs) {
                break;
            }
        }
    }
}
