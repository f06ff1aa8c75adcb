//! The Lua scripts, embedded: one row each in the table below. How to call one is in `call`.
//!
//! What keys and arguments a script takes is said in one place, the header of its file below `lua/`; calls are checked against it
//! in debug builds.

mod call;
mod header;

#[cfg(test)]
mod tests;

use fred::util::sha1_hash;
use once_cell::sync::OnceCell;

pub(crate) use call::Call;
use header::Header;

/// One script: its text, and what its header says of it.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    /// All of it, as Redis gets it.
    pub(crate) source: &'static str,
    /// Its own file, without the fragments in front of it.
    own: &'static str,
    header: OnceCell<Header>,
    sha: OnceCell<String>,
}

impl Script {
    const fn new(name: &'static str, source: &'static str, own: &'static str) -> Self {
        Self {
            name,
            source,
            own,
            header: OnceCell::new(),
            sha: OnceCell::new(),
        }
    }

    /// The digest under which Redis keeps the script.
    pub(crate) fn sha(&self) -> &str {
        self.sha.get_or_init(|| sha1_hash(self.source))
    }

    fn header(&self) -> &Header {
        self.header.get_or_init(|| Header::read(self.own))
    }
}

/// The text of `lua/NAME.lua`, or of `lua/lib/NAME.lua`.
macro_rules! lua {
    (lib $name:ident) => {
        include_str!(concat!("../../../lua/lib/", stringify!($name), ".lua"))
    };
    ($name:ident) => {
        include_str!(concat!("../../../lua/", stringify!($name), ".lua"))
    };
}

/// `STATIC = file: fragments;` makes the script of a file, with the fragments in front of it in the order given: a fragment may use
/// those before it. `status` and `check` are in front of all. `file as transition` is another way to make that transition, and goes by
/// its name. `ALL` is every script, to be loaded at the start.
macro_rules! scripts {
    ($($script:ident = $name:ident $(as $transition:ident)? $(: $($fragment:ident)+)?;)+) => {
        $(pub(crate) static $script: Script = Script::new(
            scripts!(@ $name $($transition)?),
            concat!(lua!(lib status), "\n", lua!(lib check), "\n", $($(lua!(lib $fragment), "\n",)+)? lua!($name)),
            lua!($name),
        );)+
        pub(crate) static ALL: [&Script; [$(stringify!($script)),+].len()] = [$(&$script),+];
    };
    (@ $name:ident) => { stringify!($name) };
    (@ $name:ident $transition:ident) => { stringify!($transition) };
}

scripts! {
    ENQUEUE = enqueue: clock replay tally room meta record settle entry place rate groups schedule waiting;
    ENQUEUE_PLAIN = enqueue_plain as enqueue: replay;
    CLAIM = claim: clock rate;
    EXTEND = extend;
    COMPLETE = complete: clock replay tally take_out ended meta record place rate groups unique;
    COMPLETE_PLAIN = complete_plain as complete: replay tally take_out;
    RETRY = retry: clock replay meta record place rate groups schedule settle event tally;
    RELEASE = release: clock replay meta record place settle tally;
    DEAD_LETTER = dead_letter: clock replay meta record place rate groups settle unique event tally expiry;
    RECLAIM = reclaim: clock meta record place rate groups settle event upkeep tally;
    PROMOTE = promote: clock meta record place rate groups event upkeep tally expiry orphan;
    RUN_NOW = run_now: clock replay meta record place rate groups;
    CANCEL = cancel: clock replay meta record place rate groups settle entry unique event tally;
    UPDATE = update: clock replay meta record settle entry place rate groups schedule waiting event;
    REDRIVE = redrive: clock replay meta record place rate groups event tally;
    PURGE = purge: clock replay event tally;
    GROUP_PURGE = group_purge: clock replay meta record settle entry place rate groups waiting event tally;
    PRUNE = prune: clock;
    RETIRE = retire;
    UNLOCK = unlock: unique;
    LOOK = look;
    ADMIT = admit: clock meta record place rate groups event tally orphan;
    LIMIT = limit: event;
    BACKLOG = backlog;
    PAUSE = pause: event;
    CIRCUIT = circuit: clock event;
    PROGRESS = progress: clock event;
    STATS = stats: clock;
    CRON_SET = cron_set: cron;
    CRON_REMOVE = cron_remove;
    CRON_PAUSE = cron_pause: cron;
    CRON_DUE = cron_due: clock cron;
    CRON_FIRE = cron_fire: clock meta record place rate groups unfinished event tally cron;
    AUDIT = audit: clock meta record settle entry place rate groups examine;
    MEND = mend: clock meta record schedule place rate groups settle entry event tally examine;
    RECOUNT = recount: clock meta record place rate groups event;
}
