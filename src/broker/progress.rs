//! What handlers tell of their jobs while these run.

use bytes::Bytes;
use serde::Serialize;

use super::{Broker, Delivery, EntryId};
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::keys::{GROUP, Lane};
use crate::progress::HowFar;
use crate::redis::Patience;
use crate::redis::reply::Status;
use crate::redis::script::{self, Call};

/// The delivery whose handler tells something.
#[derive(Clone, Debug)]
pub struct Author {
    pub lane: Lane,
    pub entry: EntryId,
    pub id: JobId,
    pub name: String,
    pub attempt: u32,
}

impl Author {
    /// Of a delivery.
    pub fn of(delivery: &Delivery) -> Self {
        Self {
            lane: delivery.lane,
            entry: delivery.entry,
            id: delivery.id.clone(),
            name: delivery.name.clone(),
            attempt: delivery.attempt,
        }
    }
}

/// What it tells at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Among those of its delivery, counting up from 1.
    pub number: u64,
    /// With a few words, or none.
    pub told: Option<(HowFar, String)>,
    pub lines: Vec<String>,
}

/// What the script is told; see `lua/progress.lua`. Numbers are text, for Lua keeps 14 digits of one.
#[derive(Serialize)]
struct Told<'a> {
    done: String,
    total: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    line: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
}

impl Broker {
    /// Notes how far a running job is and what its handler logs. Carried out once, however often the same note is sent.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]: the delivery is no longer the live one; nothing was changed.
    pub async fn note_progress(
        &self,
        author: &Author,
        note: &Note,
        patience: Patience,
    ) -> Result<()> {
        let keys = &self.keys;
        let mut told = String::new();
        if let Some((how_far, words)) = &note.told {
            let (words, sealed) = self.seal.close_text(&self.queue, &author.name, words)?;
            let (done, total) = (how_far.done.to_string(), how_far.total.to_string());
            let note = &words;
            told = text(&Told {
                done,
                total,
                note,
                sealed,
            });
        }
        let mut call = Call::new(&script::PROGRESS)
            .key("lane", keys.lane(author.lane))
            .key("progress", &keys.progress)
            .key("events", &keys.events)
            .text("group", GROUP)
            .text("entry_id", &author.entry.to_string())
            .text("job_id", author.id.as_str())
            .text("name", &author.name)
            .number("attempt", author.attempt.into())
            .number("number", note.number.cast_signed())
            .text("told", &told);
        for line in &note.lines {
            let (line, sealed) = self.seal.close_text(&self.queue, &author.name, line)?;
            let line = &line;
            call.push("lines", Bytes::from(text(&Line { line, sealed })));
        }
        let reply = self.redis.call(call, patience).await?;
        match reply.status {
            Status::Stale => Err(Error::LeaseLost {
                job: author.id.clone(),
            }),
            _ => reply.done().map(drop),
        }
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain strings")
}
