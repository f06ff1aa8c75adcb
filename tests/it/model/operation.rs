//! What may happen to a queue, as data: small numbers that mean something only against the state they meet, so that a
//! sequence stays meaningful when shrinking takes a part out of it.

use millstream::Priority;
use millstream::job::state::State;
use proptest::prelude::*;

/// One step of a walk.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    /// One call with one or several jobs.
    Enqueue(Caller, Vec<Order>),
    /// The script: this many at most, over all lanes.
    Claim(Worker, u8),
    /// The script over the lanes of all priorities: by a worker that has taken so many jobs, this many at most.
    ClaimByPriority(Worker, u8, u8),
    /// A job that has stalled before; workers take one at a time.
    ClaimSuspect(Worker),
    /// The plain path: this many at most of each lane, seen only when the worker looks for what it holds.
    Read(Worker, u8),
    /// The worker begins anew under its name and asks for what it holds.
    Own(Worker),
    Extend(Vec<Pick>),
    /// One call for each lane; `true` keeps a history.
    Complete(Caller, Vec<Pick>, bool),
    Retry(Caller, Pick),
    Snooze(Caller, Pick),
    Release(Caller, Vec<Pick>),
    DeadLetter(Caller, Pick, Reason),
    Cancel(Caller, Which),
    RunNow(Caller, Which),
    /// Another payload, another time (at once, or later with `true`), another priority.
    Update(Caller, Which, Option<u8>, Option<bool>, Option<Priority>),
    Redrive(Caller, Vec<Which>),
    Purge(Caller, Vec<Which>),
    /// Those of the jobs that are of the group.
    GroupPurge(Caller, u8, Vec<Which>),
    /// How many quarters a handler says are done.
    Progress(Pick, u8),
    /// A call that was sent so many calls ago is sent again: its answer was lost, or it was on its way for long.
    Again(u8),
    /// One job's lease runs out.
    Lapse(Pick),
    /// A worker dies: all its leases run out.
    Crash(Worker),
    /// A sweep over all lanes; `true` when its worker lives on to release the unique keys of the dead.
    Sweep(Upkeeper, bool),
    /// The slot of a schedule has come, and somebody fires it: of one that may overlap, one that may not, one of high priority.
    Fire(u8),
    /// The release that was still owed.
    Unlock,
    /// The time of a scheduled job has come.
    MakeDue(u8),
    Promote(Upkeeper, u8),
    Resign(Upkeeper),
    /// The upkeep lock runs out.
    LoseLock,
    /// Nobody has swept for long, or, with `true`, ever.
    Silence(bool),
    /// The grace that followed is over.
    EndGrace,
    /// A unique key runs out.
    EndWindow(u8),
    /// History, dead jobs, callers.
    Prune([Age; 3]),
    Pause(bool),
    /// So many jobs of a group at once (of all groups for `None`); 0 takes the limit away.
    Limit(Option<u8>, u8),
    /// What has room is admitted.
    Admit,
    /// Whether groups keep their order across retries.
    Block(bool),
    /// How many unfinished jobs the queue may have.
    Depth(Option<u8>),
    /// How many jobs may run at once. Who reads past the script does not know of it.
    Concurrency(Option<u8>),
    /// So many jobs of a group held (of all groups for `None`); 0 takes the limit away.
    Backlog(Option<u8>, u8),
    /// A bucket of so many tokens for each group (all groups for `None`) that fills up too slowly for any walk; 0 takes it away. Whoever
    /// has room by then is admitted.
    Rate(Option<u8>, u8),
    /// The same for the jobs of the queue that start.
    QueueRate(u8),
    /// Every bucket fills up, and those who waited for it are admitted.
    Refill,
    /// One group is paused, or goes on.
    PauseGroup(u8, bool),
    /// Forgets a worker that leaves, or everyone who was idle for so long.
    Retire(Option<Worker>, Age),
}

pub(super) type Caller = u8;
pub(super) type Worker = u8;
pub(super) type Upkeeper = u8;

pub(super) const CALLERS: u8 = 3;
pub(super) const WORKERS: u8 = 3;
const UPKEEPERS: u8 = 2;
const KEYS: u8 = 3;
pub(super) const GROUPS: u8 = 3;
pub(super) const SCHEDULES: u8 = 3;

