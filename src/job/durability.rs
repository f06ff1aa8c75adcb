//! How safely a job is stored before its enqueue returns.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};

/// Where a job is when its enqueue returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Durability {
    /// In the memory of the Redis that answered. What survives a crash is decided by its persistence settings.
    #[default]
    Memory,
    /// Also in the memory of at least this many replicas (`WAIT`).
    Replicas(u32),
    /// In the append-only file, on disk (`WAITAOF`; Redis 7.2 or Valkey 7.2, with `appendonly yes`).
    Fsync,
}

/// Most replicas that can be waited for.
pub(crate) const REPLICAS_MAX: u32 = 100;

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Replicas(count) => write!(f, "replicas:{count}"),
            Self::Fsync => f.write_str("fsync"),
        }
    }
}

impl FromStr for Durability {
    type Err = Error;

    /// Reads `memory`, `replicas:2` or `fsync`.
    fn from_str(text: &str) -> Result<Self> {
        let replicas = || {
            text.strip_prefix("replicas:")?
                .parse()
                .ok()
                .filter(|count| (1..=REPLICAS_MAX).contains(count))
        };
        match text {
            "memory" => Ok(Self::Memory),
            "fsync" => Ok(Self::Fsync),
            _ => replicas().map(Self::Replicas).ok_or_else(|| {
                let reason =
                    format!("write memory, fsync, or replicas:N with N from 1 to {REPLICAS_MAX}");
                Error::setting("durability", text.escape_debug(), reason)
            }),
        }
    }
}

impl Serialize for Durability {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_back_as_written_and_nothing_else_is_read() {
        for level in [
            Durability::Memory,
            Durability::Replicas(2),
            Durability::Fsync,
        ] {
            assert_eq!(level.to_string().parse::<Durability>().unwrap(), level);
        }
        for bad in [
            "",
            "disk",
            "replicas",
            "replicas:0",
            "replicas:-1",
            "replicas:101",
            "Memory",
        ] {
            assert!(bad.parse::<Durability>().is_err(), "{bad:?} was accepted");
        }
    }
}
