//! Whether this process is alive, and whether it can take and work on jobs: the answers of `/health/live` and `/health/ready`.
//!
//! Readiness asks Redis, but never makes the caller wait for it: one probe is shared by all who ask meanwhile, and its answer is
//! good for a moment, so that probes cannot become a load of their own. When Redis takes its time, the probe goes on by itself, the
//! answer is what the one before found, and the next who asks hears what became of it. The answers say `ok` or one of a few words;
//! what lies behind them, addresses included, is for the log.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use serde::Serialize;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Store;
use crate::error::Error;

/// What Redis gets to answer a probe.
const REDIS_TIMEOUT: Duration = Duration::from_millis(300);
/// A probe that is not back by now is given up, whatever holds it.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);
/// `/health/ready` answers within 100 ms; this leaves 20 ms for the way.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(80);
/// How long an answer is good for.
const FRESH: Duration = Duration::from_millis(250);
/// How old an answer may be that is given while Redis takes its time: as far apart as load balancers ask. A Redis that is far away
/// is not a Redis that is down, and one that is down is known by the next time.
const LAST_WORD: Duration = Duration::from_secs(15);

/// Before the queue's name, in the checks: how the circuit of its pool stands, unless it is closed.
const CIRCUIT: &str = "circuit_";

/// What is wrong with a worker pool, or `None`.
type Problem = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// A worker pool of this process.
pub(crate) struct Pool {
    pub(crate) queue: String,
    pub(crate) problem: Problem,
    /// A word for the circuit of a pool that claims nothing because its target is down.
    pub(crate) circuit: Box<dyn Fn() -> Option<&'static str> + Send + Sync>,
}

/// The state of each part: `ok`, or a word for what is wrong.
type Checks = BTreeMap<String, &'static str>;

/// What one probe found out about Redis.
#[derive(Clone, Copy)]
struct Verdict {
    redis: &'static str,
    at: Instant,
}

/// A probe that is under way or finished, for all who ask.
struct Probe {
    started: Instant,
    verdict: Shared<BoxFuture<'static, Verdict>>,
}

impl Probe {
    /// True when whoever asks now may have this probe's answer. One that its runtime never finished is not worth waiting for.
    fn is_current(&self) -> bool {
        match self.verdict.peek() {
            Some(verdict) => verdict.at.elapsed() <= FRESH,
            None => self.started.elapsed() <= PROBE_TIMEOUT * 2,
        }
    }
}

#[derive(Default)]
struct Probes {
    current: Option<Probe>,
    /// What the probe before found.
    last: Option<Verdict>,
}

/// Answers the probes of one process.
pub(crate) struct Health<S> {
    store: Arc<S>,
    pools: Vec<Pool>,
    probes: Mutex<Probes>,
    stopping: AtomicBool,
    /// What was said last, so that the log has a line when it changes and not one per probe.
    was_ok: AtomicBool,
}

/// `/health/ready`: true means 200, false 503, and the body.
pub(crate) struct Readiness {
    pub(crate) ok: bool,
    pub(crate) body: Bytes,
}

impl<S: Store> Health<S> {
    pub(crate) fn new(store: Arc<S>, pools: Vec<Pool>) -> Self {
        Self {
            store,
            pools,
            probes: Mutex::default(),
            stopping: AtomicBool::new(false),
            was_ok: AtomicBool::new(true),
        }
    }

