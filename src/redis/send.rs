//! How a request is sent, and sent again until it is answered.

use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::{ClientLike as _, LuaInterface as _};
use fred::types::{ClusterHash, CustomCommand, Value};

use super::fault::{Fault, away, fault_of};
use super::script::Call;
use super::{Patience, Redis, jittered};
use crate::config;
use crate::error::{Error, Result};

/// Least time that an answer is waited for: below it nothing but luck would bring one.
pub(super) const ANSWER_MIN: Duration = Duration::from_millis(100);

/// Longest pause between two tries of a call.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Longest pause between two looks for a connection.
const AWAY_LOOK: Duration = Duration::from_millis(100);

/// What is sent, kept until it is answered.
pub(super) enum Request {
    Script(Call),
    /// A script, and a command that waits for what it wrote.
    Durable(Call, &'static str, Vec<Value>),
    Command(CustomCommand, Vec<Value>),
}

impl Redis {
    /// Sends once. `by_text`: the server does not know the script.
    async fn send(
        &self,
        request: &Request,
        by_text: bool,
    ) -> std::result::Result<Value, FredError> {
        if let (Request::Script(call), Some(direct)) = (request, &self.inner.direct) {
            let pipe = self.pipe_of(direct).await?;
            let answer = pipe.write().command(|out| call.encode(by_text, out))?;
            let frame = answer.within(config::COMMAND_TIMEOUT).await;
            return frame.map(|frame| frame.value());
        }
        if !self.inner.link.is_connected() {
            return Err(away());
        }
        let client = self.inner.link.client();
        match request {
            Request::Script(Call { script, keys, args }) if by_text => {
                Box::pin(client.eval(script.source, keys.clone(), args.clone())).await
            }
            Request::Script(Call { script, keys, args }) => {
                client
                    .evalsha(script.sha(), keys.clone(), args.clone())
                    .await
            }
            // In boxes, for these are rare and their futures large: every call would carry them about.
            Request::Durable(call, wait, numbers) => {
                Box::pin(send_durably(&client, call, by_text, wait, numbers)).await
            }
            Request::Command(command, args) => client.custom(command.clone(), args.clone()).await,
        }
    }

    /// Sends once and waits no longer than `left`, unless that is nothing: whoever has no patience asks once, with a
    /// command's time.
    async fn send_within(
        &self,
        left: Duration,
        request: &Request,
        by_text: bool,
    ) -> std::result::Result<Value, FredError> {
        let sent = self.send(request, by_text);
        // In one place: it is large, and would else be there once for each of the two ways to wait.
        tokio::pin!(sent);
        // A whole command's time, give or take what has passed since: the client's own clock tells of a dead connection.
        if left.is_zero() || left + ANSWER_MIN >= config::COMMAND_TIMEOUT {
            return sent.await;
        }
        match tokio::time::timeout(left.max(ANSWER_MIN), sent).await {
            Ok(answer) => answer,
            // Not of the kind that is counted: it was the caller who had little time. How long this goes on counts.
            Err(_) => Err(FredError::new(ErrorKind::Canceled, "no answer in time")),
        }
    }

    /// Sends until there is an answer, or `patience` ends.
    pub(super) async fn repeat(
        &self,
        operation: &'static str,
        request: &Request,
        patience: Patience,
    ) -> Result<Value> {
        let began = Instant::now();
        let (mut by_text, mut perhaps_done, mut pause) = (false, false, Duration::from_millis(10));
        loop {
            let sent_after = began.elapsed();
            let left = patience.total.saturating_sub(sent_after);
            self.inner.counted.sent();
            // On the heap: what the client keeps during a call is large, and would be in everyone who calls.
            let sent = Box::pin(self.send_within(left, request, by_text));
            let error = match sent.await {
                Ok(value) => {
                    let counted = &self.inner.counted;
                    counted.answered(began.elapsed().saturating_sub(sent_after));
                    self.silence_of(request).end();
                    return Ok(value);
                }
                Err(error) => error,
            };
            let reason = error.details().to_owned();
            let fault = fault_of(&error);
            self.inner.counted.failed(fault.name());
            let mut is_away = false;
            tracing::debug!(operation, ?fault, reason, "redis call failed");
            self.heed(&error);
            match fault {
                Fault::NoScript if !by_text => {
                    by_text = true;
                    continue;
                }
                Fault::Away => is_away = true,
                Fault::Busy | Fault::NoScript => {}
                Fault::Unknown => {
                    perhaps_done = true;
                    self.note_unanswered(request, &error, began + sent_after);
                }
                Fault::Full if patience.waits_for_room || perhaps_done => {}
                Fault::Full => return Err(Error::Refused { operation, reason }),
                Fault::NoGroup | Fault::Broken => {
                    return Err(Error::Protocol { operation, reason });
                }
            }
            if began.elapsed() + pause >= patience.total {
                let waited = began.elapsed();
                return Err(match perhaps_done {
                    true => Error::Ambiguous {
                        operation,
                        waited,
                        reason,
                    },
                    false if is_away => Error::Unreachable {
                        server: self.address().shown.clone(),
                        reason,
                    },
                    false => Error::Refused { operation, reason },
                });
            }
            tokio::time::sleep(jittered(pause)).await;
            // To see whether there is a connection again costs nothing.
            let longest = if is_away { AWAY_LOOK } else { PAUSE_MAX };
            pause = (pause * 2).min(longest);
        }
    }
}

/// Sends a script, and the command that waits for what it wrote, as one piece.
async fn send_durably(
    client: &Client,
    call: &Call,
    by_text: bool,
    wait: &'static str,
    numbers: &[Value],
) -> std::result::Result<Value, FredError> {
    let Call { script, keys, args } = call;
    let pipeline = client.pipeline();
    let (verb, body) = if by_text {
        ("EVAL", script.source)
    } else {
        ("EVALSHA", script.sha())
    };
    let mut whole = vec![Value::from(body), Value::from(keys.len().to_string())];
    whole.extend(keys.iter().cloned().map(Value::from));
    whole.extend(args.iter().cloned());
    let hash = ClusterHash::Offset(2);
    let _: () = pipeline
        .custom(CustomCommand::new(verb, hash.clone(), false), whole)
        .await?;
    let hash = keys.first().map_or(ClusterHash::Random, |key| {
        ClusterHash::Custom(key.cluster_hash())
    });
    let _: () = pipeline
        .custom(CustomCommand::new(wait, hash, false), numbers.to_vec())
        .await?;
    let mut answers = pipeline.try_all::<Value>().await;
    // The job is stored: a server that refuses to wait has confirmed nothing, and that is no failure.
    if let [Ok(_), Err(error)] = answers.as_slice()
        && matches!(fault_of(error), Fault::Broken | Fault::Full)
    {
        tracing::warn!(
            reason = error.details(),
            "redis refuses {wait}; the job is in memory"
        );
        answers[1] = Ok(Value::Integer(0));
    }
    answers
        .into_iter()
        .collect::<std::result::Result<_, _>>()
        .map(Value::Array)
}
