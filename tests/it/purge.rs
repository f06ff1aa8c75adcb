//! dead -> gone, because an operator says so

use millstream::broker::Caller;

use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

#[tokio::test]
async fn a_purged_job_is_gone_with_all_it_had() {
    let t = Fixture::new().await;
    let id = t.dead(plain().unique("k")).await;

    assert_eq!(
        t.broker
            .purge(&mut t.caller(), std::slice::from_ref(&id), PATIENCE)
            .await
            .unwrap(),
        1
    );

    assert!(t.scan().homes.is_empty());
    assert_eq!((t.record_of(&id), t.counter("purged")), (None, 1));
    assert_eq!(
        t.events().last(),
        Some(&("purged".to_owned(), id.to_string()))
    );
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn what_is_not_dead_is_never_purged() {
    let t = Fixture::new().await;
    let running = t.running(plain()).await;
    let back = t.running(plain()).await;
    t.release(&back).await;
    let ids = [
        running.id.clone(),
        back.id.clone(),
        t.enqueue(plain()).await,
        t.enqueue(plain().delay(LATER)).await,
        "no such job".into(),
    ];
    let before = t.state_hash();

    assert_eq!(
        t.broker
            .purge(&mut t.caller(), &ids, PATIENCE)
            .await
            .unwrap(),
        0
    );

    assert_eq!(t.state_hash(), before);
    t.assert_every_job_has_one_home();
}

#[tokio::test]
async fn a_redriven_job_cannot_be_purged_any_more() {
    let t = Fixture::new().await;
    let id = t.dead(plain()).await;
    t.broker
        .redrive(&mut t.caller(), std::slice::from_ref(&id), PATIENCE)
        .await
        .unwrap();

    assert_eq!(
        t.broker
            .purge(&mut t.caller(), std::slice::from_ref(&id), PATIENCE)
            .await
            .unwrap(),
        0
    );

    assert_eq!(t.claim_one().await.id, id);
}

#[tokio::test]
async fn a_purge_sent_again_acts_once_and_answers_the_same() {
    let t = Fixture::new().await;
    let ids = [t.dead(plain()).await, t.dead(plain()).await];
    let (mut first, mut again) = (Caller::new("o"), Caller::new("o"));

    assert_eq!(t.broker.purge(&mut first, &ids, PATIENCE).await.unwrap(), 2);
    let after = t.state_hash();
    assert_eq!(t.broker.purge(&mut again, &ids, PATIENCE).await.unwrap(), 2);

    assert_eq!(t.state_hash(), after);
}