    /// From now on the process is not ready, whatever Redis says.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Never takes longer than [`ANSWER_TIMEOUT`].
    pub(crate) async fn ready(&self) -> Readiness {
        let (verdict, last) = self.verdict();
        let redis = match timeout(ANSWER_TIMEOUT, verdict).await {
            Ok(verdict) => verdict.redis,
            Err(_) => last
                .filter(|last| last.at.elapsed() <= LAST_WORD)
                .map_or("no answer", |last| last.redis),
        };
        let mut checks = checks(redis, &self.pools);
        if self.stopping.load(Ordering::Acquire) {
            checks.insert("gateway".to_owned(), "stopping");
        }
        // A target that is down is told, and is no reason to send webhooks elsewhere: they are stored until it is back.
        let ok = checks
            .iter()
            .all(|(name, state)| *state == "ok" || name.starts_with(CIRCUIT));
        self.note(ok, &checks);
        #[derive(Serialize)]
        struct Answer<'a> {
            status: &'static str,
            checks: &'a Checks,
        }
        let status = if ok { "ok" } else { "unavailable" };
        let checks = &checks;
        let body = serde_json::to_vec(&Answer { status, checks }).expect("plain strings");
        Readiness {
            ok,
            body: body.into(),
        }
    }

    /// What Redis says, as soon as it says it, and what it said before.
    fn verdict(&self) -> (Shared<BoxFuture<'static, Verdict>>, Option<Verdict>) {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probe) = &probes.current
            && probe.is_current()
        {
            return (probe.verdict.clone(), probes.last);
        }
        let before = probes.current.take();
        probes.last = before.and_then(|probe| probe.verdict.peek().copied());
        let verdict = probe(self.store.clone()).boxed().shared();
        // To the end, also when nobody waits for it so long.
        tokio::spawn(verdict.clone());
        probes.current = Some(Probe {
            started: Instant::now(),
            verdict: verdict.clone(),
        });
        (verdict, probes.last)
    }

    fn note(&self, ok: bool, checks: &Checks) {
        if self.was_ok.swap(ok, Ordering::AcqRel) != ok {
            if ok {
                info!("ready");
            } else {
                warn!(?checks, "not ready");
                // The pools' own words may name an address, so they are for the log alone.
                for pool in self.pools.iter() {
                    if let Some(problem) = (pool.problem)() {
                        warn!(queue = pool.queue, problem, "a worker pool is failing");
                    }
                }
            }
        }
    }
}

async fn probe<S: Store>(store: Arc<S>) -> Verdict {
    let redis = match timeout(PROBE_TIMEOUT, store.check_writable(REDIS_TIMEOUT)).await {
        Ok(Ok(())) => "ok",
        Ok(Err(error)) => word_for(&error),
        Err(_) => "no answer",
    };
    Verdict {
        redis,
        at: Instant::now(),
    }
}

fn checks(redis: &'static str, pools: &[Pool]) -> Checks {
    let mut checks = Checks::from([("redis".to_owned(), redis)]);
    let mut workers = "ok";
    for pool in pools {
        let state = match (pool.problem)() {
            None => "ok",
            Some(_) => {
                workers = "failing";
                "failing"
            }
        };
        // Of two pools on one queue the one that fails is the news.
        let entry = checks.entry(format!("worker_{}", pool.queue));
        let entry = entry.or_insert(state);
        if *entry == "ok" {
            *entry = state;
        }
        if let Some(word) = (pool.circuit)() {
            checks.insert(format!("{CIRCUIT}{}", pool.queue), word);
        }
    }
    checks.insert("workers".to_owned(), workers);
    checks
}

