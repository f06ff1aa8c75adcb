//! ready -> running

use millstream::NewJob;
use millstream::broker::Lane;
use millstream::job::state::State;

use crate::support::Fixture;
use crate::support::verbs::plain;

#[tokio::test]
async fn a_claimed_job_is_running_and_nobody_else_gets_it() {
    let t = Fixture::new().await;
    let id = t.enqueue(plain()).await;

    let claimed = t.claim_as("worker-a", 10).await;

    assert_eq!(claimed.len(), 1);
    assert_eq!(t.claim_as("worker-b", 10).await.len(), 0);
    let home = t.home_of(&id).unwrap();
    assert_eq!(
        (home.state, home.consumer.as_deref()),
        (State::Running, Some("worker-a"))
    );
    t.assert_every_job_has_one_home();
    t.assert_stats_agree().await;
}

#[tokio::test]
async fn a_claim_takes_no_more_than_its_limit_over_all_lanes_and_next_comes_first() {
    let t = Fixture::new().await;
    t.enqueue_many(8).await;
    for delivery in t.claim(3).await {
        t.release(&delivery).await;
    }

    let claimed = t.claim(4).await;

    let lanes: Vec<_> = claimed.iter().map(|delivery| delivery.lane).collect();
    assert_eq!(lanes, [Lane::Next, Lane::Next, Lane::Next, Lane::Ready]);
    assert_eq!(t.claim(100).await.len(), 4);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn jobs_that_came_before_the_first_worker_are_claimed() {
    let t = Fixture::new().await;
    t.redis(&["XGROUP", "DESTROY", &t.key("ready"), "workers"]);
    t.enqueue_many(3).await;

    t.broker
        .create_groups(crate::support::PATIENCE)
        .await
        .unwrap();

    assert_eq!(t.claim(10).await.len(), 3);
}

#[tokio::test]
async fn fifty_claimers_at_once_get_every_job_once() {
    let t = Fixture::new().await;
    let mut ids = t.enqueue_many(1000).await;

    let claims = (0..50).map(|n| {
        let broker = t.broker.clone();
        tokio::spawn(async move {
            let patience = crate::support::PATIENCE;
            broker
                .claim(&format!("worker-{n}"), 20, patience)
                .await
                .unwrap()
        })
    });
    let mut claimed = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        claimed.extend(claim.await.unwrap().into_iter().map(|delivery| delivery.id));
    }

    claimed.sort();
    ids.sort();
    assert_eq!(claimed, ids);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn an_entry_that_we_did_not_write_is_claimed_as_foreign() {
    let t = Fixture::new().await;
    for fields in crate::support::verbs::FOREIGN {
        let id = t.add_by_hand(fields);
        let delivery = t.claim_one().await;
        assert!(delivery.foreign, "{fields:?} passed for one of ours");
        assert_eq!(delivery.id, id);
    }
    let ours = t.running(NewJob::raw("a", "b")).await;
    assert!(!ours.foreign);
}
