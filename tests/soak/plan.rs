//! What a soak is made of: the numbers, and which fault strikes when. The plan is a function of the seed and the length.

use std::time::Duration;

use crate::random::Random;

pub(crate) const QUEUE: &str = "soak";
pub(crate) const WORKERS: usize = 3;
pub(crate) const PRODUCERS: usize = 2;
/// Processes; the first are workers.
pub(crate) const PROCESSES: usize = WORKERS + PRODUCERS;

pub(crate) const LEASE: Duration = Duration::from_secs(3);
pub(crate) const SWEEP: Duration = Duration::from_secs(1);
pub(crate) const CONCURRENCY: usize = 16;
pub(crate) const PREFETCH: usize = 8;
/// How long a stopping worker lets its jobs run on.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// Enqueue calls a second of one producer. A call now and then carries many jobs.
pub(crate) const CALLS_PER_SECOND: u32 = if cfg!(debug_assertions) { 200 } else { 400 };

/// Mean time between two faults.
const BETWEEN_FAULTS: Duration = Duration::from_millis(900);
/// Load without faults, first and last, so that the start and the recovery are seen.
const CALM: Duration = Duration::from_secs(3);
/// A target is left alone for so long after a fault.
const REST: Duration = Duration::from_millis(700);

/// What befalls the processes, the connections or Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// SIGKILL; another one starts after the given time.
    KillWorker,
    /// SIGSTOP, and SIGCONT after the given time.
    FreezeWorker,
    /// SIGTERM, and another one.
    RollWorker,
    KillProducer,
    /// `CLIENT KILL TYPE normal`.
    KillClients,
    /// `SCRIPT FLUSH`.
    FlushScripts,
    /// `CLIENT PAUSE … ALL`.
    PauseAll,
    /// `CLIENT PAUSE … WRITE`.
    PauseWrites,
    /// SIGKILL; its append-only file is read again after the given time.
    KillRedis,
    /// SIGSTOP, and SIGCONT after the given time.
    FreezeRedis,
    /// Every connection of a process ends.
    Cut,
    /// Redis does what a process asks and its answers are lost; then the connections end.
    LoseReplies,
    /// What a process asks is lost; then its connections end.
    LoseRequests,
    /// Nothing arrives for a while, in either direction; then everything does.
    Blackhole,
    /// Everything arrives late.
    Slow,
    /// Every connection of a process ends in the middle of an answer.
    Tear,
    /// A job that kills its worker at every start.
    Poison,
}

impl Kind {
    /// One of each, and two of what happens most in the world.
    const DECK: [Self; 20] = [
        Self::KillWorker,
        Self::KillWorker,
        Self::FreezeWorker,
        Self::FreezeWorker,
        Self::RollWorker,
        Self::RollWorker,
        Self::KillProducer,
        Self::KillClients,
        Self::KillClients,
        Self::FlushScripts,
        Self::PauseAll,
        Self::PauseWrites,
        Self::KillRedis,
        Self::FreezeRedis,
        Self::Cut,
        Self::LoseReplies,
        Self::LoseReplies,
        Self::LoseRequests,
        Self::Tear,
        Self::Blackhole,
    ];

    /// Which processes it may strike, by index; none when it strikes Redis.
    fn targets(self) -> std::ops::Range<usize> {
        match self {
            Self::KillWorker | Self::FreezeWorker | Self::RollWorker => 0..WORKERS,
            Self::KillProducer => WORKERS..PROCESSES,
            Self::Cut
            | Self::LoseReplies
            | Self::LoseRequests
            | Self::Blackhole
            | Self::Slow
            | Self::Tear => 0..PROCESSES,
            _ => 0..0,
        }
    }

    /// Redis is away, for everybody. At most two leases, so that jobs of living workers stay theirs.
    pub(crate) fn is_outage(self) -> bool {
        matches!(
            self,
            Self::PauseAll | Self::PauseWrites | Self::KillRedis | Self::FreezeRedis
        )
    }

    fn lasts(self, random: &mut Random) -> Duration {
        let ms = Duration::from_millis;
        match self {
            Self::KillWorker | Self::KillProducer => random.between(ms(0), ms(1_000)),
            Self::FreezeWorker | Self::Blackhole => random.between(LEASE / 2, LEASE * 3),
            Self::PauseAll | Self::PauseWrites | Self::KillRedis => {
                random.between(ms(100), LEASE / 2)
            }
            Self::FreezeRedis => random.between(LEASE / 5, LEASE * 3 / 2),
            Self::LoseReplies | Self::LoseRequests => random.between(ms(20), ms(800)),
            Self::Slow => random.between(LEASE / 2, LEASE * 2),
            Self::Tear => ms(300),
            _ => Duration::ZERO,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// From the start of the load.
    pub(crate) at: Duration,
    pub(crate) kind: Kind,
    /// The process; 0 when it strikes Redis.
    pub(crate) target: usize,
    pub(crate) lasts: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How long there is load.
    pub(crate) load: Duration,
    pub(crate) faults: Vec<Fault>,
}

impl Plan {
    pub(crate) fn new(seed: u64, load: Duration) -> Self {
        let mut random = Random::new(seed, "faults");
        let mut faults = Vec::new();
        let end = load.saturating_sub(CALM);
        // A target is one process, or, behind the last, Redis.
        let mut free_at = [CALM; PROCESSES + 1];
        let mut deck = Vec::new();
        let mut at = CALM;
        while at < end {
            if deck.is_empty() {
                deck.extend(Kind::DECK);
                deck.push(Kind::Slow);
                random.shuffle(&mut deck);
            }
            let kind = deck.pop().expect("just filled");
            let lasts = kind.lasts(&mut random).min(end - at);
            let (targets, from) = (kind.targets(), random.below(PROCESSES));
            let target = match targets.len() {
                0 if !kind.is_outage() => Some(PROCESSES),
                0 => Some(PROCESSES).filter(|redis| free_at[*redis] <= at),
                count => (0..count)
                    .map(|step| targets.start + (from + step) % count)
                    .find(|target| free_at[*target] <= at),
            };
            if let Some(target) = target {
                if kind.is_outage() || !targets.is_empty() {
                    free_at[target] = at + lasts + REST;
                }
                faults.push(Fault {
                    at,
                    kind,
                    target: target % PROCESSES,
                    lasts,
                });
            }
            at += random.between(BETWEEN_FAULTS / 4, BETWEEN_FAULTS * 7 / 4);
        }
        let poisons = (load.as_secs() / 25).max(2) as u32;
        faults.extend((0..poisons).map(|nth| Fault {
            // Early enough to be dead by the end: it takes three stalls.
            at: (load * 2 / 3) * (nth + 1) / (poisons + 1),
            kind: Kind::Poison,
            target: 0,
            lasts: Duration::ZERO,
        }));
        faults.sort_by_key(|fault| fault.at);
        Self { seed, load, faults }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let plan = |seed| Plan::new(seed, Duration::from_secs(45)).faults;
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn a_short_plan_has_one_of_nearly_every_kind() {
        for seed in 1..=20 {
            let plan = Plan::new(seed, Duration::from_secs(45));
            let kinds: std::collections::BTreeSet<Kind> =
                plan.faults.iter().map(|fault| fault.kind).collect();
            assert!(kinds.len() >= 15, "seed {seed}: {kinds:?}");
            assert!(plan.faults.len() >= 28, "{}", plan.faults.len());
            let over = |fault: &Fault| fault.at + fault.lasts > plan.load;
            assert!(!plan.faults.iter().any(over));
        }
    }
}
