//! How many files and sockets the process may have open: a gateway needs one for every client.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Kept for Redis, logs, handlers and what else a process opens.
const OTHERS: u64 = 256;

/// Takes as many as the system allows (many give 1,024 until they are asked), and says so if they are too few for `connections`.
pub(crate) fn raise(connections: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHERS);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    limit.current = limit
        .maximum
        .map_or(Some(wanted), |hard| Some(hard.min(wanted)));
    // Refused only where the process is not even allowed what it is allowed.
    let raised = setrlimit(Resource::Nofile, limit);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if raised.is_err() || limit < wanted {
        tracing::warn!(
            limit,
            connections,
            "fewer files may be open than connections are allowed; raise it with ulimit -n or LimitNOFILE, or lower gateway.max_connections"
        );
    }
}
