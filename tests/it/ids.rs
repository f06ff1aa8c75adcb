//! A job's id is its own for ever: none is given twice, also when Redis lost everything or went back to an older state.

use std::collections::BTreeSet;

use millstream::private_redis::{Options, PrivateRedis};

use crate::support::resp::Value;
use crate::support::verbs::plain;
use crate::support::{Fixture, LATER, PATIENCE};

impl Fixture {
    /// Jobs in every way in which one gets an id.
    async fn ids(&self) -> BTreeSet<String> {
        let mut jobs = vec![plain(); 50];
        jobs.extend(vec![plain().delay(LATER); 50]);
        let enqueued = self.try_enqueue(&jobs).await.unwrap();
        let ids: BTreeSet<_> = enqueued.iter().map(|job| job.id.to_string()).collect();
        assert_eq!(ids.len(), jobs.len());
        ids
    }

    /// Entry ids begin with the time in ms: the next ones are given in a later one.
    fn wait_a_millisecond(&self) {
        let now_ms = self.now_us() / 1000;
        while self.now_us() / 1000 == now_ms {}
    }
}

#[tokio::test]
async fn no_id_is_given_again_after_redis_lost_everything() {
    let redis = PrivateRedis::start(Options::default()).unwrap();
    let t = Fixture::on(&redis).await;
    let mut given = t.ids().await;
    for _ in 0..5 {
        t.redis(&["FLUSHALL"]);
        t.wait_a_millisecond();
        for id in t.ids().await {
            assert!(given.insert(id.clone()), "{id} was given again");
        }
    }
}

#[tokio::test]
async fn no_id_is_given_again_after_redis_went_back_to_an_older_state() {
    let t = Fixture::new().await;
    let mut given = t.ids().await;
    let keys = t.redis(&["KEYS", &t.key("*")]);
    let dump = |key: &Value| (key.bytes().to_vec(), t.redis(&[b"DUMP", key.bytes()]));
    let older: Vec<_> = keys.list().iter().map(dump).collect();
    for _ in 0..5 {
        for id in t.ids().await {
            assert!(given.insert(id.clone()), "{id} was given again");
        }
        for (key, state) in &older {
            t.redis(&[b"RESTORE", &key[..], b"0", state.bytes(), b"REPLACE"]);
        }
        t.wait_a_millisecond();
    }
    // What the older state had runs from there, and what came later is gone.
    assert_eq!(t.claim(100).await.len(), 50);
    assert_eq!(t.broker.stats(PATIENCE).await.unwrap().scheduled, 50);
    t.assert_every_job_has_one_home();
}
