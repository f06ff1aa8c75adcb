//! What a handler tells of its job while it runs, on its way to Redis: gathered, so that one that tells much writes little.
//!
//! A job's journal is made by the first word of its handler; a job that tells nothing has none. Words are never waited for: they go
//! to Redis at most twice a second, the rest before the job is settled, and what Redis does not take is lost with the attempt.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::broker::{Author, Broker, Note};
use crate::config;
use crate::error::Error;
use crate::progress::HowFar;
use crate::redis::Patience;

/// Between two notes of a job.
const EVERY: Duration = Duration::from_millis(500);
/// How long Redis may take for one. The next carries on.
const ANSWERED_WITHIN: Patience = Patience::brief(Duration::from_secs(2));
/// How long the settlement of a job waits for its last note.
const LAST_NOTE: Duration = Duration::from_secs(1);

/// Takes journals that have something to say. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Scribe(UnboundedSender<Arc<Journal>>);

/// What one attempt tells.
#[derive(Debug)]
pub(crate) struct Journal {
    author: Author,
    scribe: Scribe,
    pages: Mutex<Pages>,
    /// One note at a time: each is known to be written, or sent again, before the next.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Pages {
    told: Option<(HowFar, String)>,
    lines: VecDeque<String>,
    /// The scribe has it.
    handed_over: bool,
    /// A note whose answer did not come. It is sent again as it was, so that it is carried out once.
    sending: Option<Note>,
    /// Of the last note.
    number: u64,
    written: Option<Instant>,
    /// Nothing more is written: the attempt is over, or the job is no longer its own.
    closed: bool,
}

impl Pages {
    fn has_more(&self) -> bool {
        !self.closed && (self.told.is_some() || !self.lines.is_empty() || self.sending.is_some())
    }

    /// The next note to be sent.
    fn next(&mut self) -> Option<Note> {
        if !self.has_more() {
            return None;
        }
        if self.sending.is_none() {
            self.number += 1;
            self.sending = Some(Note {
                number: self.number,
                told: self.told.take(),
                lines: self.lines.drain(..).collect(),
            });
        }
        self.sending.clone()
    }
}

impl Journal {
    pub(crate) fn new(author: Author, scribe: Scribe) -> Arc<Self> {
        Arc::new(Self {
            author,
            scribe,
            pages: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        })
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of what was told before.
    pub(crate) fn tell(self: &Arc<Self>, how_far: HowFar, note: &str) {
        let mut pages = self.pages();
        pages.told = Some((how_far, cut(note).to_owned()));
        self.hand_over(&mut pages);
    }

    /// Only the newest lines are kept, here as in Redis.
    pub(crate) fn log(self: &Arc<Self>, text: &str) {
        let mut pages = self.pages();
        for line in text.lines() {
            if pages.lines.len() == config::LOG_LINES_MAX {
                pages.lines.pop_front();
            }
            pages.lines.push_back(cut(line).to_owned());
        }
        self.hand_over(&mut pages);
    }

    fn hand_over(self: &Arc<Self>, pages: &mut Pages) {
        if pages.has_more() && !std::mem::replace(&mut pages.handed_over, true) {
            // Nobody takes it when the worker was given up.
            let _ = self.scribe.0.send(Arc::clone(self));
        }
    }

    /// Sends one note, if there is something to say.
    async fn write(self: &Arc<Self>, broker: &Broker, patience: Patience) {
        let _one = self.writing.lock().await;
        let note = {
            let mut pages = self.pages();
            (pages.handed_over, pages.written) = (false, Some(Instant::now()));
            pages.next()
        };
        let Some(note) = note else { return };
        let written = broker.note_progress(&self.author, &note, patience).await;
        let mut pages = self.pages();
        match written {
            Ok(()) => pages.sending = None,
            Err(Error::LeaseLost { .. }) => pages.closed = true,
            Err(error) => {
                tracing::debug!(queue = %broker.queue, job = %self.author.id, %error, "cannot note how far the job is; trying again");
            }
        }
        self.hand_over(&mut pages);
    }

    /// The attempt is over; what it told last belongs to the job, unless `is_moot`: then it would be removed at once.
    pub(crate) async fn finish(self: &Arc<Self>, broker: &Broker, is_moot: bool) {
        if !is_moot {
            let rest = async {
                // A note that is under way, or was not answered, and what came after it.
                for _ in 0..2 {
                    if self.pages().has_more() {
                        self.write(broker, ANSWERED_WITHIN).await;
                    }
                }
            };
            let _ = tokio::time::timeout(LAST_NOTE, rest).await;
        }
        self.pages().closed = true;
    }
}

/// At most 1 KiB, cut at a character.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(config::LOG_LINE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

pub(crate) fn scribe() -> (Scribe, UnboundedReceiver<Arc<Journal>>) {
    let (sender, receiver) = unbounded_channel();
    (Scribe(sender), receiver)
}

/// Writes what comes in, each journal at its pace, until it is dropped.
pub(crate) async fn write_all(broker: Broker, mut journals: UnboundedReceiver<Arc<Journal>>) {
    let mut writes = JoinSet::new();
    while let Some(journal) = journals.recv().await {
        let broker = broker.clone();
        writes.spawn(async move {
            let written = journal.pages().written;
            if let Some(written) = written {
                tokio::time::sleep_until(written + EVERY).await;
            }
            journal.write(&broker, ANSWERED_WITHIN).await;
        });
        while writes.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{EntryId, Lane};

    fn journal() -> (Arc<Journal>, UnboundedReceiver<Arc<Journal>>) {
        let author = Author {
            lane: Lane::Ready,
            entry: EntryId { ms: 1, seq: 0 },
            id: "1-0".into(),
            name: "a".to_owned(),
            attempt: 1,
        };
        let (scribe, receiver) = scribe();
        (Journal::new(author, scribe), receiver)
    }

    #[test]
    fn many_words_are_one_note_and_the_newest_lines_are_kept() {
        let (journal, mut handed) = journal();
        for n in 0..config::LOG_LINES_MAX + 50 {
            journal.log(&format!("line {n}"));
            journal.tell(HowFar::of(n as u64, 1000), "at it");
        }
        journal.log(&format!("two\n{}", "ü".repeat(config::LOG_LINE_BYTES_MAX)));

        assert!(handed.try_recv().is_ok() && handed.try_recv().is_err());
        let note = journal.pages().next().unwrap();
        assert_eq!(note.told, Some((HowFar::of(149, 1000), "at it".to_owned())));
        assert_eq!(note.lines.len(), config::LOG_LINES_MAX);
        assert_eq!(note.lines[0], "line 52");
        assert_eq!(note.lines[98], "two");
        assert_eq!(note.lines[99].len(), config::LOG_LINE_BYTES_MAX);
    }

    #[test]
    fn a_note_without_an_answer_is_sent_again_as_it_was() {
        let (journal, _handed) = journal();
        journal.log("first");
        let first = journal.pages().next();
        journal.log("second");
        assert_eq!(journal.pages().next(), first);
        journal.pages().sending = None;
        let second = journal.pages().next().unwrap();
        assert_eq!(
            (second.number, &second.lines[..]),
            (2, &["second".to_owned()][..])
        );
        journal.pages().closed = true;
        assert_eq!(journal.pages().next(), None);
    }
}
