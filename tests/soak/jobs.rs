//! The jobs of the soak. A job's name for life is its key, which is its whole payload but for some filling: what its handler
//! does, and so what must become of it, follows from the key alone.

use std::time::Duration;

use millstream::NewJob;

use crate::plan::LEASE;
use crate::random::Random;

/// Attempts of a job that fails.
pub(crate) const MAX_ATTEMPTS: u32 = 4;
/// Different unique keys at any time.
const UNIQUE_KEYS: usize = 40;

/// What a job is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Quick,
    /// Delayed.
    Late,
    /// Each attempt fails with a chance that its key draws.
    Flaky,
    /// The first attempt panics.
    Panicky,
    /// Asks to be called again, now and then.
    Snoozy,
    /// Refused by its handler.
    Refused,
    /// Runs longer than the lease.
    Long,
    /// Holds a unique key that others want.
    Unique,
    /// May expire before it starts.
    Expiring,
    /// Is cancelled, perhaps too late.
    Doomed,
    /// Kills its worker.
    Poison,
}

impl Kind {
    const ALL: [(Self, &'static str); 11] = [
        (Self::Quick, "quick"),
        (Self::Late, "late"),
        (Self::Flaky, "flaky"),
        (Self::Panicky, "panicky"),
        (Self::Snoozy, "snoozy"),
        (Self::Refused, "refused"),
        (Self::Long, "long"),
        (Self::Unique, "unique"),
        (Self::Expiring, "expiring"),
        (Self::Doomed, "doomed"),
        (Self::Poison, "poison"),
    ];

    /// Which jobs a producer makes, in a thousand; the others are made on purpose.
    const MIX: [(Self, usize); 9] = [
        (Self::Quick, 597),
        (Self::Late, 120),
        (Self::Flaky, 120),
        (Self::Unique, 80),
        (Self::Snoozy, 30),
        (Self::Expiring, 20),
        (Self::Panicky, 20),
        (Self::Refused, 7),
        (Self::Long, 6),
    ];

    pub(crate) fn any(random: &mut Random) -> Self {
        let mut drawn = random.below(1000);
        for (kind, share) in Self::MIX {
            if drawn < share {
                return kind;
            }
            drawn -= share;
        }
        Self::Quick
    }

    fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(kind, _)| *kind == self);
        named.expect("every kind has a name").1
    }

    /// Why such a job may end in the dead letter.
    pub(crate) fn may_die_of(self) -> &'static str {
        match self {
            Self::Flaky => "attempts",
            Self::Refused => "refused",
            Self::Expiring => "expired",
            Self::Poison => "crash_loop",
            _ => "nothing",
        }
    }
}

/// `kind:producer:number:detail`; the detail is a delay in ms or the number of a unique key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) String);

/// What a handler is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Succeed {
        after: Duration,
    },
    Fail,
    Panic,
    Refuse,
    /// With even chances, for a handler cannot tell how often it snoozed.
    PerhapsSnooze,
    Abort,
}

impl Key {
    pub(crate) fn new(kind: Kind, producer: &str, number: u64, random: &mut Random) -> Self {
        let detail = match kind {
            Kind::Late => random.below(2_000),
            Kind::Doomed => random.below(3_000),
            Kind::Unique => random.below(UNIQUE_KEYS),
            _ => 0,
        };
        Self(format!("{}:{producer}:{number}:{detail}", kind.name()))
    }

    fn part(&self, index: usize) -> &str {
        self.0.split(':').nth(index).unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> Kind {
        let known = Kind::ALL.iter().find(|(_, name)| *name == self.part(0));
        known
            .unwrap_or_else(|| panic!("{self:?} is no key of the soak"))
            .0
    }

    fn detail(&self) -> u64 {
        self.part(3).parse().unwrap_or_default()
    }

    pub(crate) fn delay(&self) -> Duration {
        match self.kind() {
            Kind::Late | Kind::Doomed => Duration::from_millis(self.detail()),
            _ => Duration::ZERO,
        }
    }

    pub(crate) fn unique(&self) -> Option<String> {
        (self.kind() == Kind::Unique).then(|| format!("u{}", self.detail()))
    }

    pub(crate) fn job(&self) -> NewJob {
        let job = NewJob::raw(self.part(0), self.payload()).max_attempts(MAX_ATTEMPTS);
        match self.kind() {
            Kind::Late | Kind::Doomed => job.delay(self.delay()),
            Kind::Long => job.timeout(LEASE * 20),
            Kind::Unique => job.unique(self.unique().expect("a unique job")),
            Kind::Expiring => job.expires(Duration::from_millis(700)),
            _ => job,
        }
    }

    /// The key, and some bytes that follow from it and are no text.
    fn payload(&self) -> Vec<u8> {
        let mut random = Random::new(0, &self.0);
        let filling = random.below(600);
        let mut payload = format!("{}\n", self.0).into_bytes();
        payload.extend((0..filling).map(|_| random.next() as u8));
        payload
    }

    /// The key of a stored payload, or what is wrong with it.
    pub(crate) fn read(payload: &[u8]) -> Result<Self, String> {
        let end = payload.iter().position(|byte| *byte == b'\n');
        let key = end.and_then(|end| std::str::from_utf8(&payload[..end]).ok());
        let key = Self(key.ok_or("a payload without a key")?.to_owned());
        match key.payload() == payload {
            true => Ok(key),
            false => Err(format!("{} came with other bytes than it had", key.0)),
        }
    }

    /// What the handler does at this attempt.
    pub(crate) fn deed(&self, attempt: u32) -> Deed {
        let mut random = Random::new(u64::from(attempt), &self.0);
        let quick = Duration::from_micros(random.below(4_000) as u64);
        match self.kind() {
            Kind::Flaky if random.percent(40) => Deed::Fail,
            Kind::Panicky if attempt == 1 => Deed::Panic,
            Kind::Snoozy => Deed::PerhapsSnooze,
            Kind::Refused => Deed::Refuse,
            Kind::Poison => Deed::Abort,
            Kind::Long => Deed::Succeed {
                after: random.between(LEASE, LEASE * 2),
            },
            Kind::Doomed => Deed::Succeed {
                after: Duration::from_millis(400),
            },
            _ => Deed::Succeed { after: quick },
        }
    }

    /// Failed attempts before the job succeeds or dies: nothing else decides that.
    pub(crate) fn failures(&self) -> u32 {
        let fails = |attempt: &u32| matches!(self.deed(*attempt), Deed::Fail | Deed::Panic);
        (1..=MAX_ATTEMPTS).take_while(fails).count() as u32
    }
}
