//! SIGTERM and SIGINT: the first asks for a graceful stop, the second leaves at once. SIGHUP asks to read the secrets again.

use anyhow::Context as _;
use millstream::deliver::command::kill_all_programs;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that the first SIGTERM or SIGINT cancels. From then on a second one ends the process with 128 + its number,
/// as a shell reports it. The programs of its handlers are killed with it; the jobs that were running then are reclaimed
/// when their lease has run out.
///
/// With `stdin`, the end of stdin asks as well: whoever holds its other end is gone.
pub(crate) fn shutdown(stdin: bool) -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let token = CancellationToken::new();
    if stdin {
        let stop = token.clone();
        // A thread of its own: a read of stdin cannot be called off, and a runtime waits for its own threads.
        std::thread::spawn(move || {
            // An error, too, means that nobody is there any more.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            stop.cancel();
        });
    }
    let stop = token.clone();
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            let (name, code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
            };
            if asked {
                tracing::warn!(signal = name, "second signal: leaving at once");
                kill_all_programs();
                std::process::exit(code);
            }
            asked = true;
            tracing::info!(signal = name, "stopping; a second signal leaves at once");
            stop.cancel();
        }
    });
    Ok(token)
}

/// SIGHUPs from now on; they no longer end the process.
pub(crate) fn hangup() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("cannot listen for SIGHUP")
}
