//! The Lua scripts, embedded; and calls to them, whose keys and arguments are checked by name in debug builds.

use bytes::Bytes;
use fred::types::{Key as FredKey, Value};
use fred::util::sha1_hash;
use once_cell::sync::OnceCell;

use super::reply::text_of;
use crate::keys::Key;

/// Joins files below `lua/` in the order given, at compile time.
macro_rules! lua {
    ($($part:literal),+ $(,)?) => { concat!($(include_str!(concat!("../../lua/", $part)), "\n"),+) };
}

/// One script: its text, and the names of its keys and arguments as its header documents them.
/// A last name that ends in `..` stands for any number of further ones.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    pub(crate) keys: &'static [&'static str],
    pub(crate) args: &'static [&'static str],
    sha: OnceCell<String>,
}

impl Script {
    const fn new(
        name: &'static str,
        source: &'static str,
        keys: &'static [&'static str],
        args: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            source,
            keys,
            args,
            sha: OnceCell::new(),
        }
    }

    /// The digest under which Redis keeps the script.
    pub(crate) fn sha(&self) -> &str {
        self.sha.get_or_init(|| sha1_hash(self.source))
    }
}

/// Every script, for loading at start and for the test that reads their headers.
pub(crate) static ALL: [&Script; 33] = [
    &ENQUEUE,
    &CLAIM,
    &EXTEND,
    &COMPLETE,
    &RETRY,
    &RELEASE,
    &DEAD_LETTER,
    &RECLAIM,
    &PROMOTE,
    &RUN_NOW,
    &CANCEL,
    &UPDATE,
    &REDRIVE,
    &PURGE,
    &GROUP_PURGE,
    &PRUNE,
    &RETIRE,
    &UNLOCK,
    &LOOK,
    &ADMIT,
    &LIMIT,
    &BACKLOG,
    &PAUSE,
    &CIRCUIT,
    &PROGRESS,
    &STATS,
    &CRON_SET,
    &CRON_REMOVE,
    &CRON_PAUSE,
    &CRON_DUE,
    &CRON_FIRE,
    &AUDIT,
    &MEND,
];

