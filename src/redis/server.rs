//! What kind of server this is, and whether jobs are safe on it.

use fred::types::Value;

use super::{Node, Patience, Redis};
use crate::config;
use crate::error::{Error, Result};
use crate::job::durability::Durability;
use crate::redis::reply::text_of;

/// The oldest servers that are supported.
const REDIS_MIN: (u32, u32) = (7, 0);
const VALKEY_MIN: (u32, u32) = (7, 2);

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// `Redis` or `Valkey`.
    pub(crate) kind: &'static str,
    pub(crate) version: String,
    /// `None` where the server does not tell.
    pub(crate) eviction: Option<String>,
    /// Whether every write goes to the append-only file; `None` where the server does not tell.
    pub(crate) appends: Option<bool>,
}

impl Server {
    /// Asks with INFO, which servers answer that hide CONFIG.
    pub(crate) async fn ask(redis: &Redis) -> Result<Self> {
        let patience = Patience::brief(config::CONNECT_TIMEOUT_DEFAULT);
        let info = redis.command("INFO", Vec::new(), patience).await?;
        Ok(Self::read(text_of(&info).unwrap_or_default()))
    }

    fn read(info: &str) -> Self {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        let valkey = field("valkey_version");
        Self {
            kind: if valkey.is_some() { "Valkey" } else { "Redis" },
            version: valkey
                .or_else(|| field("redis_version"))
                .unwrap_or_default(),
            eviction: field("maxmemory_policy"),
            appends: field("aof_enabled").map(|aof| aof == "1"),
        }
    }

    /// Why this server cannot wait for what `durability` promises.
    async fn cannot_confirm(
        &self,
        redis: &Redis,
        durability: Durability,
    ) -> Result<Option<&'static str>> {
        if durability != Durability::Fsync {
            return Ok(None);
        }
        let patience = Patience::brief(config::CONNECT_TIMEOUT_DEFAULT);
        let known = redis
            .command("COMMAND INFO", vec!["WAITAOF".into()], patience)
            .await?;
        let known = matches!(&known, Value::Array(commands) if commands.iter().any(|command| *command != Value::Null));
        Ok(match (known, self.appends) {
            (false, _) => Some(
                "durability fsync needs WAITAOF, which Redis 7.2 and Valkey 7.2 have; use memory or replicas:N",
            ),
            (true, Some(false)) => {
                Some("durability fsync needs the append-only file; run CONFIG SET appendonly yes")
            }
            (true, _) => None,
        })
    }

    /// Why jobs would not be safe on this server.
    pub(crate) fn unfit(&self, allow_eviction: bool) -> Option<String> {
        let mut parts = self
            .version
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        let oldest = if self.kind == "Valkey" {
            VALKEY_MIN
        } else {
            REDIS_MIN
        };
        // A server that hides its version is given the benefit of the doubt: a script that fails will tell.
        if !self.version.is_empty() && version < oldest {
            return Some(format!(
                "it is {} {}, and {}.{} is the oldest that works; upgrade it",
                self.kind, self.version, oldest.0, oldest.1
            ));
        }
        match self.eviction.as_deref() {
            Some(policy) if policy != "noeviction" && !allow_eviction => Some(format!(
                "maxmemory-policy is {policy}, which drops jobs when memory is short; \
                 run CONFIG SET maxmemory-policy noeviction, or pass --allow-eviction"
            )),
            _ => None,
        }
    }
}

impl Redis {
    /// Refuses a server that would lose jobs, and says in the log what was found.
    pub(crate) async fn check_server(&self, allow_eviction: bool) -> Result<Server> {
        let server = Server::ask(self).await?;
        let shown = self.address().shown();
        if let Some(reason) = server.unfit(allow_eviction) {
            return Err(Error::Unfit {
                server: shown.to_owned(),
                reason,
            });
        }
        let (kind, version, appendonly) = (server.kind, &server.version, server.appends);
        tracing::debug!(
            server = shown,
            kind,
            version,
            eviction = server.eviction,
            appendonly,
            "connected"
        );
        Ok(server)
    }

    /// Refuses a server that cannot confirm what `durability` promises.
    pub(crate) async fn check_durability(&self, durability: Durability) -> Result<()> {
        let server = Server::ask(self).await?;
        match server.cannot_confirm(self, durability).await? {
            Some(reason) => Err(Error::Unfit {
                server: self.address().shown().to_owned(),
                reason: reason.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// The server's clock, unix ms.
    pub(crate) async fn now_ms(&self, node: &Node, patience: Patience) -> Result<u64> {
        let time = self.command_at(node, "TIME", Vec::new(), patience).await?;
        let parts: Vec<i64> = match &time {
            Value::Array(parts) => parts.iter().filter_map(super::reply::number_of).collect(),
            _ => Vec::new(),
        };
        match parts.as_slice() {
            [seconds, micros] => Ok((seconds * 1000 + micros / 1000).unsigned_abs()),
            _ => Err(Error::Protocol {
                operation: "TIME",
                reason: "two numbers were expected".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(info: &str) -> Server {
        Server::read(info)
    }

    #[test]
    fn old_and_evicting_servers_are_refused_with_the_way_out() {
        let old = server("redis_version:6.2.14\r\nmaxmemory_policy:noeviction\r\n");
        assert!(old.unfit(false).unwrap().contains("6.2.14"));
        let evicting = server("redis_version:7.0.15\r\nmaxmemory_policy:allkeys-lru\r\n");
        assert!(
            evicting
                .unfit(false)
                .unwrap()
                .contains("CONFIG SET maxmemory-policy noeviction")
        );
        assert_eq!(evicting.unfit(true), None);
    }

    #[test]
    fn supported_and_silent_servers_are_taken() {
        for info in [
            "redis_version:7.0.0\r\nmaxmemory_policy:noeviction\r\n",
            "redis_version:7.2.4\r\nvalkey_version:9.1.2\r\nmaxmemory_policy:noeviction\r\n",
            "redis_version:10.0.0\r\n",
            "",
        ] {
            assert_eq!(server(info).unfit(false), None, "{info}");
        }
        assert_eq!(server("valkey_version:9.1.2\r\n").kind, "Valkey");
    }
}
