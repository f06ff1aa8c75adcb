//! What a worker asks every second, hints or no hints.

use millstream::broker::{Gates, Look};
use millstream::{NewJob, Priority};

use crate::support::verbs::plain;
use crate::support::{Fixture, PATIENCE};

#[tokio::test]
async fn a_worker_sees_what_keeps_it_from_reading_and_what_it_would_not_read() {
    let t = Fixture::new().await;
    let nothing = Look::default();
    assert_eq!(t.broker.look(PATIENCE).await.unwrap(), nothing);

    t.suspect(plain()).await;
    let waits = Look {
        suspected: true,
        ..nothing
    };
    assert_eq!(t.broker.look(PATIENCE).await.unwrap(), waits);
    let suspect = t.claim_suspect("worker-c").await.unwrap();
    let runs = t.broker.look(PATIENCE).await.unwrap();
    assert_eq!(runs, nothing, "one that runs is somebody's");
    assert_eq!(t.complete(&[&suspect]).await, []);

    for priority in [Priority::High, Priority::Low] {
        t.enqueue(NewJob::raw("a", "").priority(priority)).await;
        let prioritised = Look {
            prioritised: true,
            ..nothing
        };
        assert_eq!(t.broker.look(PATIENCE).await.unwrap(), prioritised);
        let broker = &t.broker;
        let claimed = broker.claim_by_priority("w", 0, 1, PATIENCE).await.unwrap();
        assert_eq!(t.complete(&[&claimed[0]]).await, []);
    }

    let set = async |name, value: &str| {
        let setting = [(name, value.to_owned())];
        t.broker.limit(None, &setting, PATIENCE).await.unwrap();
        t.broker.look(PATIENCE).await.unwrap()
    };
    for (name, value) in [("concurrency", "3"), ("rate", "5/s")] {
        let limited = Look {
            gates: Gates {
                paused: false,
                limited: true,
            },
            ..nothing
        };
        assert_eq!(set(name, value).await, limited, "{name}");
        assert_eq!(set(name, "").await, nothing, "{name}");
    }

    t.broker.pause(true, PATIENCE).await.unwrap();
    let gates = t.broker.look(PATIENCE).await.unwrap().gates;
    assert!(gates.paused && !gates.limited);
}