pub(crate) static ENQUEUE: Script = Script::new(
    "enqueue",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/tally.lua",
        "lib/plain.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/settle.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/schedule.lua",
        "lib/waiting.lua",
        "enqueue.lua"
    ),
    &[
        "lane",
        "scheduled",
        "jobs",
        "payloads",
        "stats",
        "producers",
        "next",
        "suspects",
        "limits",
        "held",
        "high",
        "low",
        "more..",
    ],
    &["group", "caller", "number", "wake", "grouped", "jobs.."],
);
pub(crate) static CLAIM: Script = Script::new(
    "claim",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/rate.lua",
        "claim.lua"
    ),
    &["limits", "rates", "lanes.."],
    &["group", "consumer", "limit", "shares.."],
);
pub(crate) static EXTEND: Script = Script::new(
    "extend",
    lua!("lib/status.lua", "lib/check.lua", "extend.lua"),
    &["lane"],
    &["group", "consumer", "entries.."],
);
pub(crate) static COMPLETE: Script = Script::new(
    "complete",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/unique.lua",
        "lib/tally.lua",
        "complete.lua"
    ),
    &[
        "lane",
        "jobs",
        "stats",
        "producers",
        "completed",
        "progress",
        "more..",
    ],
    &[
        "group",
        "caller",
        "number",
        "history",
        "count",
        "grouped",
        "kept",
        "entries..",
    ],
);
pub(crate) static RETRY: Script = Script::new(
    "retry",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/schedule.lua",
        "lib/settle.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "retry.lua"
    ),
    &[
        "lane",
        "scheduled",
        "jobs",
        "payloads",
        "stats",
        "events",
        "producers",
        "held",
        "groups",
        "limits",
        "rates",
        "ready",
        "suspects",
        "high",
        "low",
    ],
    &[
        "group", "caller", "number", "entry_id", "delay_ms", "charged", "error", "wake",
    ],
);
pub(crate) static RELEASE: Script = Script::new(
    "release",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/settle.lua",
        "lib/tally.lua",
        "release.lua"
    ),
    &["lane", "next", "suspects", "jobs", "stats", "producers"],
    &["group", "caller", "number", "wake", "entries.."],
);
pub(crate) static DEAD_LETTER: Script = Script::new(
    "dead_letter",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/settle.lua",
        "lib/unique.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "lib/expiry.lua",
        "dead_letter.lua"
    ),
    &[
        "lane",
        "dead",
        "jobs",
        "payloads",
        "stats",
        "events",
        "producers",
        "held",
        "groups",
        "limits",
        "rates",
        "ready",
        "suspects",
        "high",
        "low",
        "unique..",
    ],
    &["group", "caller", "number", "entry_id", "reason", "error"],
);
pub(crate) static RECLAIM: Script = Script::new(
    "reclaim",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/settle.lua",
        "lib/event.lua",
        "lib/upkeep.lua",
        "lib/tally.lua",
        "reclaim.lua"
    ),
    &[
        "next", "suspects", "dead", "jobs", "payloads", "stats", "events", "lock", "held",
        "groups", "limits", "rates", "ready", "high", "low", "lanes..",
    ],
    &[
        "group", "worker", "lock_ms", "lease_ms", "stalls", "lane", "cursor", "limit", "wake",
    ],
);
pub(crate) static PROMOTE: Script = Script::new(
    "promote",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/event.lua",
        "lib/upkeep.lua",
        "lib/tally.lua",
        "lib/expiry.lua",
        "lib/orphan.lua",
        "promote.lua"
    ),
    &[
        "scheduled",
        "lane",
        "suspects",
        "dead",
        "jobs",
        "payloads",
        "stats",
        "events",
        "lock",
        "held",
        "groups",
        "limits",
        "rates",
        "high",
        "low",
    ],
    &["worker", "lock_ms", "limit", "wake"],
);
pub(crate) static RUN_NOW: Script = Script::new(
    "run_now",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "run_now.lua"
    ),
    &[
        "scheduled",
        "next",
        "suspects",
        "jobs",
        "payloads",
        "producers",
        "held",
        "groups",
        "limits",
        "rates",
        "stats",
        "lane",
        "high",
        "low",
    ],
    &["caller", "number", "job_id", "wake"],
);
pub(crate) static CANCEL: Script = Script::new(
    "cancel",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/settle.lua",
        "lib/unique.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "cancel.lua"
    ),
    &[
        "scheduled",
        "jobs",
        "payloads",
        "stats",
        "events",
        "producers",
        "lane",
        "next",
        "suspects",
        "held",
        "groups",
        "limits",
        "rates",
        "high",
        "low",
        "progress",
        "unique..",
    ],
    &["group", "caller", "number", "job_id", "wake"],
);
pub(crate) static UPDATE: Script = Script::new(
    "update",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/settle.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/schedule.lua",
        "lib/waiting.lua",
        "lib/event.lua",
        "update.lua"
    ),
    &[
        "scheduled",
        "jobs",
        "payloads",
        "events",
        "producers",
        "lane",
        "next",
        "suspects",
        "held",
        "groups",
        "limits",
        "rates",
        "high",
        "low",
    ],
    &[
        "group", "caller", "number", "job_id", "wake", "changes", "payload",
    ],
);
pub(crate) static REDRIVE: Script = Script::new(
    "redrive",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "redrive.lua"
    ),
    &[
        "dead",
        "lane",
        "jobs",
        "payloads",
        "stats",
        "events",
        "producers",
        "held",
        "groups",
        "limits",
        "rates",
        "high",
        "low",
    ],
    &["caller", "number", "wake", "ids.."],
);
pub(crate) static PURGE: Script = Script::new(
    "purge",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "purge.lua"
    ),
    &[
        "dead",
        "jobs",
        "payloads",
        "stats",
        "events",
        "producers",
        "progress",
    ],
    &["caller", "number", "ids.."],
);
pub(crate) static PRUNE: Script = Script::new(
    "prune",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "prune.lua"
    ),
    &[
        "dead",
        "completed",
        "jobs",
        "payloads",
        "producers",
        "progress",
    ],
    &[
        "completed_age_ms",
        "dead_age_ms",
        "producer_age_ms",
        "cursor",
        "limit",
    ],
);
pub(crate) static RETIRE: Script = Script::new(
    "retire",
    lua!("lib/status.lua", "lib/check.lua", "retire.lua"),
    &["lane"],
    &["group", "consumer", "idle_ms"],
);
pub(crate) static UNLOCK: Script = Script::new(
    "unlock",
    lua!(
        "lib/status.lua",
        "lib/check.lua",
        "lib/unique.lua",
        "unlock.lua"
    ),
    &["unique.."],
    &["ids.."],
);
pub(crate) static ADMIT: Script = Script::new(
    "admit",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "lib/orphan.lua",
        "admit.lua"
    ),
    &[
        "held", "groups", "limits", "rates", "lane", "suspects", "dead", "jobs", "payloads",
        "stats", "events", "high", "low",
    ],
    &["from", "limit", "due"],
);
pub(crate) static LOOK: Script = Script::new(
    "look",
    lua!("lib/status.lua", "lib/check.lua", "look.lua"),
    &["limits", "suspects", "high", "low"],
    &["group"],
);
pub(crate) static BACKLOG: Script = Script::new(
    "backlog",
    lua!("lib/status.lua", "lib/check.lua", "backlog.lua"),
    &["held"],
    &["names.."],
);
pub(crate) static GROUP_PURGE: Script = Script::new(
    "group_purge",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/replay.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/settle.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/waiting.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "group_purge.lua"
    ),
    &[
        "scheduled",
        "dead",
        "jobs",
        "payloads",
        "stats",
        "events",
        "producers",
        "lane",
        "next",
        "suspects",
        "held",
        "groups",
        "limits",
        "rates",
        "high",
        "low",
        "progress",
    ],
    &[
        "group", "caller", "number", "of_group", "total", "wake", "ids..",
    ],
);
pub(crate) static LIMIT: Script = Script::new(
    "limit",
    lua!(
        "lib/status.lua",
        "lib/check.lua",
        "lib/event.lua",
        "limit.lua"
    ),
    &["limits", "events"],
    &["group", "wake", "settings.."],
);
pub(crate) static PAUSE: Script = Script::new(
    "pause",
    lua!(
        "lib/status.lua",
        "lib/check.lua",
        "lib/event.lua",
        "pause.lua"
    ),
    &["limits", "events"],
    &["paused", "wake"],
);
pub(crate) static CIRCUIT: Script = Script::new(
    "circuit",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/event.lua",
        "circuit.lua"
    ),
    &["circuits", "events"],
    &["circuit", "hold_ms", "event", "detail"],
);
pub(crate) static PROGRESS: Script = Script::new(
    "progress",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/event.lua",
        "progress.lua"
    ),
    &["lane", "progress", "events"],
    &[
        "group", "entry_id", "job_id", "name", "attempt", "number", "told", "lines..",
    ],
);
pub(crate) static STATS: Script = Script::new(
    "stats",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "stats.lua"
    ),
    &[
        "scheduled",
        "dead",
        "held",
        "limits",
        "stats",
        "circuits",
        "lanes..",
    ],
    &["group"],
);