fn word_for(error: &Error) -> &'static str {
    match error {
        Error::Ambiguous { .. } | Error::Backpressure { .. } => "no answer",
        Error::Refused { .. } => "refuses writes",
        Error::Unreachable { .. } => "unreachable",
        Error::Unfit { .. } => "unfit",
        Error::Stopped { .. } => "stopped",
        _ => "failing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::stand_in::StandIn;
    use serde_json::{Value, json};

    fn pool(queue: &str, problem: Option<&str>) -> Pool {
        let problem = problem.map(str::to_owned);
        Pool {
            queue: queue.to_owned(),
            problem: Box::new(move || problem.clone()),
            circuit: Box::new(|| None),
        }
    }

    async fn ask(health: &Health<StandIn>) -> (bool, Value) {
        let readiness = health.ready().await;
        (
            readiness.ok,
            serde_json::from_slice(&readiness.body).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_process_without_workers_is_ready_when_redis_is() {
        let health = Health::new(Arc::new(StandIn::default()), vec![]);
        let checks = json!({"redis": "ok", "workers": "ok"});
        assert_eq!(
            ask(&health).await,
            (true, json!({"status": "ok", "checks": checks}))
        );
    }

    #[tokio::test]
    async fn one_failing_pool_makes_the_process_unready_without_saying_why_in_public() {
        let pools = vec![
            pool("a", Some("redis at 10.0.0.1:6379 is gone")),
            pool("a", None),
            pool("b", None),
        ];
        let health = Health::new(Arc::new(StandIn::default()), pools);
        let checks =
            json!({"redis": "ok", "workers": "failing", "worker_a": "failing", "worker_b": "ok"});
        assert_eq!(
            ask(&health).await,
            (false, json!({"status": "unavailable", "checks": checks}))
        );
    }

    #[tokio::test]
    async fn a_target_that_is_down_is_told_and_leaves_the_process_ready() {
        let down = Pool {
            circuit: Box::new(|| Some("open")),
            ..pool("a", None)
        };
        let health = Health::new(Arc::new(StandIn::default()), vec![down, pool("b", None)]);
        let checks = json!({"redis": "ok", "workers": "ok", "worker_a": "ok", "worker_b": "ok", "circuit_a": "open"});
        assert_eq!(
            ask(&health).await,
            (true, json!({"status": "ok", "checks": checks}))
        );
    }

    #[tokio::test]
    async fn a_failing_redis_is_named_by_a_word() {
        for (error, word) in [
            (StandIn::ambiguous as fn() -> Error, "no answer"),
            (StandIn::refused, "refuses writes"),
            (StandIn::unreachable, "unreachable"),
        ] {
            let health = Health::new(Arc::new(StandIn::failing(error)), vec![]);
            let (ok, answer) = ask(&health).await;
            assert!(!ok);
            assert_eq!(answer["checks"]["redis"], word);
        }
    }

    /// Makes what the last probe found older.
    fn age(health: &Health<StandIn>, by: Duration) {
        let mut probes = health.probes.lock().unwrap();
        let probe = probes.current.as_mut().unwrap();
        let mut verdict = *probe.verdict.peek().unwrap();
        verdict.at -= by;
        let aged = futures_util::future::ready(verdict).boxed().shared();
        assert!(aged.clone().now_or_never().is_some());
        probe.verdict = aged;
    }

    #[tokio::test]
    async fn a_hanging_redis_is_not_waited_for_and_found_out_by_the_next_who_asks() {
        let store = Arc::new(StandIn::default());
        let health = Health::new(store.clone(), vec![]);
        assert!(ask(&health).await.0);

        store.hang();
        age(&health, FRESH * 2);
        // The last word counts while the probe is under way, and then the probe's.
        assert!(ask(&health).await.0);
        let (under_way, _) = health.verdict();
        under_way.await;
        let (ok, answer) = ask(&health).await;
        assert!(!ok);
        assert_eq!(answer["checks"]["redis"], "no answer");
    }

    #[tokio::test]
    async fn a_word_of_long_ago_does_not_count_while_redis_hangs() {
        let store = Arc::new(StandIn::default());
        let health = Health::new(store.clone(), vec![]);
        assert!(ask(&health).await.0);
        store.hang();
        age(&health, LAST_WORD * 2);
        let (ok, answer) = ask(&health).await;
        assert!(!ok);
        assert_eq!(answer["checks"]["redis"], "no answer");
    }

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_probe() {
        let store = Arc::new(StandIn::default());
        let health = Health::new(store.clone(), vec![]);
        let answers = futures_util::future::join_all((0..50).map(|_| health.ready())).await;
        assert!(answers.iter().all(|answer| answer.ok));
        assert_eq!(store.probes(), 1);
    }

    #[tokio::test]
    async fn a_stopping_process_is_not_ready() {
        let health = Health::new(Arc::new(StandIn::default()), vec![]);
        assert!(health.ready().await.ok);
        health.stop();
        let (ok, answer) = ask(&health).await;
        assert!(!ok);
        assert_eq!(answer["checks"]["gateway"], "stopping");
        assert_eq!(answer["checks"]["redis"], "ok");
    }
}