/// A job to be enqueued.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) name: u8,
    pub(super) payload: u8,
    pub(super) delayed: bool,
    pub(super) unique: Option<(u8, Until)>,
    pub(super) conflict: Conflict,
    pub(super) expires: Option<Wait>,
    pub(super) deadline: Option<Wait>,
    pub(super) max_attempts: Option<u32>,
    pub(super) header: bool,
    pub(super) group: Option<u8>,
    pub(super) priority: Priority,
}

/// Nothing but defaults.
pub(super) const PLAIN: Order = Order {
    name: 0,
    payload: 0,
    delayed: false,
    unique: None,
    conflict: Conflict::Refuse,
    expires: None,
    deadline: None,
    max_attempts: None,
    header: false,
    group: None,
    priority: Priority::Normal,
};

/// How long a unique key is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    Waiting,
    Finished,
    Window,
}

/// What is done when another job holds the key; throttling needs a window, and is refusal without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    Refuse,
    Replace,
    Throttle,
}

/// A wait that is over before the next step, or one that no walk sees the end of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    Short,
    Long,
}

/// A delivery: the nth of the live ones, or of all that ever were. A worker that was frozen acts on a stale one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pick {
    Live(u8),
    Ever(u8),
}

/// A job: the nth of those in a state, or of all that ever were, with one that never was.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    In(State, u8),
    Any(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Attempts,
    Refused,
    Expired,
}

/// Which finished jobs, callers or consumers are old enough to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Untouched,
    VeryOld,
    All,
}

/// Up to `steps` operations. Every other walk has stories in it, for what chance alone hardly ever brings about.
pub(super) fn walk(steps: usize) -> impl Strategy<Value = Vec<Operation>> {
    let plain = prop::collection::vec(operation(), 1..=steps);
    let one = operation().prop_map(|operation| vec![operation]);
    let parts = prop_oneof![4 => one, 1 => story()];
    let parts = prop::collection::vec(parts, 1..=steps.div_ceil(2));
    prop_oneof![plain, parts.prop_map(|parts| parts.concat())]
}