pub(crate) static CRON_SET: Script = Script::new(
    "cron_set",
    lua!(
        "lib/status.lua",
        "lib/check.lua",
        "lib/cron.lua",
        "cron_set.lua"
    ),
    &["cron", "due"],
    &[
        "schedule",
        "definition",
        "payload",
        "timing",
        "version",
        "due_ms",
        "paused",
        "wake",
    ],
);
pub(crate) static CRON_REMOVE: Script = Script::new(
    "cron_remove",
    lua!("lib/status.lua", "lib/check.lua", "cron_remove.lua"),
    &["cron", "due"],
    &["schedule"],
);
pub(crate) static CRON_PAUSE: Script = Script::new(
    "cron_pause",
    lua!(
        "lib/status.lua",
        "lib/check.lua",
        "lib/cron.lua",
        "cron_pause.lua"
    ),
    &["cron", "due"],
    &["schedule", "version", "paused", "due_ms", "wake"],
);
pub(crate) static CRON_DUE: Script = Script::new(
    "cron_due",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/cron.lua",
        "cron_due.lua"
    ),
    &["cron", "due"],
    &["offset", "limit"],
);
pub(crate) static CRON_FIRE: Script = Script::new(
    "cron_fire",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/unfinished.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "lib/cron.lua",
        "cron_fire.lua"
    ),
    &[
        "cron", "due", "lane", "jobs", "stats", "events", "payloads", "held", "groups", "limits",
        "rates", "suspects", "high", "low",
    ],
    &[
        "schedule",
        "version",
        "due_ms",
        "next_ms",
        "overlap",
        "name",
        "expires_ms",
        "deadline_ms",
        "tells",
        "missed",
        "slots..",
    ],
);
pub(crate) static AUDIT: Script = Script::new(
    "audit",
    lua!(
        "lib/status.lua",
        "lib/check.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/settle.lua",
        "lib/examine.lua",
        "audit.lua"
    ),
    &[
        "scheduled",
        "dead",
        "jobs",
        "payloads",
        "held",
        "groups",
        "progress",
        "lanes..",
    ],
    &["group", "part", "lane", "cursor", "limit"],
);
pub(crate) static MEND: Script = Script::new(
    "mend",
    lua!(
        "lib/status.lua",
        "lib/clock.lua",
        "lib/check.lua",
        "lib/meta.lua",
        "lib/record.lua",
        "lib/schedule.lua",
        "lib/place.lua",
        "lib/rate.lua",
        "lib/groups.lua",
        "lib/settle.lua",
        "lib/event.lua",
        "lib/tally.lua",
        "lib/examine.lua",
        "mend.lua"
    ),
    &[
        "scheduled",
        "dead",
        "jobs",
        "payloads",
        "held",
        "groups",
        "limits",
        "rates",
        "stats",
        "events",
        "next",
        "ready",
        "suspects",
        "high",
        "low",
        "progress",
        "lanes..",
    ],
    &["group", "wake", "kind", "lane", "ids.."],
);

