//! The server's part of an audit: from what it says of itself to findings.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::PATIENCE;
use super::Diagnosis;
use crate::error::Result;
use crate::redis::reply::{Value, text_of};
use crate::redis::{Node, Redis};

/// Of maxmemory, or of the machine's memory where there is no limit.
const MEMORY_FULL: f64 = 0.85;
/// A replica that has not been heard of for longer is behind.
const LAG_MAX: u64 = 10;
/// Round trips that are timed; the median is told.
const PINGS: usize = 11;
const LATENCY_MAX: Duration = Duration::from_millis(5);
const CLOCK_MAX_MS: u64 = 1_000;
/// Releases with holes that faults named: first and first mended version.
const HOLES: &[(&str, Version, Version, &str)] = &[
    (
        "Redis",
        (7, 0, 0),
        (7, 0, 4),
        "CVE-2022-31144: XAUTOCLAIM overflows the heap",
    ),
    (
        "Redis",
        (7, 0, 0),
        (7, 0, 5),
        "CVE-2022-35951: XAUTOCLAIM overflows the heap",
    ),
    (
        "Redis",
        (8, 2, 0),
        (8, 2, 3),
        "CVE-2025-62507: XACKDEL runs code",
    ),
];
const BUGS: &[(&str, Version, Version, &str)] = &[(
    "Redis",
    (7, 2, 0),
    (7, 2, 5),
    "blocked reads may wait longer than asked (#13004), and scripts may fail on numbers (#13115)",
)];

type Version = (u32, u32, u32);

/// What a server says of itself, as text.
#[derive(Clone, Debug, Default)]
pub(super) struct Vitals {
    pub(super) info: String,
    /// Settings that `CONFIG GET` told; `None` where it is hidden.
    pub(super) config: Option<Vec<(String, String)>>,
    pub(super) latency: Duration,
    /// By how much the two clocks differ, ms.
    pub(super) clock_ms: u64,
}

