//! This program once more, as a process of its own: a gateway that is measured, a process of workers.

use anyhow::Context as _;
use tokio::process::{Child, Command};

use super::arena::Arena;

/// A command line of this program for the server of the bench, to be completed. What it starts is killed when it is dropped.
pub(super) fn program(arena: &Arena, subcommand: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    for (variable, _) in std::env::vars_os() {
        // The settings of whoever runs the bench are not those of what it measures.
        let bytes = variable.as_encoded_bytes();
        if bytes.starts_with(b"MILLSTREAM_") || bytes == b"RUST_LOG" {
            command.env_remove(&variable);
        }
    }
    command
        .args(subcommand)
        .env("MILLSTREAM_REDIS_URL", arena.url())
        .env("MILLSTREAM_NAMESPACE", &arena.redis.namespace)
        .kill_on_drop(true);
    if arena.redis.allow_eviction {
        command.arg("--allow-eviction");
    }
    Ok(command)
}

/// What a child has in memory, bytes; `None` where the system does not tell.
pub(super) fn resident_bytes(child: &Child) -> Option<u64> {
    let status = format!("/proc/{}/status", child.id()?);
    let status = std::fs::read_to_string(status).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}