/// A call in the making: keys and arguments in the order of the script's header.
pub(crate) struct Call {
    pub(super) script: &'static Script,
    pub(super) keys: Vec<FredKey>,
    pub(super) args: Vec<Value>,
}

impl Call {
    pub(crate) fn new(script: &'static Script) -> Self {
        Self {
            script,
            keys: Vec::with_capacity(8),
            args: Vec::with_capacity(8),
        }
    }

    /// Makes room for `more` further arguments.
    pub(crate) fn reserve(mut self, more: usize) -> Self {
        self.args.reserve(more);
        self
    }

    pub(crate) fn key(mut self, name: &str, key: &Key) -> Self {
        self.push_key(name, key);
        self
    }

    /// Several at once.
    pub(crate) fn keys<const N: usize>(mut self, keys: [(&str, &Key); N]) -> Self {
        for (name, key) in keys {
            self.push_key(name, key);
        }
        self
    }

    pub(crate) fn push_key(&mut self, name: &str, key: &Key) {
        debug_assert!(
            named(self.script.keys, self.keys.len(), name),
            "{}: key {name}",
            self.script.name
        );
        self.keys.push(FredKey::from(key.0.clone()));
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.bytes(name, Bytes::copy_from_slice(value.as_bytes()))
    }

    pub(crate) fn bytes(mut self, name: &str, value: Bytes) -> Self {
        self.push(name, value);
        self
    }

    pub(crate) fn number(mut self, name: &str, value: i64) -> Self {
        debug_assert!(
            named(self.script.args, self.args.len(), name),
            "{}: argument {name}",
            self.script.name
        );
        self.args.push(Value::Integer(value));
        self
    }

    /// The place that the next argument gets.
    pub(crate) fn place(&self) -> usize {
        self.args.len()
    }

    /// Puts a number where another argument was.
    pub(crate) fn set_number(&mut self, place: usize, value: i64) {
        self.args[place] = Value::Integer(value);
    }

    /// Puts something else where another argument was.
    pub(crate) fn set(&mut self, place: usize, value: Bytes) {
        self.args[place] = Value::Bytes(value);
    }

    /// Puts an argument in front of the one at `place`, which is one of those at the end that are as many as one likes.
    pub(crate) fn insert(&mut self, place: usize, value: Bytes) {
        self.args.insert(place, Value::Bytes(value));
    }

    pub(crate) fn push(&mut self, name: &str, value: Bytes) {
        debug_assert!(
            named(self.script.args, self.args.len(), name),
            "{}: argument {name}",
            self.script.name
        );
        self.args.push(Value::Bytes(value));
    }

    /// True when every key and argument that the header names has been given.
    pub(super) fn is_whole(&self) -> bool {
        let fixed = |names: &[&str]| names.iter().filter(|name| !name.ends_with("..")).count();
        self.keys.len() >= fixed(self.script.keys) && self.args.len() >= fixed(self.script.args)
    }
}