impl Vitals {
    /// Asks one server, or one node of a cluster.
    pub(super) async fn ask(redis: &Redis, node: &Node) -> Result<Self> {
        let info = redis.command_at(node, "INFO", Vec::new(), PATIENCE).await?;
        let wanted = ["save", "appendfsync", "maxmemory-policy", "maxclients"];
        let wanted = wanted.iter().map(|name| Value::from(*name)).collect();
        // Providers hide it; that is no reason to fail.
        let config = redis.command_at(node, "CONFIG GET", wanted, PATIENCE).await;
        let config = config.ok().map(|pairs| {
            let pairs = super::super::read::list(pairs);
            let pair =
                |pair: &[Value]| Some((text_of(&pair[0])?.into(), text_of(&pair[1])?.into()));
            pairs.chunks_exact(2).filter_map(pair).collect()
        });
        let mut trips = Vec::with_capacity(PINGS);
        let mut clock_ms = u64::MAX;
        for _ in 0..PINGS {
            let asked = Instant::now();
            let theirs = redis.now_ms(node, PATIENCE).await?;
            let trip = asked.elapsed();
            let ours = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX));
            let middle = ours.saturating_sub(u64::try_from(trip.as_millis() / 2).unwrap_or(0));
            clock_ms = clock_ms.min(middle.abs_diff(theirs));
            trips.push(trip);
        }
        trips.sort();
        Ok(Self {
            info: text_of(&info).unwrap_or_default().to_owned(),
            config,
            latency: trips[PINGS / 2],
            clock_ms,
        })
    }

    fn field(&self, name: &str) -> Option<&str> {
        let line = |line: &'_ str| -> Option<usize> {
            let value = line.strip_prefix(name)?.strip_prefix(':')?;
            Some(value.len())
        };
        self.info.lines().find_map(|text| {
            let length = line(text)?;
            Some(text[text.len() - length..].trim())
        })
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    fn setting(&self, name: &str) -> Option<&str> {
        let settings = self.config.as_ref()?.iter();
        let mut named = settings.filter(|(found, _)| found == name);
        named.next().map(|(_, value)| value.as_str())
    }

    fn version(&self) -> (&'static str, Version) {
        let (kind, text) = match self.field("valkey_version") {
            Some(version) => ("Valkey", version),
            None => ("Redis", self.field("redis_version").unwrap_or_default()),
        };
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        (kind, (part(), part(), part()))
    }

    /// What there is to say.
    pub(super) fn diagnose(&self, found: &mut Diagnosis) {
        self.of_version(found);
        self.of_memory(found);
        self.of_persistence(found);
        self.of_replication(found);
        let clients = self.number("connected_clients").unwrap_or_default();
        let most = self.number("maxclients");
        let most = most.or_else(|| self.setting("maxclients")?.parse().ok());
        let refused = self.number("rejected_connections").unwrap_or_default();
        if most.is_some_and(|most| clients * 10 >= most * 9) || refused > 0 {
            let most = most.map_or("?".to_owned(), |most| most.to_string());
            found.say(
                "connections",
                format!(
                    "{clients} of {most} clients; {refused} were turned away since Redis started"
                ),
            );
        }
        if self.latency > LATENCY_MAX {
            found.say("latency", format!("a round trip takes {:?}", self.latency));
        }
        if self.clock_ms > CLOCK_MAX_MS {
            found.say("clock-difference", format!("{} ms", self.clock_ms));
        }
        let hidden = self.config.is_none() || self.field("maxmemory_policy").is_none();
        if hidden {
            found.say(
                "hidden",
                "CONFIG or parts of INFO are not offered".to_owned(),
            );
        }
    }

    fn of_version(&self, found: &mut Diagnosis) {
        let (kind, version) = self.version();
        let (major, minor, patch) = version;
        for (code, list) in [("redis-cve", HOLES), ("redis-bug", BUGS)] {
            for (whose, first, mended, what) in list {
                if *whose == kind && version >= *first && version < *mended {
                    found.say(code, format!("{kind} {major}.{minor}.{patch}: {what}"));
                }
            }
        }
    }

    fn of_memory(&self, found: &mut Diagnosis) {
        let policy = self.field("maxmemory_policy");
        let policy = policy.or_else(|| self.setting("maxmemory-policy"));
        if let Some(policy) = policy
            && policy != "noeviction"
        {
            found.say("eviction-policy", format!("maxmemory-policy is {policy}"));
        }
        if let Some(evicted) = self.number("evicted_keys").filter(|keys| *keys > 0) {
            found.say(
                "keys-evicted",
                format!("{evicted} keys since Redis started"),
            );
        }
        let limit = self.number("maxmemory").filter(|bytes| *bytes > 0);
        let all = self
            .number("total_system_memory")
            .filter(|bytes| *bytes > 0);
        let Some(used) = self.number("used_memory") else {
            return;
        };
        if let Some(most) = limit.or(all)
            && used as f64 > most as f64 * MEMORY_FULL
        {
            let percent = used * 100 / most;
            found.say(
                "memory-headroom",
                format!("{used} of {most} bytes are used, {percent} %"),
            );
        }
        if limit.is_none() {
            found.say("memory-limit", "maxmemory is not set".to_owned());
        }
    }

    fn of_persistence(&self, found: &mut Diagnosis) {
        let failed = |name: &str| self.field(name).is_some_and(|status| status != "ok");
        let mut failing = Vec::new();
        for name in [
            "rdb_last_bgsave_status",
            "aof_last_write_status",
            "aof_last_bgrewrite_status",
        ] {
            if failed(name) {
                failing.push(format!(
                    "{name} is {}",
                    self.field(name).unwrap_or_default()
                ));
            }
        }
        if !failing.is_empty() {
            found.say("persistence-failing", failing.join(", "));
        }
        if self.field("aof_enabled") != Some("0") {
            return;
        }
        match self.setting("save") {
            Some("") => found.say(
                "persistence-off",
                "appendonly is no, and save is empty".to_owned(),
            ),
            Some(save) => found.say(
                "persistence-snapshots",
                format!("appendonly is no, and save is \"{save}\""),
            ),
            None => found.say("persistence-snapshots", "appendonly is no".to_owned()),
        }
    }

    fn of_replication(&self, found: &mut Diagnosis) {
        if self.field("role") == Some("slave") {
            found.say("is-replica", "this server is a replica".to_owned());
            return;
        }
        if self.number("connected_slaves") == Some(0) {
            found.say("no-replica", "no replica is connected".to_owned());
        }
        for number in 0.. {
            let Some(replica) = self.field(&format!("slave{number}")) else {
                break;
            };
            let part = |name: &str| {
                let mut parts = replica.split(',').filter_map(|part| part.split_once('='));
                parts
                    .find(|(found, _)| *found == name)
                    .map(|(_, value)| value)
            };
            let lag: u64 = part("lag")
                .and_then(|lag| lag.parse().ok())
                .unwrap_or_default();
            let state = part("state").unwrap_or("online");
            if state != "online" || lag > LAG_MAX {
                found.say(
                    "replica-behind",
                    format!("replica {number} is {state}, last heard of {lag} s ago"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(vitals: &Vitals) -> Vec<&'static str> {
        let mut found = Diagnosis::default();
        vitals.diagnose(&mut found);
        found.findings.iter().map(|finding| finding.code).collect()
    }

    const SOUND: &str = "redis_version:7.0.15\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\nused_memory:10\r\naof_enabled:1\r\n\
        rdb_last_bgsave_status:ok\r\nrole:master\r\nconnected_slaves:1\r\nslave0:ip=h,state=online,lag=0\r\nmaxclients:100\r\n\
        connected_clients:2\r\nrejected_connections:0\r\nevicted_keys:0\r\n";

    fn vitals(change: &str, to: &str) -> Vitals {
        assert!(SOUND.contains(change), "{change}");
        Vitals {
            info: SOUND.replace(change, to),
            config: Some(vec![("save".into(), "3600 1".into())]),
            ..Vitals::default()
        }
    }

    #[test]
    fn a_sound_server_gets_no_finding() {
        assert_eq!(codes(&vitals("7.0.15", "7.0.15")), Vec::<&str>::new());
    }

    #[test]
    fn each_weakness_is_named() {
        for (change, to, code) in [
            ("7.0.15", "7.0.3", "redis-cve"),
            ("7.0.15", "8.2.2", "redis-cve"),
            ("7.0.15", "7.2.4", "redis-bug"),
            ("noeviction", "allkeys-lru", "eviction-policy"),
            ("evicted_keys:0", "evicted_keys:7", "keys-evicted"),
            ("used_memory:10", "used_memory:900", "memory-headroom"),
            ("maxmemory:1000", "maxmemory:0", "memory-limit"),
            ("aof_enabled:1", "aof_enabled:0", "persistence-snapshots"),
            (
                "bgsave_status:ok",
                "bgsave_status:err",
                "persistence-failing",
            ),
            ("role:master", "role:slave", "is-replica"),
            ("connected_slaves:1", "connected_slaves:0", "no-replica"),
            ("lag=0", "lag=60", "replica-behind"),
            ("connected_clients:2", "connected_clients:95", "connections"),
            ("maxmemory_policy:noeviction\r\n", "", "hidden"),
        ] {
            let found = codes(&vitals(change, to));
            assert!(found.contains(&code), "{to}: {found:?}");
        }
        let mut off = vitals("aof_enabled:1", "aof_enabled:0");
        off.config = Some(vec![("save".into(), String::new())]);
        assert_eq!(codes(&off), ["persistence-off"]);
        let far = Vitals {
            latency: Duration::from_millis(80),
            clock_ms: 5_000,
            ..vitals("7.0.15", "7.0.15")
        };
        assert_eq!(codes(&far), ["latency", "clock-difference"]);
        let silent = Vitals {
            config: None,
            ..vitals("7.0.15", "7.0.15")
        };
        assert_eq!(codes(&silent), ["hidden"]);
    }
}