/// Steps that belong together, though one may be missing.
fn story() -> impl Strategy<Value = Vec<Operation>> {
    use Operation::*;
    let first = || Pick::Live(0);
    let window = || Order {
        unique: Some((0, Until::Window)),
        ..PLAIN
    };
    let stall = |claim| [claim, Crash(0), Sweep(0, true)];
    let crash = [Claim(0, 4), Claim(0, 4), ClaimSuspect(0)]
        .map(stall)
        .concat();
    let failure = vec![
        Claim(0, 4),
        Retry(0, first()),
        MakeDue(0),
        Promote(0, 3),
        Claim(0, 4),
        DeadLetter(0, first(), Reason::Attempts),
        Redrive(0, vec![Which::In(State::Dead, 0)]),
    ];
    let debounced = || Order {
        delayed: true,
        unique: Some((0, Until::Waiting)),
        conflict: Conflict::Replace,
        ..PLAIN
    };
    let throttled = || Order {
        unique: Some((0, Until::Window)),
        conflict: Conflict::Throttle,
        ..PLAIN
    };
    let burst = |order: &dyn Fn() -> Order| {
        vec![
            Enqueue(0, vec![order()]),
            Enqueue(0, vec![order(), order()]),
            MakeDue(0),
            Promote(0, 3),
            Enqueue(1, vec![order()]),
            Claim(0, 4),
            Enqueue(1, vec![order()]),
            Retry(0, first()),
            Enqueue(1, vec![order()]),
        ]
    };
    let (debounce, throttle) = (burst(&debounced), burst(&throttled));
    let tenant = |payload| Order {
        group: Some(0),
        payload,
        ..PLAIN
    };
    let turns = vec![
        Limit(None, 1),
        Enqueue(0, vec![tenant(0), tenant(1), tenant(2), tenant(3)]),
        Block(true),
        Claim(0, 4),
        Retry(0, first()),
        MakeDue(0),
        Promote(0, 3),
        Claim(0, 4),
        Complete(0, vec![first()], false),
        RunNow(0, Which::In(State::Held, 1)),
    ];
    let repeat = vec![
        Enqueue(0, vec![window()]),
        Claim(0, 4),
        Complete(0, vec![first(), Pick::Live(1)], false),
        Enqueue(1, vec![window()]),
    ];
    let rated = vec![
        Rate(None, 2),
        Enqueue(0, vec![tenant(0), tenant(0), tenant(1), tenant(0)]),
        Backlog(None, 2),
        Enqueue(0, vec![tenant(0), tenant(0)]),
        Claim(0, 4),
        Retry(0, first()),
        Refill,
        MakeDue(0),
        Promote(0, 3),
        Refill,
        Claim(0, 4),
        Complete(0, vec![first()], false),
    ];
    let gone = vec![
        Limit(None, 2),
        Enqueue(0, vec![tenant(0), tenant(1), tenant(2), tenant(3)]),
        Claim(0, 1),
        Progress(first(), 2),
        Retry(0, first()),
        Claim(0, 4),
        Progress(first(), 1),
        GroupPurge(
            1,
            0,
            vec![Which::In(State::Running, 0), Which::In(State::Held, 0)],
        ),
        Complete(0, vec![first()], false),
        GroupPurge(
            1,
            0,
            vec![Which::In(State::Scheduled, 0), Which::In(State::Ready, 0)],
        ),
    ];
    let stories = vec![
        crash, failure, repeat, turns, debounce, throttle, rated, gone,
    ];
    prop::sample::select(stories).prop_flat_map(|story| {
        let steps = story.len();
        prop::sample::subsequence(story, steps - 1..=steps)
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let caller = || 0..CALLERS;
    let worker = || 0..WORKERS;
    // One does nearly all of it, or walks would only stand by.
    let upkeeper = || prop_oneof![5 => Just(0), 1 => 1..UPKEEPERS];
    let nth = || 0..16u8;
    let jobs = |state| prop::collection::vec(which(state), 1..3);
    let ages = [age(), age(), age()];
    let work = prop_oneof![
        6 => (caller(), prop::collection::vec(order(), 1..4)).prop_map(|(by, jobs)| Enqueue(by, jobs)),
        5 => (worker(), 1..5u8).prop_map(|(by, limit)| Claim(by, limit)),
        4 => (worker(), 0..20u8, 1..12u8).prop_map(|(by, turn, limit)| ClaimByPriority(by, turn, limit)),
        2 => worker().prop_map(ClaimSuspect),
        2 => (worker(), 1..3u8).prop_map(|(by, limit)| Read(by, limit)),
        1 => worker().prop_map(Own),
        2 => picks().prop_map(Extend),
        4 => (caller(), picks(), any::<bool>()).prop_map(|(by, picks, keep)| Complete(by, picks, keep)),
        4 => (caller(), pick()).prop_map(|(by, pick)| Retry(by, pick)),
        1 => (caller(), pick()).prop_map(|(by, pick)| Snooze(by, pick)),
        2 => (caller(), picks()).prop_map(|(by, picks)| Release(by, picks)),
        3 => (caller(), pick(), reason()).prop_map(|(by, pick, reason)| DeadLetter(by, pick, reason)),
        2 => (pick(), 0..5u8).prop_map(|(pick, quarters)| Progress(pick, quarters)),
        4 => nth().prop_map(Again),
        3 => pick().prop_map(Lapse),
        2 => worker().prop_map(Crash),
    ];
    let upkeep = prop_oneof![
        5 => (upkeeper(), prop::bool::weighted(0.8)).prop_map(|(by, unlock)| Sweep(by, unlock)),
        1 => Just(Unlock),
        2 => (0..SCHEDULES).prop_map(Fire),
        4 => nth().prop_map(MakeDue),
        4 => (upkeeper(), 1..4u8).prop_map(|(by, limit)| Promote(by, limit)),
        1 => upkeeper().prop_map(Resign),
        1 => Just(LoseLock),
        1 => any::<bool>().prop_map(Silence),
        2 => Just(EndGrace),
        1 => (0..KEYS).prop_map(EndWindow),
        1 => ages.prop_map(Prune),
        1 => (prop::option::of(worker()), age()).prop_map(|(who, idle)| Retire(who, idle)),
    ];
    let by_hand = prop_oneof![
        3 => (caller(), any_which()).prop_map(|(by, job)| Cancel(by, job)),
        2 => (caller(), which(State::Scheduled)).prop_map(|(by, job)| RunNow(by, job)),
        2 => (caller(), any_which(), prop::option::of(0..8u8), prop::option::of(any::<bool>()), prop::option::of(priority()))
            .prop_map(|(by, job, payload, later, priority)| Update(by, job, payload, later, priority)),
        1 => (caller(), which(State::Held)).prop_map(|(by, job)| RunNow(by, job)),
        3 => (caller(), jobs(State::Dead)).prop_map(|(by, jobs)| Redrive(by, jobs)),
        1 => (caller(), jobs(State::Dead)).prop_map(|(by, jobs)| Purge(by, jobs)),
        1 => (caller(), 0..GROUPS, prop::collection::vec(any_which(), 1..4))
            .prop_map(|(by, group, jobs)| GroupPurge(by, group, jobs)),
        1 => (0..6u8).prop_map(QueueRate),
        1 => prop::bool::weighted(0.3).prop_map(Pause),
        1 => (prop::option::weighted(0.6, 0..GROUPS), 0..4u8).prop_map(|(group, most)| Limit(group, most)),
        1 => Just(Admit),
        1 => any::<bool>().prop_map(Block),
        1 => prop::option::weighted(0.5, 1..20u8).prop_map(Depth),
        1 => prop::option::weighted(0.3, 1..6u8).prop_map(Concurrency),
        1 => (prop::option::weighted(0.6, 0..GROUPS), 0..4u8).prop_map(|(group, most)| Backlog(group, most)),
        1 => (prop::option::weighted(0.6, 0..GROUPS), 0..5u8).prop_map(|(group, burst)| Rate(group, burst)),
        2 => Just(Refill),
        1 => (0..GROUPS, prop::bool::weighted(0.3)).prop_map(|(group, paused)| PauseGroup(group, paused)),
    ];
    prop_oneof![12 => work, 6 => upkeep, 3 => by_hand]
}

fn order() -> impl Strategy<Value = Order> {
    let until = prop_oneof![
        2 => Just(Until::Finished),
        1 => Just(Until::Waiting),
        1 => Just(Until::Window)
    ];
    let conflict = prop_oneof![
        3 => Just(Conflict::Refuse),
        2 => Just(Conflict::Replace),
        2 => Just(Conflict::Throttle)
    ];
    let wait = || prop_oneof![Just(Wait::Short), Just(Wait::Long)];
    let unique = prop::option::weighted(0.4, (0..KEYS, until));
    let rare = || prop::bool::weighted(0.2);
    (
        0..8u8,
        0..8u8,
        rare(),
        unique,
        conflict,
        prop::option::weighted(0.2, wait()),
        prop::option::weighted(0.1, wait()),
        prop::option::weighted(0.2, 1..5u32),
        rare(),
        prop::option::weighted(0.6, 0..GROUPS),
        priority(),
    )
        .prop_map(
            |(
                name,
                payload,
                delayed,
                unique,
                conflict,
                expires,
                deadline,
                max_attempts,
                header,
                group,
                priority,
            )| Order {
                name,
                payload,
                delayed,
                unique,
                conflict,
                expires,
                deadline,
                max_attempts,
                header,
                group,
                priority,
            },
        )
}

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![
        3 => Just(Priority::Normal),
        1 => Just(Priority::High),
        1 => Just(Priority::Low)
    ]
}

fn pick() -> impl Strategy<Value = Pick> {
    prop_oneof![
        4 => (0..8u8).prop_map(Pick::Live),
        1 => (0..32u8).prop_map(Pick::Ever),
    ]
}

fn picks() -> impl Strategy<Value = Vec<Pick>> {
    prop::collection::vec(pick(), 1..4)
}

fn which(state: State) -> impl Strategy<Value = Which> {
    prop_oneof![
        5 => (0..8u8).prop_map(move |nth| Which::In(state, nth)),
        1 => (0..32u8).prop_map(Which::Any),
    ]
}

fn any_which() -> impl Strategy<Value = Which> {
    prop_oneof![
        which(State::Scheduled),
        which(State::Held),
        which(State::Ready),
        which(State::Running),
        which(State::Dead),
    ]
}

fn reason() -> impl Strategy<Value = Reason> {
    prop_oneof![
        Just(Reason::Attempts),
        Just(Reason::Refused),
        Just(Reason::Expired)
    ]
}

fn age() -> impl Strategy<Value = Age> {
    prop_oneof![Just(Age::Untouched), Just(Age::VeryOld), Just(Age::All)]
}