/// Whether the header calls the item at `index` by this name.
fn named(names: &[&str], index: usize, name: &str) -> bool {
    match names.get(index).or(names.last()) {
        Some(documented) if documented.ends_with("..") => documented.trim_end_matches('.') == name,
        Some(documented) => index < names.len() && *documented == name,
        None => false,
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self
            .keys
            .iter()
            .map(|key| text_of(&Value::from(key.clone())).unwrap_or("?").to_owned())
            .collect();
        write!(
            f,
            "{}({keys:?}, {} arguments)",
            self.script.name,
            self.args.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::state::{State, TRANSITIONS};

    /// The text of the script itself, without the fragments in front of it.
    fn own_text(script: &Script) -> &'static str {
        let start = script
            .source
            .find(&format!("-- {}: ", script.name))
            .expect("the header names the script");
        &script.source[start..]
    }

    fn header(script: &Script) -> Vec<&'static str> {
        own_text(script)
            .lines()
            .take_while(|line| line.starts_with("--"))
            .collect()
    }

    /// `KEYS[1] lane   what` -> `lane`; `KEYS[7..] unique  what` -> `unique..`; numbered without a gap.
    fn documented(script: &Script, list: &str) -> Vec<String> {
        let mut names = Vec::new();
        for line in header(script) {
            let Some(rest) = line.strip_prefix(&format!("-- {list}[")) else {
                continue;
            };
            let (number, rest) = rest.split_once(']').expect("a closing bracket");
            let name = rest.split_whitespace().next().expect("a name");
            assert_eq!(
                number.trim_end_matches('.').parse(),
                Ok(names.len() + 1),
                "{}: {line}",
                script.name
            );
            names.push(if number.ends_with("..") {
                format!("{name}..")
            } else {
                name.to_owned()
            });
        }
        names
    }

    #[test]
    fn headers_and_calls_name_the_same_keys_and_arguments() {
        for script in ALL {
            assert_eq!(
                documented(script, "KEYS"),
                script.keys,
                "keys of {}",
                script.name
            );
            assert_eq!(
                documented(script, "ARGV"),
                script.args,
                "arguments of {}",
                script.name
            );
        }
    }

    #[test]
    fn every_documented_key_and_argument_is_used_and_no_other() {
        for script in ALL {
            let body: String = own_text(script)
                .lines()
                .filter(|line| !line.starts_with("--"))
                .collect::<Vec<_>>()
                .join("\n");
            for (list, names) in [("KEYS", script.keys), ("ARGV", script.args)] {
                for (index, name) in names.iter().enumerate() {
                    let by_number = format!("{list}[{}]", index + 1);
                    let tail = name.ends_with("..");
                    let used = if tail {
                        body.contains(list)
                    } else {
                        body.contains(&by_number)
                    };
                    assert!(used, "{} never uses {by_number} {name}", script.name);
                }
                if names.last().is_some_and(|name| name.ends_with("..")) {
                    continue;
                }
                let beyond = format!("{list}[{}]", names.len() + 1);
                assert!(
                    !body.contains(&beyond),
                    "{} uses {beyond}, which its header does not name",
                    script.name
                );
            }
        }
    }

    #[test]
    fn headers_tell_the_transitions_of_the_state_table() {
        let state = |name: &str| match name {
            "new" | "gone" => None,
            "scheduled" => Some(State::Scheduled),
            "held" => Some(State::Held),
            "ready" => Some(State::Ready),
            "running" => Some(State::Running),
            "completed" => Some(State::Completed),
            "dead" => Some(State::Dead),
            "cancelled" => Some(State::Cancelled),
            other => panic!("unknown state {other}"),
        };
        let mut told = Vec::new();
        for script in ALL {
            let first = header(script)[0]
                .strip_prefix(&format!("-- {}: ", script.name))
                .unwrap();
            if first == "no job moves" {
                assert!(
                    TRANSITIONS
                        .iter()
                        .all(|(_, transition, _)| transition.name() != script.name)
                );
                continue;
            }
            for arrows in first.split("; ") {
                let (from, to) = arrows.split_once(" -> ").expect("from -> to");
                for from in from.split(" | ") {
                    for to in to.split(" | ") {
                        told.push((state(from), script.name, state(to)));
                    }
                }
            }
        }
        let mut table: Vec<_> = TRANSITIONS
            .iter()
            .map(|(from, how, to)| (*from, how.name(), *to))
            .collect();
        let order = |row: &(Option<State>, &str, Option<State>)| format!("{row:?}");
        told.sort_by_key(order);
        table.sort_by_key(order);
        assert_eq!(told, table);
    }

    #[test]
    fn every_file_below_lua_is_embedded() {
        let lua = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
        for folder in [lua.clone(), lua.join("lib")] {
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "lua") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    assert!(
                        ALL.iter().any(|script| script.source.contains(&text)),
                        "{path:?} is in no script"
                    );
                }
            }
        }
    }

    #[test]
    fn a_call_knows_when_it_is_whole() {
        assert!(named(&["lane", "entries.."], 0, "lane"));
        assert!(named(&["lane", "entries.."], 7, "entries"));
        assert!(!named(&["lane"], 1, "lane"));
        assert!(!named(&["lane"], 0, "dead"));
        assert!(!Call::new(&EXTEND).is_whole());
    }
}
