//! What clients send to a server, as its MONITOR tells.

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Counts the commands that reach the server at `address` within `watch`. What scripts call does not count.
pub(super) async fn commands(address: &str, watch: Duration) -> anyhow::Result<u64> {
    let mut stream = TcpStream::connect(address)
        .await
        .context("cannot connect to watch the server")?;
    stream.write_all(b"MONITOR\r\n").await?;
    let mut lines = BufReader::new(stream).lines();
    let answer = lines.next_line().await?;
    anyhow::ensure!(
        answer.as_deref() == Some("+OK"),
        "the server does not let itself be watched"
    );
    let mut commands = 0;
    let count = async {
        while let Some(line) = lines.next_line().await? {
            // `+1700000000.000000 [0 127.0.0.1:4711] "PING"`, or `[0 lua]` for what a script calls.
            commands += u64::from(!line.contains("[0 lua] "));
        }
        anyhow::bail!("the server ended while it was watched")
    };
    match tokio::time::timeout(watch, count).await {
        Err(_) => Ok(commands),
        Ok(ended) => ended,
    }
}
